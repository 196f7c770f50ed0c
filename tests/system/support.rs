//! A tiny data set that can be learned, a tiny model, and the program itself.

use std::path::{Path, PathBuf};
use std::process::{Command as Process, Output, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use epi_engine::data::{Contents, Element, PairTable, PairsOptions, Row, pairs};
use epi_engine::rng::Stream;

/// Lengths of the windows of [`tiny_contents`].
pub const LENGTHS: [usize; 2] = [90, 70];

/// `n` pairs on eight chromosomes; the enhancers of positives carry a motif.
pub fn tiny_contents(n: u32, seed: u64) -> Contents {
    let mut random = Stream::new(seed, 1, 0);
    let element = |i: u32| {
        let start = 10_000 + 5_000 * i64::from(i);
        Element { contig: Some(i % 8), start, end: start + 60 }
    };
    let rows: Vec<Row> =
        (0..n).map(|i| Row { enhancer: i, promoter: i, label: u8::from((i / 8) % 3 == 0), cell_line: 0 }).collect();
    let labels: Vec<u8> = rows.iter().map(|r| r.label).collect();
    let table = PairTable {
        contigs: (1..=8).map(|c| format!("chr{c}")).collect(),
        enhancers: (0..n).map(element).collect(),
        promoters: (0..n).map(element).collect(),
        cell_lines: vec!["tiny".into()],
        rows,
        columns: Default::default(),
        enhancer_length: LENGTHS[0],
        promoter_length: LENGTHS[1],
    };
    let mut contents = Contents::new(table, 10, serde_json::json!({ "made": "by a test" }));
    for (side, length) in LENGTHS.into_iter().enumerate() {
        for &label in &labels {
            let mut codes: Vec<u8> = (0..length + 20).map(|_| random.below(4) as u8).collect();
            if label == 1 && side == 0 {
                codes[40..52].copy_from_slice(&[0, 2, 2, 1, 3, 0, 3, 1, 2, 0, 1, 1]);
            }
            contents.windows[side].push(&codes);
        }
    }
    contents
}

/// The same as a file in `folder`.
pub fn tiny_file(folder: &Path, n: u32) -> PathBuf {
    let path = folder.join("tiny.epi");
    tiny_contents(n, 3).write(&path).unwrap();
    path
}

/// EPSAT with a few hundred parameters.
pub const TINY_MODEL: &[&str] = &[
    "model.kernels=8",
    "model.kernel_size=7",
    "model.pool=6",
    "model.hidden=5",
    "model.layers=2",
    "model.heads=2",
    "model.head_size=4",
    "model.readout=6",
];

/// A preset and settings that make a network of a few hundred parameters.
pub struct Tiny {
    pub preset: &'static str,
    pub settings: &'static [&'static str],
}

/// Every network, tiny.
pub const TINY: [Tiny; 5] = [
    Tiny { preset: "epsat", settings: TINY_MODEL },
    Tiny { preset: "speid", settings: TINY_SPEID },
    Tiny { preset: "eplae", settings: TINY_EPLAE },
    Tiny { preset: "eplae-vae", settings: TINY_EPLAE },
    Tiny { preset: "eplae-two-stage", settings: TINY_EPLAE },
];

/// EPLAE with a few thousand parameters.
const TINY_EPLAE: &[&str] = &["model.filters=4", "model.kernel_size=5", "model.units=6", "model.latent=5"];

/// SPEID with a few hundred parameters, in two short phases.
const TINY_SPEID: &[&str] = &[
    "model.kernels=8",
    "model.kernel_size=9",
    "model.pool=6",
    "model.hidden=3",
    "model.dense=7",
    "data.positives_times=2",
    "train.lr=0.001",
    "train.phases=[{name=\"balanced\",epochs=1},{name=\"imbalanced\",epochs=2,balance=\"none\",frozen=[\"lstm.\"]}]",
];

/// `epi-engine` with these arguments, on the CPU.
pub fn program(args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("epi-engine").unwrap();
    command.args(args);
    command
}

/// `epi-engine train` of a tiny EPSAT on `data` into `out`, on the CPU unless further settings say otherwise.
pub fn train(data: &Path, out: &Path, settings: &[&str]) -> Command {
    train_tiny(&TINY[0], data, out, settings)
}

/// As [`train`], of any tiny network.
pub fn train_tiny(tiny: &Tiny, data: &Path, out: &Path, settings: &[&str]) -> Command {
    let mut command = program(&["train", "--preset", tiny.preset, "--set", "train.device=cpu"]);
    command.arg("--data").arg(data).arg("--out").arg(out);
    for setting in tiny.settings.iter().chain(["train.batch=16", "data.shift=5"].iter()).chain(settings) {
        command.args(["--set", setting]);
    }
    command
}

/// Starts a command, waits until `ready`, ends it with `signal` (`-INT`, `-KILL`); its exit status and what it said on stderr.
pub fn stopped(command: &Command, signal: &str, ready: impl Fn() -> bool) -> Output {
    let mut child = Process::new(command.get_program())
        .args(command.get_args())
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while !ready() {
        assert!(started.elapsed() < Duration::from_secs(60), "never came so far: {command:?}");
        assert!(child.try_wait().unwrap().is_none(), "over before it could be stopped: {command:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(Process::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    child.wait_with_output().unwrap()
}

/// Reads a file of a run folder.
pub fn read(run: &Path, name: &str) -> Vec<u8> {
    std::fs::read(run.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// `metrics.jsonl` without the figures that depend on the clock.
pub fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let text = String::from_utf8(read(run, "metrics.jsonl")).unwrap();
    let parse = |line: &str| {
        let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
        value.as_object_mut().unwrap().remove("samples_per_s");
        value
    };
    text.lines().map(parse).collect()
}

/// A file of the shared data folder (`EPI_SHARED`, or `../shared` beside the repository); says so when it is not there.
pub fn shared(path: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let found = std::env::var_os("EPI_SHARED").map_or_else(beside, PathBuf::from).join("data").join(path);
    if !found.is_file() {
        eprintln!("needs shared data: {path} (set EPI_SHARED)");
        return None;
    }
    Some(found)
}

/// The 207,399 TargetFinder pairs of six cell lines, with windows of 3000 and 2000 bases.
pub fn all_pairs() -> Option<PairTable> {
    let pairs = pairs::read(shared("pairs/targetfinder_all_pairs.tsv.gz")?, &PairsOptions::default()).unwrap();
    Some(PairTable { enhancer_length: 3000, promoter_length: 2000, ..pairs.table })
}
