//! `--precision bf16` on the CPU: the course of f32, less exactly, and what reads a run goes on in its precision.

use epi_engine::backend::cpu::Isa;
use predicates::prelude::*;

use crate::support::{TINY, metrics, program, read, tiny_file, train_tiny};

#[test]
fn every_network_follows_f32_step_by_step() {
    for (tiny, rate) in TINY.iter().zip(["0.001", "0.00001", "0.001", "0.001", "0.001"]) {
        let folder = tempfile::tempdir().unwrap();
        let data = tiny_file(folder.path(), 80);
        let rate = format!("train.lr={rate}");
        let on = |precision: &str| {
            let run = folder.path().join(precision);
            let precision = format!("train.precision={precision}");
            let settings =
                ["train.epochs=2", "train.log_every=1", "train.batch=8", "train.clip=1.0", &rate, &precision];
            train_tiny(tiny, &data, &run, &settings).assert().success();
            metrics(&run).iter().map(|line| line["loss"].as_f64().unwrap()).collect::<Vec<_>>()
        };
        let (exact, rough) = (on("f32"), on("bf16"));
        assert_eq!(exact.len(), rough.len());
        assert_ne!(exact, rough, "{}: nothing was rounded", tiny.preset);
        for (step, (a, b)) in exact.iter().zip(&rough).enumerate() {
            assert!((a - b).abs() <= 2e-2, "{}, line {step}: {a} in f32, {b} in bf16", tiny.preset);
        }
    }
}

#[test]
fn a_run_is_evaluated_in_its_precision_and_says_where_that_is_slow() {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 120);
    let run = folder.path().join("run");
    let said = train_tiny(&TINY[0], &data, &run, &["train.epochs=1", "train.precision=bf16"]).assert().success();
    let log = String::from_utf8_lossy(&said.get_output().stderr).into_owned();
    assert!(log.contains("precision bf16"), "{log}");
    assert_eq!(log.contains("no avx512_bf16"), !Isa::detect().has_bf16(), "{log}");
    let path = run.to_str().unwrap();
    let evaluated = program(&["evaluate", path, "--json"]).assert().success();
    let evaluated: serde_json::Value = serde_json::from_slice(&evaluated.get_output().stdout).unwrap();
    let trained: serde_json::Value = serde_json::from_slice(&read(&run, "metrics.json")).unwrap();
    for key in ["auroc", "aupr", "brier"] {
        assert_eq!(trained[key], evaluated[key], "{key}");
    }
    // Plain loops have no bf16, and say so.
    let refused = program(&["evaluate", path, "--device", "reference"]).assert().failure();
    refused.stderr(predicate::str::contains("computes in f32 only"));
}
