//! Boosted trees against scikit-learn's (`tests/golden/boosting.py` writes them), and TargetFinder from the command line.

use std::io::Write;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use epi_engine::boosting::{Columns, FeatureTable, Growth, fit, session};
use epi_engine::config::{self, FeaturesConfig};
use epi_engine::rng::Stream;
use flate2::{Compression, write::GzEncoder};
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;

use crate::support::{program, read, shared, stopped};

fn numbers(v: &Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn close(what: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= 1e-10 * w.abs().max(1.0), "{what} {i}: {g}, scikit-learn says {w}");
    }
}

#[test]
fn golden_trees_leaves_and_staged_scores_equal_scikit_learn() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../golden/boosting.json")).unwrap();
    assert_eq!(cases.len(), 8);
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let columns: Vec<Vec<f32>> = case["columns"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| numbers(c).iter().map(|&x| x as f32).collect())
            .collect();
        let labels: Vec<u8> = numbers(&case["labels"]).iter().map(|&y| y as u8).collect();
        let columns = Columns::new(columns);
        let rows: Vec<u32> = (0..labels.len() as u32).collect();
        let whole = |key: &str| case["growth"][key].as_u64().unwrap() as usize;
        let growth = Growth {
            trees: whole("trees"),
            depth: whole("depth"),
            learning_rate: case["growth"]["learning_rate"].as_f64().unwrap(),
            tried: columns.features(),
            balanced: case["growth"]["balanced"].as_bool().unwrap(),
            seed: 0,
        };
        let ensemble = fit(&columns, &labels, &rows, &growth, || true).unwrap();
        close(name, &[ensemble.prior], &[case["prior"].as_f64().unwrap()]);
        let theirs = case["trees"].as_array().unwrap();
        assert_eq!(ensemble.trees.len(), theirs.len());
        for (number, (ours, theirs)) in ensemble.trees.iter().zip(theirs).enumerate() {
            let what = |part: &str| format!("{name}: {part} of tree {number}");
            let (features, right, values) =
                (numbers(&theirs["feature"]), numbers(&theirs["right"]), numbers(&theirs["value"]));
            let own: Vec<f64> =
                ours.nodes.iter().map(|n| if n.is_leaf() { -2.0 } else { f64::from(n.feature) }).collect();
            assert_eq!(own, features, "{}", what("features"));
            let own: Vec<f64> = ours.nodes.iter().map(|n| f64::from(n.right)).collect();
            assert_eq!(own, right, "{}", what("right children"));
            // The reader of JSON may lose the last bit of a threshold.
            close(&what("thresholds and leaves"), &ours.nodes.iter().map(|n| n.value).collect::<Vec<_>>(), &values);
        }
        let mut stage = ensemble.clone();
        for (count, theirs) in case["staged"].as_array().unwrap().iter().enumerate() {
            stage.trees = ensemble.trees[..=count].to_vec();
            let own: Vec<f64> = (0..5).map(|row| stage.log_odds(|f| columns.value(f, row))).collect();
            close(&format!("{name}: log odds after tree {count}, row"), &own, &numbers(theirs));
        }
        let own: Vec<f64> = (0..labels.len()).map(|row| ensemble.probability(|f| columns.value(f, row))).collect();
        close(&format!("{name}: probability"), &own, &numbers(&case["probability"]));
        close(&format!("{name}: importance"), &ensemble.importances, &numbers(&case["importances"]));
    }
}

/// Histograms and sorted pairs must find the same splits: a few rows of many values use both.
#[test]
fn few_rows_of_a_large_table_grow_the_tree_of_a_small_table() {
    let mut random = Stream::new(1, 1, 0);
    let large: Vec<Vec<f32>> = (0..3).map(|_| (0..4000).map(|_| random.uniform()).collect()).collect();
    let labels: Vec<u8> = (0..4000).map(|i| u8::from(large[0][i] + 0.5 * random.uniform() > 0.8)).collect();
    let rows: Vec<u32> = (0..200).map(|i| 17 * i).collect();
    let pick = |column: &Vec<f32>| rows.iter().map(|&r| column[r as usize]).collect::<Vec<f32>>();
    let small = Columns::new(large.iter().map(pick).collect());
    let own_labels: Vec<u8> = rows.iter().map(|&r| labels[r as usize]).collect();
    let growth = Growth { trees: 20, learning_rate: 0.1, depth: 4, tried: 3, balanced: false, seed: 0 };
    let all: Vec<u32> = (0..200).collect();
    let a = fit(&Columns::new(large), &labels, &rows, &growth, || true).unwrap();
    let b = fit(&small, &own_labels, &all, &growth, || true).unwrap();
    let shape = |e: &epi_engine::boosting::Ensemble| {
        let nodes = e.trees.iter().flat_map(|t| &t.nodes);
        nodes.map(|n| if n.is_leaf() { (n.feature, 0.0) } else { (n.feature, n.value) }).collect::<Vec<_>>()
    };
    assert_eq!(shape(&a), shape(&b));
    assert!(a.trees.iter().map(|t| t.nodes.len()).sum::<usize>() > 20 * 10);
}

const FACTORS: [&str; 3] = ["CTCF", "DNase-seq", "H3K27ac"];

/// A table in the form of TargetFinder's, with `regions` measured: five chromosomes, promoters in many pairs each, mostly
/// of one label, measurements that say nothing about the label but which promoter it is.
fn table(path: &Path, regions: &[&str]) -> PathBuf {
    let mut random = Stream::new(5, 1, 0);
    let mut text = String::from(
        "bin,enhancer_chrom,enhancer_distance_to_promoter,enhancer_end,enhancer_name,enhancer_start,label,promoter_chrom,\
         promoter_end,promoter_name,promoter_start,window_end,window_start,window_chrom,window_name,interactions_in_window,\
         active_promoters_in_window",
    );
    for region in regions {
        FACTORS.iter().for_each(|factor| text.push_str(&format!(",{factor} ({region})")));
    }
    text.push('\n');
    for promoter in 0..60i64 {
        let chrom = format!("chr{}", promoter % 5 + 1);
        let (start, active) = (1_000_000 + 400_000 * promoter, random.uniform() < 0.3);
        let measured: Vec<f32> = (0..3).map(|_| (random.uniform() * 100.0).round() / 100.0).collect();
        for enhancer in 0..6i64 {
            let e = start - 60_000 - 20_000 * enhancer;
            let label = u8::from(random.uniform() < if active { 0.8 } else { 0.05 });
            let (name, end) = (format!("NHEK|{chrom}:{e}-{}", e + 600), start + 1000);
            text.push_str(&format!(
                "\"({}, {}]\",{chrom},{},{},{name},{e},{label},{chrom},{end},NHEK|{chrom}:{start}-{end},{start},{start},{},\
                 {chrom},NHEK|{chrom}:{}-{start},{},1",
                10_000,
                200_000,
                start - e - 600,
                e + 600,
                e + 600,
                e + 600,
                6 * label
            ));
            for region in regions {
                for factor in &measured {
                    let noise = if random.uniform() < 0.5 { 0.0 } else { random.uniform() };
                    text.push_str(&format!(",{}", if *region == "promoter" { *factor } else { noise }));
                }
            }
            text.push('\n');
        }
    }
    let mut out = GzEncoder::new(std::fs::File::create(path).unwrap(), Compression::default());
    out.write_all(text.as_bytes()).unwrap();
    out.finish().unwrap();
    path.to_path_buf()
}

fn ep(folder: &Path) -> PathBuf {
    table(&folder.join("training.csv.gz"), &["enhancer", "promoter"])
}

/// `train --preset target-finder` on `features` into `out`.
fn train(features: &Path, out: &Path, args: &[&str]) -> Command {
    let mut command = program(&["train", "--preset", "target-finder", "--set", "split.folds=5"]);
    command.arg("--features").arg(features).arg("--out").arg(out);
    command.args(["--set", "model.trees=30"]).args(args);
    command
}

fn document(command: &mut Command) -> Value {
    serde_json::from_slice(&command.arg("--json").assert().success().get_output().stdout).unwrap()
}

/// Files that equal runs write alike to the last byte.
const BITS: [&str; 7] = [
    "fold-0.trees",
    "fold-1.trees",
    "fold-2.trees",
    "fold-3.trees",
    "fold-4.trees",
    "predictions.tsv",
    "importances.tsv",
];

#[test]
fn same_bits_with_any_number_of_threads_and_other_bits_with_another_seed() {
    let folder = tempfile::tempdir().unwrap();
    let features = ep(folder.path());
    for threads in ["1", "2", "3"] {
        train(&features, &folder.path().join(threads), &[]).env("RAYON_NUM_THREADS", threads).assert().success();
    }
    let read = |run: &str, name| read(&folder.path().join(run), name);
    for name in BITS {
        assert!(read("1", name) == read("2", name) && read("1", name) == read("3", name), "{name} depends on threads");
    }
    train(&features, &folder.path().join("seed"), &["--set", "train.seed=1"]).assert().success();
    assert_ne!(read("1", "fold-0.trees"), read("seed", "fold-0.trees"));
}

#[test]
fn train_evaluate_predict_and_summary_tell_one_story() {
    let folder = tempfile::tempdir().unwrap();
    let features = ep(folder.path());
    let run = folder.path().join("run");
    let trained = document(&mut train(&features, &run, &[]));
    assert_eq!(
        (&trained["split"], &trained["leaky"], &trained["n"]),
        (&"chromosome".into(), &false.into(), &360.into())
    );
    assert_eq!((&trained["f1_threshold"], trained["folds"].as_array().unwrap().len()), (&0.5.into(), 5));
    assert!(trained["baselines"]["lookup"]["aupr"].is_number() && trained["baselines"]["distance"]["aupr"].is_number());
    let written: Value = serde_json::from_slice(&read(&run, "metrics.json")).unwrap();
    assert_eq!(trained["aupr"], written["aupr"]);
    assert!(
        (trained["importances"].as_object().unwrap().values().map(|v| v.as_f64().unwrap()).sum::<f64>() - 1.0).abs()
            < 1e-9
    );
    let importances = String::from_utf8(read(&run, "importances.tsv")).unwrap();
    assert!(
        importances.starts_with("feature\timportance\tfold0\t") && importances.lines().count() == 7,
        "{importances}"
    );

    let path = run.to_str().unwrap();
    let evaluated = document(&mut program(&["evaluate", path]));
    for key in ["auroc", "aupr", "aupr_low", "f1", "mcc", "brier", "n", "positives", "baselines"] {
        assert_eq!(trained[key], evaluated[key], "{key}");
    }
    program(&["evaluate", path, "--part", "train"]).assert().success().stdout(contains("no measure of the model"));
    program(&["evaluate", path, "--part", "validation"]).assert().code(2).stderr(contains("validation"));

    // One fold of it alone is the same ensemble, and its prediction the score of its rows.
    let one = folder.path().join("one");
    train(&features, &one, &["--fold", "3/5"]).assert().success().stderr(contains("fold 3 of 5"));
    let all = std::fs::read_to_string(run.join("predictions.tsv")).unwrap();
    let own = std::fs::read_to_string(one.join("predictions.tsv")).unwrap();
    let column = |line: &str, at: usize| line.split('\t').nth(at).unwrap().to_string();
    let in_fold: Vec<String> =
        all.lines().filter(|l| column(l, 11) == "3").map(|l| format!("{} {}", column(l, 0), column(l, 9))).collect();
    let alone: Vec<String> = own.lines().skip(1).map(|l| format!("{} {}", column(l, 0), column(l, 9))).collect();
    assert!(!alone.is_empty() && in_fold == alone);
    let scores = folder.path().join("scores.tsv");
    program(&["predict", one.to_str().unwrap(), "--pairs"]).arg(&features).arg("--out").arg(&scores).assert().success();
    let scores = std::fs::read_to_string(scores).unwrap();
    for line in own.lines().skip(1) {
        let row: usize = column(line, 0).parse().unwrap();
        let again: f64 = column(scores.lines().nth(row + 1).unwrap(), 7).parse().unwrap();
        assert!((again - column(line, 9).parse::<f64>().unwrap()).abs() < 1e-6);
    }
    program(&["predict", path, "--pairs"]).arg(&features).assert().success().stderr(contains("means over 5 ensembles"));
    let summary = document(&mut program(&["summary", path]));
    assert_eq!((&summary["ensembles"], summary["features"].as_array().unwrap().len()), (&5.into(), 6));
    program(&["summary", "target-finder"]).assert().success().stdout(contains("4,000").and(contains("log2")));
    program(&["compare", path, one.to_str().unwrap()]).assert().success().stdout(contains("auroc"));
}

#[test]
fn random_folds_are_stamped_leaky_and_chromosomes_are_said_to_be_at_chance() {
    let folder = tempfile::tempdir().unwrap();
    let features = ep(folder.path());
    let [random, sound] = ["random", "sound"].map(|n| folder.path().join(n));
    train(&features, &random, &["--split", "random"])
        .assert()
        .success()
        .stdout(
            contains("LEAKY")
                .and(contains("base rate"))
                .and(contains("element lookup"))
                .and(contains("most important")),
        )
        .stderr(contains("random (LEAKY), fold 0 of 5: train 288 pairs"));
    let metrics: Value = serde_json::from_slice(&read(&random, "metrics.json")).unwrap();
    assert_eq!(metrics["LEAKY"], "random");
    for name in ["predictions.tsv", "importances.tsv"] {
        let text = String::from_utf8(read(&random, name)).unwrap();
        assert!(text.lines().skip(1).all(|l| l.ends_with("random:LEAKY")), "{name}");
    }
    train(&features, &sound, &[]).assert().success().stdout(contains("AUPR").and(contains("LEAKY").not()));
    let chance: Value = serde_json::from_slice(&read(&sound, "metrics.json")).unwrap();
    assert!(metrics["aupr"].as_f64() > chance["aupr"].as_f64(), "{} {}", metrics["aupr"], chance["aupr"]);
    assert!(!chance["verdict"].as_str().unwrap().is_empty());
}

#[test]
fn columns_that_leak_are_never_features_and_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let features = ep(folder.path());
    let config = FeaturesConfig { path: Some(features.clone()), ..FeaturesConfig::default() };
    let table = FeatureTable::read(&config).unwrap();
    assert_eq!(table.names.len(), 6);
    assert!(table.names.iter().all(|n| n.ends_with(" (enhancer)") || n.ends_with(" (promoter)")), "{:?}", table.names);
    for (name, reason) in [
        ("interactions_in_window", "counts the labels"),
        ("active_promoters_in_window", "0.83"),
        ("enhancer_distance_to_promoter", "distance"),
        ("label", "is the label"),
        ("bin", "label by label"),
        ("promoter_name", "names a locus"),
        ("window_start", "names a locus"),
        ("enhancer_chrom", "names a locus"),
    ] {
        let run = folder.path().join("run");
        let include = format!("features.include=[\"CTCF\", \"{name}\"]");
        train(&features, &run, &["--set", &include])
            .assert()
            .code(2)
            .stderr(contains(name).and(contains("never a feature")).and(contains(reason)));
        assert!(!run.exists());
    }
    let names = |include: &[&str], exclude: &[&str]| {
        let strings = |list: &[&str]| list.iter().map(|s| s.to_string()).collect();
        let config = FeaturesConfig { include: strings(include), exclude: strings(exclude), ..config.clone() };
        FeatureTable::read(&config).map(|t| t.names).map_err(|e| e.to_string())
    };
    assert_eq!(names(&["CTCF"], &[]).unwrap(), ["CTCF (enhancer)", "CTCF (promoter)"]);
    assert_eq!(names(&["CTCF", "H3K27ac (enhancer)"], &["CTCF (promoter)"]).unwrap().len(), 2);
    assert!(names(&["EZH2"], &[]).unwrap_err().contains("DNase-seq"));
    assert!(names(&[], &["CTCF", "DNase-seq", "H3K27ac"]).unwrap_err().contains("no feature is left"));
}

#[test]
fn regions_choose_columns_and_a_missing_region_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let epw = table(&folder.path().join("epw.csv.gz"), &["enhancer", "promoter", "window"]);
    let eep = table(&folder.path().join("eep.csv.gz"), &["extended_enhancer", "promoter"]);
    let count = |path: &Path, regions: &str| {
        let setting = [format!("features.regions={regions}"), format!("features.path={}", path.display())];
        let config = config::load_boosted("target-finder", &setting).unwrap();
        FeatureTable::read(&config.features).map(|t| t.names.len()).map_err(|e| e.to_string())
    };
    assert_eq!((count(&epw, "ep"), count(&epw, "epw"), count(&epw, "eep")), (Ok(6), Ok(9), Ok(6)));
    assert_eq!(count(&eep, "eep"), Ok(6));
    let error = count(&eep, "epw").unwrap_err();
    assert!(error.contains("eep.csv.gz:1") && error.contains("(enhancer)") && error.contains("regions"), "{error}");
}

#[test]
fn bad_tables_name_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let whole = ep(folder.path());
    let text = {
        let mut text = String::new();
        std::io::Read::read_to_string(
            &mut flate2::read::GzDecoder::new(std::fs::File::open(&whole).unwrap()),
            &mut text,
        )
        .unwrap();
        text
    };
    let said = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let run = folder.path().join("run");
        let out = train(&path, &run, &[]).assert().code(1).get_output().stderr.clone();
        assert!(!run.exists(), "a run that could not begin left a folder");
        String::from_utf8(out).unwrap()
    };
    let bytes = std::fs::read(&whole).unwrap();
    let cut = said("cut.csv.gz", &bytes[..bytes.len() / 2]);
    assert!(cut.contains("cut.csv.gz:") && cut.contains("ends too early"), "{cut}");
    let line = |n: usize| text.lines().nth(n - 1).unwrap();
    let (head, row) = (line(1), line(40));
    let number = row.rsplit(',').next().unwrap();
    for bad in ["high", "", "nan", "inf", "1e60"] {
        let broken = format!("{},{bad}", row.strip_suffix(&format!(",{number}")).unwrap());
        let message = said("cell.csv", text.replace(row, &broken).as_bytes());
        assert!(message.contains("cell.csv:40") && message.contains("H3K27ac (promoter)"), "{bad}: {message}");
    }
    let fewer = said("short.csv", text.replace(row, row.rsplit_once(',').unwrap().0).as_bytes());
    assert!(fewer.contains("short.csv:40") && fewer.contains("22 columns"), "{fewer}");
    for column in ["label", "promoter_start"] {
        let message = said("column.csv", text.replace(head, &head.replace(&format!(",{column}"), ",other")).as_bytes());
        assert!(message.contains("column.csv:1") && message.contains(column), "{message}");
    }
    let twice = said("twice.csv", text.replace("DNase-seq (promoter)", "CTCF (promoter)").as_bytes());
    assert!(twice.contains("two columns named `CTCF (promoter)`"), "{twice}");
    assert!(said("empty.csv", b"").contains("empty"));
    let nothing = said("header.csv", format!("{head}\n").as_bytes());
    assert!(nothing.contains("no pair is left"), "{nothing}");
}

#[test]
fn a_killed_run_goes_on_with_the_missing_folds() {
    let folder = tempfile::tempdir().unwrap();
    let features = ep(folder.path());
    let [whole, broken] = ["whole", "broken"].map(|n| folder.path().join(n));
    let settings = ["--set", "model.trees=400"];
    train(&features, &whole, &settings).assert().success();
    let finished = || (0..5).filter(|fold| session::model_path(&broken, *fold).exists()).collect::<Vec<u32>>();
    let mut command = train(&features, &broken, &settings);
    stopped(command.env("RAYON_NUM_THREADS", "1"), "-KILL", || !finished().is_empty());
    let kept = finished();
    assert!(kept.len() < 5 && !broken.join("metrics.json").exists(), "the run was over before it could be killed");
    let when = |fold: &u32| std::fs::metadata(session::model_path(&broken, *fold)).unwrap().modified().unwrap();
    let before: Vec<_> = kept.iter().map(when).collect();
    let path = broken.to_str().unwrap();
    program(&["evaluate", path]).assert().code(1).stderr(contains("--resume"));
    program(&["predict", path, "--pairs"]).arg(&features).assert().code(1).stderr(contains("--resume"));
    program(&["train", "--resume", path])
        .assert()
        .success()
        .stderr(contains(format!("{} of 5 folds are finished", kept.len())));
    assert_eq!(kept.iter().map(when).collect::<Vec<_>>(), before, "a finished fold was grown again");
    for name in BITS {
        assert!(read(&whole, name) == read(&broken, name), "{name} differs after SIGKILL and --resume");
    }
    train(&features, &broken, &settings).assert().code(2).stderr(contains("--resume"));

    // Another table under the same name belongs to another run; so does a damaged ensemble.
    let text = "enhancer_chrom,enhancer_start,enhancer_end,promoter_chrom,promoter_start,promoter_end,label,\
                A (enhancer),A (promoter)\n";
    let rows: String =
        (0..20).map(|i| format!("chr{},{i}00,{i}50,chr{},{i}60,{i}90,{},{i},1\n", i % 5, i % 5, i % 2)).collect();
    std::fs::write(&features, format!("{text}{rows}")).unwrap();
    program(&["train", "--resume", path]).assert().code(1).stderr(contains("fold-").and(contains("another table")));
    let mut bytes = read(&broken, "fold-2.trees");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(broken.join("fold-2.trees"), bytes).unwrap();
    program(&["summary", path]).assert().code(1).stderr(contains("fold-2.trees").and(contains("checksum")));
}

#[test]
fn what_is_not_for_trees_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let features = ep(folder.path());
    let run = folder.path().join("run");
    for (args, words) in [
        (vec!["--split", "paper-code"], vec!["paper-code", "no table"]),
        (vec!["--split", "nothing"], vec!["nothing", "chromosome"]),
        (vec!["--device", "cuda"], vec!["--device", "CPU"]),
        (vec!["--precision", "bf16"], vec!["--precision"]),
        (vec!["--data", "x.epi"], vec!["--data", "--features"]),
        (vec!["--fold", "7"], vec!["--fold", "I/K"]),
        (vec!["--set", "train.lr=1"], vec!["lr"]),
        (vec!["--set", "model.depth=99"], vec!["model.depth"]),
        (vec!["--set", "model.learning_rate=-1"], vec!["model.learning_rate", "positive"]),
        (vec!["--set", "model.features_tried=some"], vec!["features_tried", "log2"]),
    ] {
        let out = train(&features, &run, &args).assert().code(2).get_output().stderr.clone();
        let said = String::from_utf8(out).unwrap();
        assert!(words.iter().all(|w| said.contains(w)), "{args:?}: {said}");
        assert!(!run.exists(), "{args:?} left something behind");
    }
    program(&["train", "--preset", "target-finder"]).assert().code(2).stderr(contains("--features"));
    program(&["train", "--preset", "epsat", "--features", "x.csv"]).assert().code(2).stderr(contains("target-finder"));
    program(&["bench", "step", "--model", "target-finder"]).assert().code(2).stderr(contains("no network"));
    program(&["train", "--preset", "target-finder", "--set", "model.features_tried=3", "--print-config"])
        .assert()
        .success()
        .stdout(contains("features_tried = 3").and(contains("kind = \"chromosome\"")));
}

#[test]
fn the_published_table_is_read_whole_and_leaks_by_random_folds_only() {
    let Some(path) = shared("features/targetfinder_NHEK_ep_training.csv.gz") else { return };
    let settings = |split: &str| {
        let path = format!("features.path={}", path.display());
        let list = [path, format!("split.kind={split}"), "model.trees=60".into()];
        config::load_boosted("target-finder", &list).unwrap()
    };
    let config = settings("random");
    let table = FeatureTable::read(&config.features).unwrap();
    assert_eq!((table.pairs.table.rows.len(), table.pairs.table.positives(), table.names.len()), (26_891, 1_291, 40));
    let folder = tempfile::tempdir().unwrap();
    let scores = ["random", "chromosome"].map(|split| {
        let (config, folder) = (settings(split), folder.path().join(split));
        std::fs::create_dir(&folder).unwrap();
        let splits = session::splits(&config, &table.pairs.table).unwrap();
        assert_eq!(splits.len(), 10);
        session::train(&config, &table, &splits, &folder, &session::Silent).unwrap().report
    });
    let aupr = scores.each_ref().map(|report| report.scores.scores.aupr.unwrap());
    assert!(aupr[0] > 0.15 && aupr[1] < 0.08, "{aupr:?}");
    assert_eq!((scores[0].n, scores[1].n), (26_891, 26_891));
    assert!(session::verdict(&scores[0]).contains("LEAKY"));
}

#[test]
fn peak_files_become_a_table_that_trains() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let header = "enhancer_chrom\tenhancer_start\tenhancer_end\tpromoter_chrom\tpromoter_start\tpromoter_end\tlabel\n";
    let row = |i: i64| format!("chr{}\t{i}000\t{i}100\tchr{0}\t{i}400\t{i}600\t{}\n", i % 4, i % 3 / 2);
    let pairs = file("pairs.tsv", header.to_string() + &(1..=24).map(row).collect::<String>());
    // Over the first pair: one peak across the enhancer's edge, one long peak over everything, one beyond.
    let narrow = file(
        "ctcf.narrowPeak",
        "chr1\t950\t1001\tp\t0\t.\t3.5\t1\t1\t20\nchr1\t0\t1600\tp\t0\t.\t2.0\t1\t1\t9\nchr1\t1600\t1700\tp\t0\t.\t9\t1\t1\t9\n"
            .into(),
    );
    let bed = file("marks.bed", "track name=x\nchr1\t1100\t1101\nchr1\t1101\t1102\tx\t4\n".into());
    let out = folder.path().join("training.csv.gz").display().to_string();
    let [ctcf, mark] = [format!("CTCF={narrow}"), format!("MARK={bed}")];
    let words = ["features", "--pairs", &pairs, "--peaks", &ctcf, "--peaks", &mark, "--out", &out];
    program(&words).assert().success().stdout(contains("24 pairs, 2 factors"));
    let config = FeaturesConfig { path: Some(out.clone().into()), ..FeaturesConfig::default() };
    let table = FeatureTable::read(&config).unwrap();
    assert_eq!(table.names, ["CTCF (enhancer)", "MARK (enhancer)", "CTCF (promoter)", "MARK (promoter)"]);
    let first: Vec<f32> = (0..4).map(|f| table.columns.value(f, 0)).collect();
    assert_eq!(first, [0.055, 0.0, 0.01, 0.0]);
    let names: Vec<String> = ["CTCF (window)", "MARK (window)"].map(String::from).into();
    let windows = FeatureTable::read_named(Path::new(&out), &names).unwrap().columns;
    assert_eq!([windows.value(0, 0), windows.value(1, 0)], [2.0 / 298.0, 4.0 / 298.0]);
    train(Path::new(&out), &folder.path().join("run"), &["--set", "features.regions=epw", "--set", "split.folds=2"])
        .assert()
        .success()
        .stderr(contains("6 features"));
    for (bad, text, words) in [
        ("a.narrowPeak", "chr1\t5\t9\tp\t0\t.\thigh\n", ["a.narrowPeak:1", "column 7"]),
        ("b.bed", "\nchr1\t9\t5\n", ["b.bed:2", "start < end"]),
    ] {
        let peaks = format!("X={}", file(bad, text.into()));
        let said = program(&["features", "--pairs", &pairs, "--peaks", &peaks, "--out", &out]).assert().code(1);
        let said = String::from_utf8(said.get_output().stderr.clone()).unwrap();
        assert!(words.iter().all(|w| said.contains(w)), "{said}");
    }
    let extended = ["features", "--pairs", &pairs, "--peaks", &ctcf, "--regions", "eep", "--out", &out];
    program(&extended).assert().code(2).stderr(contains("extended enhancers"));
}
