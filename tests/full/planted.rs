//! Planted motifs: EPSAT at its preset settings must find them within a budget of samples, each read once.

use std::path::{Path, PathBuf};

use epi_engine::backend::cpu::Cpu;
use epi_engine::config;
use epi_engine::data::synth::{self, Background, Level, SynthOptions};
use epi_engine::data::{Dataset, Genome, demo::demo, meme};
use epi_engine::train::{RunFolder, Silent, Training, session};

const EVALUATE_EVERY: usize = 2048;

/// The genome of the shared data, where there is one; otherwise windows of the bundled set.
fn shared_genome() -> Option<PathBuf> {
    let shared = std::env::var_os("EPI_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    Some(shared.join("data/genome/GRCh37_pieces.2bit.gz")).filter(|p| p.is_file())
}

fn planted(level: Level, train: usize, seed: u64) -> Dataset {
    let options = SynthOptions { level, samples: [train, 64, 2048], seed, ..SynthOptions::default() };
    let motifs = meme::built_in();
    let contents = match shared_genome() {
        Some(path) => {
            let wanted = options.contigs.iter().flatten().cloned().collect();
            let genome = Genome::open(path, Some(&wanted)).unwrap();
            synth::generate(&options, &motifs, Background::Genome(&genome)).unwrap()
        }
        None => synth::generate(&options, &motifs, Background::Windows(&demo().unwrap())).unwrap(),
    };
    contents.into_dataset().unwrap()
}

/// Test AUROC after every [`EVALUATE_EVERY`] samples of one pass over `dataset`.
fn learning_curve(dataset: &Dataset, seed: u64) -> Vec<f64> {
    let settings = [format!("train.seed={seed}"), format!("train.evaluate_every={}", EVALUATE_EVERY / 64)];
    let config = config::load("planted", &settings).unwrap();
    let mut split = session::make_split(&config, dataset).unwrap();
    split.validation.clone_from(&split.test);
    let folder = tempfile::tempdir().unwrap();
    let run = RunFolder::create(folder.path()).unwrap();
    let backend = Cpu::new();
    Training::new(&backend, &config, dataset, &split, run, false).unwrap().run(&mut Silent).unwrap();
    let text = std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    lines.filter(|l| l["split"] == "validation").map(|l| l["auroc"].as_f64().unwrap()).collect()
}

fn curves(level: Level, train: usize) -> Vec<(u64, Vec<f64>)> {
    let show = |curve: &[f64]| curve.iter().map(|a| format!("{a:.3}")).collect::<Vec<_>>().join(" ");
    let one = |seed| {
        let curve = learning_curve(&planted(level, train, seed), seed);
        println!("{level:?} seed {seed}: test AUROC every {EVALUATE_EVERY} samples: {}", show(&curve));
        (seed, curve)
    };
    (1..=3).map(one).collect()
}

#[test]
fn additive_motifs_are_learned_within_10240_samples() {
    for (seed, curve) in curves(Level::Additive, 10_240) {
        assert!(curve.iter().any(|&auroc| auroc > 0.95), "seed {seed}: {curve:?}");
    }
}

#[test]
fn pairs_of_motifs_are_learned_within_20480_samples() {
    for (seed, curve) in curves(Level::Pair, 20_480) {
        assert!(curve.windows(2).any(|w| w[0] > 0.90 && w[1] > 0.90), "seed {seed}: {curve:?}");
    }
}
