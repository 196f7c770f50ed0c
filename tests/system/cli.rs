//! The command line: what it prints, how it fails.

use predicates::prelude::*;
use predicates::str::contains;

use crate::support::{TINY, Tiny, program, read, tiny_file, train, train_tiny};

fn json(args: &[&str]) -> serde_json::Value {
    let out = program(args).arg("--json").assert().success().get_output().stdout.clone();
    serde_json::from_slice(&out).unwrap_or_else(|e| panic!("{args:?} --json: {e}"))
}

#[test]
fn summary_gives_the_published_parameter_counts() {
    let summary = json(&["summary", "epsat"]);
    assert_eq!(summary["parameters"], 685_070);
    assert_eq!(summary["parameters_total"], 685_070 + 4 * 200);
    assert_eq!(json(&["summary", "epsat-paper"])["parameters"], 685_070);
    program(&["summary", "epsat"]).assert().success().stdout(contains("685,070"));
    let speid = json(&["summary", "speid"]);
    assert_eq!((&speid["parameters"], &speid["parameters_total"]), (&19_848_603.into(), &19_850_805.into()));
    let parts: u64 = speid["parameters_by_part"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(parts, 19_848_603);
    let eplae = json(&["summary", "eplae"]);
    assert_eq!(eplae["parameters"], 171_398_410);
    let parts = serde_json::json!({ "encoder": 85_619_200, "decoder": 85_778_184, "head": 1_026 });
    assert_eq!(eplae["parameters_by_part"], parts);
}

#[test]
fn every_command_has_help_with_an_example() {
    let data = ["prepare", "inspect", "export", "features", "synth", "audit"];
    for command in ["train", "evaluate", "predict", "compare", "study", "summary", "bench", "info"].iter().chain(&data)
    {
        program(&[command, "--help"]).assert().success().stdout(contains("Example"));
    }
}

#[test]
fn info_names_the_processor_and_the_commit() {
    let info = json(&["info"]);
    assert!(info["version"].is_string() && info["commit"].is_string() && info["cpu"]["threads"].is_number(), "{info}");
}

#[test]
fn print_config_shows_what_a_preset_and_settings_make() {
    let args = ["train", "--preset", "epsat", "--set", "train.lr=0.5", "--print-config"];
    program(&args).assert().success().stdout(contains("lr = 0.5").and(contains("name = \"epsat\"")));
}

#[test]
fn usage_errors_exit_2_and_name_option_and_remedy() {
    for (args, words) in [
        (vec!["train", "--set", "train.lr=-1"], vec!["train.lr", "positive"]),
        (vec!["train", "--set", "train.speed=1"], vec!["speed"]),
        (vec!["train", "--preset", "nonsense"], vec!["nonsense", "epsat"]),
        (vec!["train", "--device", "tpu"], vec!["tpu", "cuda:N"]),
        (vec!["train", "--fold", "9"], vec!["--fold", "I/K"]),
        (vec!["bench", "step", "--batch", "0"], vec!["--batch", "at least 1"]),
        (vec!["train", "--split", "nothing"], vec!["nothing", "chromosome"]),
        (vec!["train", "--set", "train.phases=[{name=\"a\",frozen=[\"conv9\"]}]"], vec!["conv9", "fc3.weight"]),
        (vec!["train", "--set", "train.phases=[{name=\"a\"},{name=\"a\"}]"], vec!["`a`", "name of its own"]),
        (vec!["train", "--set", "train.phases=[{name=\"a\",objective=\"reconstruction\"}]"], vec!["epsat", "full"]),
        (vec!["nonsense"], vec!["nonsense"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let out = program(&args).current_dir(&folder).assert().code(2).get_output().clone();
        let said = String::from_utf8_lossy(&out.stderr).to_string();
        assert!(words.iter().all(|w| said.contains(w)), "{args:?}: {said}");
        assert_eq!(folder.path().read_dir().unwrap().count(), 0, "{args:?} left something behind");
    }
}

#[test]
fn missing_and_foreign_files_exit_1_and_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let foreign = folder.path().join("foreign.epi");
    std::fs::write(&foreign, b"not a data set at all").unwrap();
    let run = folder.path().join("run");
    train(&foreign, &run, &[]).assert().code(1).stderr(contains("foreign.epi"));
    train(&folder.path().join("absent.epi"), &run, &[]).assert().code(1).stderr(contains("absent.epi"));
    program(&["evaluate", folder.path().to_str().unwrap()]).assert().code(1).stderr(contains("config.toml"));
    assert!(!run.exists(), "a run that could not begin left a folder");
}

#[test]
fn filters_start_from_motifs_and_a_bad_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (data, run) = (tiny_file(folder.path(), 60), folder.path().join("run"));
    let motifs = folder.path().join("two.meme");
    let with = |run: &std::path::Path, lr: &str| {
        let setting = format!("model.motifs={}", motifs.display());
        train_tiny(&TINY[1], &data, run, &[&setting, lr, "train.max_steps=1"])
    };
    std::fs::write(&motifs, "MOTIF a\nletter-probability matrix: alength= 4 w= 2\n1 0 0 0\n0.5 0.5 0\n").unwrap();
    with(&run, "train.lr=1").assert().code(1).stderr(contains("two.meme").and(contains("four probabilities")));
    assert!(!run.exists(), "a run that could not begin left a folder");
    std::fs::write(&motifs, "MOTIF a\nletter-probability matrix: alength= 4 w= 1\n1 0 0 0\n").unwrap();
    with(&run, "train.lr=1e-12").assert().success();
    let bytes = read(&run, "last.safetensors");
    let filters = safetensors::SafeTensors::deserialize(&bytes).unwrap().tensor("promoter_conv.weight").unwrap().data();
    let first = |base: usize| f32::from_le_bytes(filters[4 * (base * 9 + 4)..][..4].try_into().unwrap());
    assert_eq!([0, 1, 2, 3].map(first), [0.75, -0.25, -0.25, -0.25], "the middle of the first of 9 taps");
}

#[test]
fn a_run_folder_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 120);
    let run = folder.path().join("run");
    train(&data, &run, &["train.epochs=1"]).assert().success();
    let before = read(&run, "last.safetensors");
    train(&data, &run, &["train.epochs=1", "train.seed=9"]).assert().code(2).stderr(contains("--resume"));
    assert_eq!(before, read(&run, "last.safetensors"));
}

#[test]
fn evaluate_and_predict_repeat_the_scores_of_training() {
    TINY.iter().for_each(repeats_its_scores);
}

fn repeats_its_scores(tiny: &Tiny) {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 120);
    let run = folder.path().join("run");
    train_tiny(tiny, &data, &run, &["train.epochs=2"]).assert().success();
    let trained: serde_json::Value = serde_json::from_slice(&read(&run, "metrics.json")).unwrap();
    let evaluated = json(&["evaluate", run.to_str().unwrap(), "--device", "cpu"]);
    for key in ["auroc", "aupr", "aupr_low", "f1", "mcc", "brier", "n", "positives"] {
        assert_eq!(trained[key], evaluated[key], "{key}");
    }
    let all = json(&["evaluate", run.to_str().unwrap(), "--device", "cpu", "--part", "all"]);
    assert_eq!(all["n"], 120);

    // The pairs of predictions.tsv, scored again from their coordinates, here in another batch composition.
    let predictions = String::from_utf8(read(&run, "predictions.tsv")).unwrap();
    let scores = folder.path().join("scores.tsv");
    program(&["predict", run.to_str().unwrap(), "--device", "cpu", "--pairs"])
        .arg(run.join("predictions.tsv"))
        .arg("--out")
        .arg(&scores)
        .assert()
        .success();
    let column = |text: &str, name: &str| -> Vec<f64> {
        let mut lines = text.lines();
        let at = lines.next().unwrap().split('\t').position(|c| c == name).unwrap();
        lines.map(|l| l.split('\t').nth(at).unwrap().parse().unwrap()).collect()
    };
    let (first, again) = (column(&predictions, "score"), column(&std::fs::read_to_string(&scores).unwrap(), "score"));
    assert_eq!(first.len(), again.len());
    for (a, b) in first.iter().zip(&again) {
        assert!((a - b).abs() <= 1.5e-6, "{a} was {b}");
    }
}

#[test]
fn predict_counts_the_rows_that_it_drops() {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 120);
    let run = folder.path().join("run");
    train(&data, &run, &["train.epochs=1"]).assert().success();
    let [genome, pairs] = ["g.fa", "p.tsv"].map(|name| folder.path().join(name));
    std::fs::write(&genome, format!(">chr1\n{}\n", "ACGGTTCA".repeat(250))).unwrap();
    let table =
        "chrom\tenh_start\tenh_end\tprom_start\tprom_end\nchr1\t500\t600\t900\t1000\nchr1\t500\t600\t9000\t9100\n";
    std::fs::write(&pairs, table).unwrap();
    let mut command = program(&["predict", run.to_str().unwrap(), "--device", "cpu", "--pairs"]);
    command.arg(&pairs).arg("--genome").arg(&genome);
    let out = command.assert().success().stderr(contains("1 x row with an element beyond").and(contains("p.tsv:3")));
    assert_eq!(String::from_utf8_lossy(&out.get_output().stdout).lines().count(), 2);
}

#[test]
fn a_run_of_all_folds_says_where_its_weights_are() {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 120);
    let run = folder.path().join("run");
    train(&data, &run, &["train.epochs=1", "split.folds=3"]).args(["--fold", "all"]).assert().success();
    let said = contains("one of its folds").and(contains("fold-0"));
    program(&["evaluate", run.to_str().unwrap(), "--device", "cpu"]).assert().code(1).stderr(said);
    json(&["evaluate", run.join("fold-0").to_str().unwrap(), "--device", "cpu"]);
}

#[test]
fn summary_of_a_run_has_the_lengths_of_its_windows() {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 120);
    let run = folder.path().join("run");
    train(&data, &run, &["train.epochs=1"]).assert().success();
    let summary = program(&["summary", run.to_str().unwrap()]).assert().success();
    summary.stdout(contains("windows of 90 and 70 bp"));
}

#[test]
fn bench_step_reports_throughput_and_memory() {
    for tiny in &TINY {
        let mut args = vec!["bench", "step", "--model", tiny.preset, "--device", "cpu", "--batch", "4", "--steps", "2"];
        args.extend(["--enhancer-length", "90", "--promoter-length", "70"]);
        for setting in tiny.settings {
            args.extend(["--set", setting]);
        }
        let bench = json(&args);
        assert!(bench["train"]["samples_per_s"].as_f64().unwrap() > 0.0 && bench["evaluate"]["ms_median"].is_number());
        assert_eq!((&bench["batch"], &bench["models"]), (&serde_json::json!(4), &serde_json::json!(1)));
        assert!(bench["loss"].as_f64().unwrap().is_finite());
        args.extend(["--models", "3"]);
        let three = json(&args);
        assert_eq!(three["loss"], bench["loss"], "three models at once learn what one does");
        assert!(three["together"]["train"].as_f64().unwrap() > 0.0 && three["together"]["evaluate"].is_number());
    }
}
