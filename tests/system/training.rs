//! Training: it learns, repeats itself bit for bit, survives being killed, and stamps what leaks.

use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use epi_engine::backend::cpu::Cpu;
use epi_engine::config;
use epi_engine::data::{Dataset, EpochPlan, Sample, demo::demo};
use epi_engine::evaluate::score;
use epi_engine::metrics::Ranking;
use epi_engine::models::{Model, Network};
use epi_engine::nn::Parameters;
use epi_engine::train::{RunFolder, Silent, Training, session};
use predicates::prelude::*;

use crate::support::{TINY_MODEL, metrics, program, read, tiny_file, train};

/// Files that equal runs write alike to the last byte.
const BITS: [&str; 4] = ["best.safetensors", "last.safetensors", "state.json", "predictions.tsv"];

#[test]
fn same_seed_same_bits_with_one_and_two_threads() {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 120);
    let runs: Vec<_> = ["1", "2", "3"].iter().map(|threads| (folder.path().join(threads), threads)).collect();
    for (run, threads) in &runs {
        train(&data, run, &["train.epochs=2"]).env("RAYON_NUM_THREADS", threads).assert().success();
    }
    for name in BITS {
        for (run, threads) in &runs[1..] {
            assert!(read(&runs[0].0, name) == read(run, name), "{name} differs between 1 and {threads} threads");
        }
    }
    assert_eq!(metrics(&runs[0].0), metrics(&runs[1].0));
}

#[test]
fn another_seed_gives_other_bits() {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 120);
    let [a, b] = ["a", "b"].map(|n| folder.path().join(n));
    train(&data, &a, &["train.epochs=1"]).assert().success();
    train(&data, &b, &["train.epochs=1", "train.seed=2"]).assert().success();
    assert_ne!(read(&a, "last.safetensors"), read(&b, "last.safetensors"));
}

#[test]
fn killed_in_mid_epoch_and_resumed_gives_the_bits_of_an_unbroken_run() {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 400);
    let settings = ["train.epochs=60", "train.checkpoint_every=3", "train.patience=0", "train.log_every=2"];
    let [whole, broken] = ["whole", "broken"].map(|n| folder.path().join(n));
    train(&data, &whole, &settings).assert().success();

    let command = train(&data, &broken, &settings);
    let mut child = Process::new(command.get_program())
        .args(command.get_args())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while !broken.join("state.json").exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "no checkpoint appeared");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!broken.join("metrics.json").exists(), "the run was over before it could be killed");
    program(&["train", "--resume", broken.to_str().unwrap()]).assert().success();
    for name in BITS {
        assert!(read(&whole, name) == read(&broken, name), "{name} differs after SIGKILL and --resume");
    }
    assert_eq!(metrics(&whole), metrics(&broken));
    // What is over stays over: resuming again only scores again.
    program(&["train", "--resume", broken.to_str().unwrap()]).assert().success();
    assert_eq!(read(&whole, "state.json"), read(&broken, "state.json"));
}

#[cfg(unix)]
#[test]
fn an_interrupt_saves_and_exits_with_the_way_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 400);
    let run = folder.path().join("run");
    let command = train(&data, &run, &["train.epochs=10000", "train.patience=0"]);
    let child = Process::new(command.get_program())
        .args(command.get_args())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while !run.join("metrics.jsonl").exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "training did not begin");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(Process::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("saved at step") && said.contains("--resume"), "{said}");
    assert!(run.join("state.json").exists());
}

/// 32 interacting and 32 other pairs of the bundled real set.
fn real_pairs(dataset: &Dataset) -> Vec<Sample> {
    let rows =
        |label: u8| (0..dataset.len()).filter(move |&r| dataset.table().rows[r].label == label).step_by(20).take(32);
    rows(0).chain(rows(1)).map(|row| dataset.table().sample(row)).collect()
}

#[test]
fn overfits_64_real_pairs() {
    let dataset = demo().unwrap();
    let pairs = real_pairs(&dataset);
    let folder = tempfile::tempdir().unwrap();
    let small =
        ["model.kernels=16", "model.hidden=8", "model.layers=1", "model.heads=2", "model.head_size=8", "model.pool=20"];
    let more =
        ["model.readout=16", "train.epochs=200", "train.batch=32", "train.lr=0.01", "train.patience=0", "data.shift=0"];
    let plain = [
        "data.reverse_complement=false",
        "model.dropout_conv=0.0",
        "model.dropout_lstm=0.0",
        "model.dropout_attention=0.0",
    ];
    let settings: Vec<String> = small.iter().chain(&more).chain(&plain).map(|s| s.to_string()).collect();
    let config = config::load("epsat", &settings).unwrap();
    let mut split = session::make_split(&config, &dataset).unwrap();
    split.train.clone_from(&pairs);
    split.validation.clear();
    let folder = RunFolder::create(folder.path()).unwrap();
    let backend = Cpu::new();
    let mut training = Training::new(&backend, &config, &dataset, &split, folder, false).unwrap();
    training.run(&mut Silent).unwrap();
    let scores = training.score(&EpochPlan::evaluation(&pairs, 64), "train", &mut Silent).unwrap();
    let labels: Vec<u8> = pairs.iter().map(|s| s.label).collect();
    let values: Vec<f64> = scores.probabilities.iter().map(|&p| p.into()).collect();
    let auroc = Ranking::ungrouped(&labels, &values, 0.5).scores().auroc.unwrap();
    assert!(auroc > 0.99, "AUROC on its own training pairs: {auroc}");
}

#[test]
fn a_score_does_not_depend_on_batch_mates() {
    let dataset = demo().unwrap();
    let pairs = real_pairs(&dataset);
    let settings: Vec<String> = TINY_MODEL.iter().map(|s| s.to_string()).collect();
    let config = config::load("epsat", &settings).unwrap();
    let backend = Cpu::new();
    let model = Network::new(&config.model, [dataset.enhancer_length(), dataset.promoter_length()]);
    let parameters = Parameters::new(&backend, model.specs(), 1).unwrap();
    let scores = |pairs: &[Sample], batch: usize| {
        let plan = EpochPlan::evaluation(pairs, batch);
        score(&backend, &model, &parameters, &dataset, &plan, None, &mut |_| {}).unwrap().probabilities
    };
    let mut reversed = pairs.clone();
    reversed.reverse();
    let (one, mut other) = (scores(&pairs, 8), scores(&reversed, 8));
    other.reverse();
    assert_eq!(one, other, "same batch size, other mates: same bits");
    for (a, b) in one.iter().zip(scores(&pairs, 7)) {
        assert!((a - b).abs() <= 1e-6, "another batch size: {a} was {b}");
    }
}

#[test]
fn a_loss_that_is_no_number_stops_with_the_last_good_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 120);
    let run = folder.path().join("run");
    let settings = ["train.lr=1e30", "train.epochs=50", "train.log_every=1", "train.checkpoint_every=1"];
    let said = predicate::str::contains("the loss of step").and(predicate::str::contains("train.clip=1"));
    train(&data, &run, &settings).assert().code(1).stderr(said);
    assert!(!run.join("metrics.json").exists());
}

#[test]
fn a_leaky_split_is_stamped_on_everything_the_run_writes() {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 120);
    let run = folder.path().join("run");
    let out = train(&data, &run, &["train.epochs=1", "split.kind=random"]).assert().success().get_output().clone();
    assert!(String::from_utf8_lossy(&out.stderr).contains("LEAKY"));
    assert!(String::from_utf8_lossy(&out.stdout).contains("LEAKY"));
    for name in ["metrics.json", "metrics.jsonl", "predictions.tsv", "state.json", "log.txt"] {
        assert!(String::from_utf8_lossy(&read(&run, name)).contains("LEAKY"), "{name} does not say LEAKY");
    }
    let sound = folder.path().join("sound");
    train(&data, &sound, &["train.epochs=1"]).assert().success();
    for name in ["metrics.json", "metrics.jsonl", "predictions.tsv", "state.json", "log.txt"] {
        assert!(!String::from_utf8_lossy(&read(&sound, name)).contains("LEAKY"), "{name} says LEAKY");
    }
}

#[test]
fn all_folds_give_one_out_of_fold_score_for_every_pair() {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 120);
    let run = folder.path().join("run");
    let mut command = train(&data, &run, &["train.epochs=1", "split.folds=3"]);
    command.args(["--fold", "all"]).assert().success();
    let predictions = String::from_utf8(read(&run, "predictions.tsv")).unwrap();
    let mut rows: Vec<u32> =
        predictions.lines().skip(1).map(|l| l.split('\t').next().unwrap().parse().unwrap()).collect();
    rows.sort_unstable();
    assert_eq!(rows, (0..120).collect::<Vec<_>>());
    assert!((0..3).all(|i| run.join(format!("fold-{i}/metrics.json")).exists()));
}

#[test]
fn epsat_paper_runs_with_its_documented_quirks() {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 120);
    let run = folder.path().join("run");
    let mut command = program(&["train", "--preset", "epsat-paper", "--device", "cpu", "--json"]);
    command.arg("--data").arg(&data).arg("--out").arg(&run);
    for setting in TINY_MODEL.iter().chain(&["train.epochs=1", "train.batch=16"]) {
        command.args(["--set", setting]);
    }
    let out = command.assert().success().get_output().stdout.clone();
    let report: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(report["leaky"], true);
    assert!(report["macro_f1_per_batch"]["value"].is_number(), "{report}");
}
