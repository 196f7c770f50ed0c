//! Training: it learns, repeats itself bit for bit, survives being killed, and stamps what leaks.

use std::path::Path;

use epi_engine::autograd::Tape;
use epi_engine::backend::Backend;
use epi_engine::backend::cpu::Cpu;
use epi_engine::backend::device;
use epi_engine::config;
use epi_engine::data::batch::Batch;
use epi_engine::data::{Dataset, EpochPlan, Sample, demo::demo};
use epi_engine::evaluate::score;
use epi_engine::metrics::Ranking;
use epi_engine::models::{DeviceBatch, Model, Network};
use epi_engine::nn::Parameters;
use epi_engine::train::{RunFolder, Silent, Training, session};
use predicates::prelude::*;
use serde_json::Value;

use crate::support::{TINY, TINY_MODEL, Tiny, metrics, program, read, stopped, tiny_file, train, train_tiny};

/// Files that equal runs write alike to the last byte.
const BITS: [&str; 4] = ["best.safetensors", "last.safetensors", "state.json", "predictions.tsv"];

#[test]
fn same_seed_same_bits_with_one_and_two_threads() {
    for tiny in &TINY {
        let folder = tempfile::tempdir().unwrap();
        let data = tiny_file(folder.path(), 120);
        let runs: Vec<_> = ["1", "2", "3"].iter().map(|threads| (folder.path().join(threads), threads)).collect();
        for (run, threads) in &runs {
            let mut command = train_tiny(tiny, &data, run, &["train.epochs=2"]);
            command.env("RAYON_NUM_THREADS", threads).assert().success();
        }
        for name in BITS {
            for (run, threads) in &runs[1..] {
                let same = read(&runs[0].0, name) == read(run, name);
                assert!(same, "{}: {name} differs between 1 and {threads} threads", tiny.preset);
            }
        }
        assert_eq!(metrics(&runs[0].0), metrics(&runs[1].0));
    }
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
fn folds_that_train_at_the_same_time_give_the_bits_of_folds_that_train_one_after_the_other() {
    let settings = ["split.folds=4", "train.epochs=2", "train.patience=1"];
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 120);
    let runs = ["1", "2", "3"].map(|at_once| (folder.path().join(at_once), at_once));
    for (run, at_once) in &runs {
        let mut command = train_tiny(&TINY[1], &data, run, &settings);
        // More threads than models, as many, and fewer: shares of three, one or two, one.
        let said =
            command.args(["--fold", "all", "--at-once", at_once]).env("RAYON_NUM_THREADS", "3").assert().success();
        said.stderr(predicate::str::contains(format!("4 folds, {at_once} at a time")));
    }
    let pooled = |run: &Path| -> Value { serde_json::from_slice(&read(run, "metrics.json")).unwrap() };
    let (alone, whole) = (&runs[0].0, pooled(&runs[0].0));
    for (run, at_once) in &runs[1..] {
        for fold in (0..4).map(|i| format!("fold-{i}")) {
            for name in BITS {
                let same = read(&alone.join(&fold), name) == read(&run.join(&fold), name);
                assert!(same, "{fold}: {name} differs between 1 and {at_once} at once");
            }
            assert_eq!(metrics(&alone.join(&fold)), metrics(&run.join(&fold)));
        }
        assert_eq!(read(alone, "predictions.tsv"), read(run, "predictions.tsv"));
        assert_eq!(whole["aupr"], pooled(run)["aupr"]);
        let training = &pooled(run)["training"];
        assert_eq!(training["samples"], whole["training"]["samples"]);
        assert_eq!(training["at_once"].to_string(), *at_once);
        assert!(training["samples_per_s"].as_f64().unwrap() > 0.0);
    }
    // What is over is only scored again, and by itself each fold tells how far it came.
    program(&["train", "--resume", alone.to_str().unwrap(), "--at-once", "4"]).assert().success();
    assert_eq!(read(alone, "predictions.tsv"), read(&runs[1].0, "predictions.tsv"));
}

#[cfg(unix)]
#[test]
fn an_interrupt_saves_every_fold_that_trains() {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 120);
    let run = folder.path().join("run");
    let mut command = train(&data, &run, &["split.folds=3", "train.epochs=10000", "train.patience=0"]);
    command.args(["--fold", "all", "--at-once", "2"]);
    let output = stopped(&command, "-INT", || {
        ["fold-0", "fold-1"].iter().all(|fold| run.join(fold).join("metrics.jsonl").exists())
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("saved in fold 0 of 3") && said.contains("--resume"), "{said}");
    assert!(["fold-0", "fold-1"].iter().all(|fold| run.join(fold).join("state.json").exists()));
    assert!(!run.join("fold-2").exists());
}

#[test]
fn several_at_once_need_several() {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 120);
    for (more, words) in [(["--at-once", "2"], "--fold all"), (["--at-once", "0"], "at least one model")] {
        let run = folder.path().join("run");
        train(&data, &run, &[]).args(more).assert().code(2).stderr(predicate::str::contains(words));
        assert!(!run.exists());
    }
}

/// Trains whole, and again killed as soon as `state.json` contains `sign` and resumed: both must leave the same bits.
fn killed_and_resumed(tiny: &Tiny, settings: &[&str], sign: &str) {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 400);
    let [whole, broken] = ["whole", "broken"].map(|n| folder.path().join(n));
    train_tiny(tiny, &data, &whole, settings).assert().success();

    let command = train_tiny(tiny, &data, &broken, settings);
    stopped(&command, "-KILL", || {
        std::fs::read_to_string(broken.join("state.json")).is_ok_and(|state| state.contains(sign))
    });
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

const OFTEN: [&str; 3] = ["train.checkpoint_every=3", "train.patience=0", "train.log_every=2"];

#[test]
fn killed_in_mid_epoch_and_resumed_gives_the_bits_of_an_unbroken_run() {
    killed_and_resumed(&TINY[0], &[&OFTEN[..], &["train.epochs=60"]].concat(), "\"version\"");
}

#[test]
fn killed_in_the_second_phase_and_resumed_gives_the_bits_of_an_unbroken_run() {
    let phases = "train.phases=[{name=\"a\",epochs=2,patience=1,lr=0.01},\
        {name=\"b\",epochs=60,balance=\"none\",frozen=[\"lstm.\",\"enhancer_conv.\"],l2=0.001},{name=\"c\",max_steps=7}]";
    killed_and_resumed(&TINY[1], &[&OFTEN[..], &[phases, "train.epochs=60"]].concat(), "\"phase\": 1");
}

#[test]
fn a_phase_starts_from_the_best_of_the_one_before_and_keeps_what_is_frozen() {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 120);
    let [first, both] = ["first", "both"].map(|n| folder.path().join(n));
    let train = |run: &Path, phases: &str| {
        let phases = format!("train.phases=[{phases}]");
        train_tiny(&TINY[1], &data, run, &[&phases, "train.log_every=1"]).assert().success();
    };
    train(&first, "{name=\"a\",epochs=2}");
    train(&both, "{name=\"a\",epochs=2},{name=\"b\",epochs=1,balance=\"none\",frozen=[\"lstm.\",\"enhancer_conv.\"]}");
    let [before, after] =
        [(&first, "best.safetensors"), (&both, "last.safetensors")].map(|(run, name)| read(run, name));
    let [before, after] = [&before, &after].map(|bytes| safetensors::SafeTensors::deserialize(bytes).unwrap());
    for name in before.names() {
        let kept = before.tensor(name).unwrap().data() == after.tensor(name).unwrap().data();
        let frozen = name.starts_with("lstm.") || name.starts_with("enhancer_conv.");
        assert!(kept == frozen, "{name} was {}", if kept { "kept" } else { "changed" });
    }
    // Every line says which phase it is of; the steps go on, the list of the second is shorter.
    let lines = metrics(&both);
    let of = |phase: &str| lines.iter().filter(|l| l["phase"] == phase && l["split"] == "train").count();
    assert_eq!(of("a") + of("b"), lines.iter().filter(|l| l["split"] == "train").count());
    assert!(of("a") > 2 * of("b") && of("b") > 0, "{} and {} steps", of("a"), of("b"));
}

#[cfg(unix)]
#[test]
fn an_interrupt_saves_and_exits_with_the_way_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 400);
    let run = folder.path().join("run");
    let command = train(&data, &run, &["train.epochs=10000", "train.patience=0"]);
    let output = stopped(&command, "-INT", || run.join("metrics.jsonl").exists());
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

/// Trains `preset` with these settings on 64 real pairs, without dropout or augmentation, and expects them to be learned.
fn overfits(preset: &str, settings: &[&str]) {
    let dataset = demo().unwrap();
    let pairs = real_pairs(&dataset);
    let folder = tempfile::tempdir().unwrap();
    let common = [
        "train.epochs=200",
        "train.batch=32",
        "train.lr=0.01",
        "train.patience=0",
        "data.balance=weights",
        "data.shift=0",
        "data.reverse_complement=false",
    ];
    let settings: Vec<String> = common.iter().chain(settings).map(|s| s.to_string()).collect();
    let config = config::load(preset, &settings).unwrap();
    let mut split = session::make_split(&config, &dataset).unwrap();
    split.train.clone_from(&pairs);
    split.validation.clear();
    let folder = RunFolder::create(folder.path()).unwrap();
    let backend = Cpu::new().with_precision(device::precision(&config.train.precision).unwrap());
    let mut training = Training::new(&backend, &config, &dataset, &split, folder, false).unwrap();
    training.run(&mut Silent).unwrap();
    let scores = training.score(&EpochPlan::evaluation(&pairs, 64), "train", &mut Silent).unwrap();
    let labels: Vec<u8> = pairs.iter().map(|s| s.label).collect();
    let values: Vec<f64> = scores.probabilities.iter().map(|&p| p.into()).collect();
    let auroc = Ranking::ungrouped(&labels, &values, 0.5).scores().auroc.unwrap();
    assert!(auroc > 0.99, "{preset}: AUROC on its own training pairs: {auroc}");
}

/// Small layers that EPSAT and SPEID have in common, without their dropout.
const SMALL: [&str; 5] =
    ["model.kernels=16", "model.hidden=8", "model.pool=20", "model.dropout_conv=0.0", "model.dropout_lstm=0.0"];

#[test]
fn epsat_overfits_64_real_pairs() {
    let small = ["model.layers=1", "model.heads=2", "model.head_size=8", "model.readout=16"];
    for precision in ["train.precision=f32", "train.precision=bf16"] {
        overfits("epsat", &[&SMALL[..], &small, &["model.dropout_attention=0.0", precision]].concat());
    }
}

#[test]
fn eplae_overfits_64_real_pairs() {
    let small = ["model.filters=8", "model.kernel_size=9", "model.units=16", "model.latent=16", "train.lr=0.003"];
    overfits("eplae", &small);
    overfits("eplae", &[&small[..], &["train.precision=bf16"]].concat());
    overfits("eplae-vae", &[&small[..], &["model.beta=0.001"]].concat());
}

#[test]
fn an_autoencoder_learns_to_give_back_its_sequences() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("motifs.epi");
    // No validation part: what is kept is the end of training, not the best on sequences it has not seen.
    let sizes = ["--train", "64", "--validation", "0", "--test", "16", "--copies", "1"];
    let lengths = ["--enhancer-length", "90", "--promoter-length", "60", "--out", data.to_str().unwrap()];
    program(&[&["synth"], &sizes[..], &lengths].concat()).assert().success();
    let run = folder.path().join("run");
    let settings =
        ["model.filters=16", "model.units=128", "model.latent=128", "model.reconstruction=sum", "train.lr=0.003"];
    let more = ["train.epochs=60", "data.shift=0", "data.reverse_complement=false", "split.kind=column:split"];
    train_tiny(&TINY[2], &data, &run, &[&settings[..], &more].concat()).assert().success();
    let run = run.to_str().unwrap();
    let out = program(&["evaluate", run, "--device", "cpu", "--part", "train", "--json"]).output().unwrap().stdout;
    let report: serde_json::Value = serde_json::from_slice(&out).unwrap();
    for element in ["enhancer", "promoter"] {
        let accuracy = report["reconstruction"][element]["base_accuracy"].as_f64().unwrap();
        // Guessing is right in one base of four.
        assert!(accuracy > 0.5, "{element}: {accuracy} of the bases, {}", report["reconstruction"]);
    }
    let said = program(&["evaluate", run, "--device", "cpu"]).output().unwrap().stdout;
    assert!(String::from_utf8_lossy(&said).contains("bases right"));
}

#[test]
fn the_head_of_a_two_stage_run_leaves_the_autoencoder_alone() {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 120);
    let run = folder.path().join("run");
    train_tiny(&TINY[4], &data, &run, &["train.epochs=2", "train.log_every=1"]).assert().success();
    let lines = metrics(&run);
    let of = |phase: &str, split: &str| -> Vec<_> {
        lines.iter().filter(|l| l["phase"] == phase && l["split"] == split).collect()
    };
    let quality: Vec<_> = of("head", "validation").into_iter().map(|l| &l["base_accuracy_enhancer"]).collect();
    assert!(quality.len() == 2 && quality[0] == quality[1] && quality[0].is_number(), "{quality:?}");
    // The classifier's loss alone, and the reconstruction's alone, near what guessing gives.
    let first = |phase: &str| of(phase, "train")[0]["loss"].as_f64().unwrap();
    assert!((0.4..1.2).contains(&first("head")), "{}", first("head"));
    assert!((0.1..0.4).contains(&first("autoencoder")), "{}", first("autoencoder"));
}

#[test]
fn speid_overfits_64_real_pairs() {
    overfits("speid", &[&SMALL[..], &["model.dense=16", "model.dropout_dense=0.0", "train.phases=[]"]].concat());
}

/// A tiny network with fresh parameters for `dataset`.
fn fresh(tiny: &Tiny, backend: &Cpu, dataset: &Dataset) -> (Network, Parameters<Cpu>) {
    let settings: Vec<String> = tiny.settings.iter().map(|s| s.to_string()).collect();
    let model = Network::new(&config::load(tiny.preset, &settings).unwrap().model);
    let specs = model.specs(dataset.enhancer_length(), dataset.promoter_length());
    let parameters = Parameters::new(backend, specs, 1).unwrap();
    (model, parameters)
}

#[test]
fn a_score_does_not_depend_on_batch_mates() {
    let (dataset, backend) = (demo().unwrap(), Cpu::new());
    let pairs = real_pairs(&dataset);
    for tiny in &TINY {
        let (model, parameters) = fresh(tiny, &backend, &dataset);
        let scores = |pairs: &[Sample], batch: usize| {
            let plan = EpochPlan::evaluation(pairs, batch);
            score(&backend, &model, &parameters, &dataset, &plan, None, &mut |_| {}).unwrap().probabilities
        };
        let mut reversed = pairs.clone();
        reversed.reverse();
        let (one, mut other) = (scores(&pairs, 8), scores(&reversed, 8));
        other.reverse();
        assert_eq!(one, other, "{}: same batch size, other mates: same bits", tiny.preset);
        for batch in [7, 1] {
            for (a, b) in one.iter().zip(scores(&pairs, batch)) {
                assert!((a - b).abs() <= 1e-6, "{}: in batches of {batch}: {a} was {b}", tiny.preset);
            }
        }
    }
}

#[test]
fn backward_in_evaluation_mode_reaches_every_parameter() {
    let (dataset, backend) = (demo().unwrap(), Cpu::new());
    let plan = EpochPlan::evaluation(&real_pairs(&dataset), 16);
    let mut batch = Batch::new();
    plan.fill(&dataset, 0, 0, &mut batch);
    for tiny in &TINY {
        let (model, mut parameters) = fresh(tiny, &backend, &dataset);
        let statistics = backend.to_f32(parameters.statistics()).unwrap();
        let step = backend.new_step().unwrap();
        let mut tape = Tape::evaluation_with_gradients(&backend, &step);
        let bound = parameters.bind(&tape).unwrap();
        let upload = DeviceBatch::upload(&backend, &batch.enhancer, &batch.promoter, &batch.labels, &batch.weights);
        let output = model.forward(&mut tape, &bound, &upload.unwrap()).unwrap();
        tape.backward(&output.loss, backend.from_f32(&[1.0], &[1]).unwrap()).unwrap();
        for spec in parameters.specs().iter().filter(|s| s.trainable) {
            let gradient = backend.to_f32(&parameters.gradient(&spec.name).unwrap().unwrap()).unwrap();
            let name = format!("{}: {}", tiny.preset, spec.name);
            assert!(gradient.iter().all(|g| g.is_finite()) && gradient.iter().any(|&g| g != 0.0), "{name}");
        }
        assert_eq!(statistics, backend.to_f32(parameters.statistics()).unwrap(), "{}", tiny.preset);
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

/// What a person or a program reads of a run.
const LEAKY_FILES: [&str; 6] =
    ["metrics.json", "metrics.jsonl", "predictions.tsv", "state.json", "log.txt", "events.out.tfevents.epi-engine"];

#[test]
fn a_leaky_split_is_stamped_on_everything_the_run_writes() {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 120);
    let run = folder.path().join("run");
    let out = train(&data, &run, &["train.epochs=1", "split.kind=random"]).assert().success().get_output().clone();
    assert!(String::from_utf8_lossy(&out.stderr).contains("LEAKY"));
    assert!(String::from_utf8_lossy(&out.stdout).contains("LEAKY"));
    for name in LEAKY_FILES {
        assert!(String::from_utf8_lossy(&read(&run, name)).contains("LEAKY"), "{name} does not say LEAKY");
    }
    let sound = folder.path().join("sound");
    train(&data, &sound, &["train.epochs=1"]).assert().success();
    for name in LEAKY_FILES {
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

#[cfg(unix)]
#[test]
fn an_interrupt_of_all_folds_names_the_folder_that_goes_on_with_all() {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 400);
    let run = folder.path().join("run");
    let mut command = train(&data, &run, &["train.epochs=10000", "train.patience=0", "split.folds=3"]);
    command.args(["--fold", "all"]);
    let output = stopped(&command, "-INT", || run.join("fold-0/metrics.jsonl").exists());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("fold 0 of 3") && said.ends_with(&format!("--resume {}\n", run.display())), "{said}");
}

#[test]
fn all_folds_are_resumed_even_if_none_had_begun() {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 120);
    let run = folder.path().join("run");
    let mut command = train(&data, &run, &["train.epochs=1", "split.folds=3"]);
    command.args(["--fold", "all"]).assert().success();
    // As a kill right after the first lines leaves it.
    for fold in 0..3 {
        std::fs::remove_dir_all(run.join(format!("fold-{fold}"))).unwrap();
    }
    std::fs::create_dir(run.join("fold-0")).unwrap();
    let whole = read(&run, "predictions.tsv");
    std::fs::remove_file(run.join("predictions.tsv")).unwrap();
    program(&["train", "--resume", run.to_str().unwrap()]).assert().success();
    assert!(whole == read(&run, "predictions.tsv"));
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
