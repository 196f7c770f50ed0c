//! Studies: which cells, where, resumed bit for bit, none spoilt by another, nothing trained beyond its budget.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use epi_engine::config::{self, Control};
use epi_engine::data::control::controlled;
use epi_engine::data::demo::demo;
use epi_engine::data::{Dataset, Side};
use epi_engine::evaluate::{FoldScores, Options, Report, Scored, evaluate};
use epi_engine::study::{CellState, Index, Study};
use epi_engine::train::session;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;

use crate::support::{TINY_MODEL, metrics, program, read, stopped, tiny_contents, tiny_file};

/// Tiny networks, deterministic and quick.
fn settings(more: &[&str]) -> String {
    let all: Vec<String> = TINY_MODEL.iter().chain(&["train.batch=16"]).chain(more).map(|s| format!("{s:?}")).collect();
    all.join(", ")
}

/// A study of `groups` over a tiny file and what `data` adds, in `folder`; the path of its file.
fn file(folder: &Path, data: &str, groups: &str) -> PathBuf {
    if !folder.join("tiny.epi").exists() {
        tiny_file(folder, 240);
    }
    let path = folder.join("study.toml");
    let text = format!(
        "device = \"cpu\"\n[data.tiny]\ndataset = \"Tiny\"\ncell_lines = [\"tiny\"]\nfile = \"tiny.epi\"\n{data}\n{groups}"
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn group(name: &str, keys: &str, more: &[&str]) -> String {
    let data = if keys.contains("data =") { "" } else { "data = [\"tiny\"]\n" };
    let models = if keys.contains("models =") { "" } else { "models = [\"epsat\"]\n" };
    format!("[[groups]]\nname = \"{name}\"\n{data}{models}{keys}\nset = [{}]\n", settings(more))
}

fn study(file: &Path, more: &[&str]) -> Command {
    let folder = file.parent().unwrap();
    let mut command = program(&["study", file.to_str().unwrap()]);
    command.arg("--data-dir").arg(folder).arg("--out").arg(folder.join("out")).args(more);
    command
}

fn index(folder: &Path) -> Index {
    Index::read(&folder.join("out")).unwrap()
}

fn states(folder: &Path) -> Vec<CellState> {
    index(folder).cells.iter().map(|cell| cell.state).collect()
}

const BITS: [&str; 4] = ["best.safetensors", "last.safetensors", "state.json", "predictions.tsv"];

#[test]
fn every_cell_has_its_folder_and_its_budget_and_is_scored_whole() {
    let folder = tempfile::tempdir().unwrap();
    let groups = [
        group("one", "protocols = [\"chromosome\"]\nof = 4\nfolds = [0, 1]\nseeds = [1, 2]\nsamples = 64", &[]),
        group("two", "protocols = [\"paper-code\"]\ncontrols = [\"none\", \"random-dna\"]\nsamples = 100", &[]),
    ];
    let file = file(folder.path(), "", &groups.concat());
    let out = study(&file, &["--json"]).assert().success().get_output().clone();
    let document: Value = serde_json::from_slice(&out.stdout).unwrap();
    let wanted = [
        ("epsat/Tiny-all/chromosome/fold0of4-seed1", 64),
        ("epsat/Tiny-all/chromosome/fold1of4-seed1", 64),
        ("epsat/Tiny-all/chromosome/fold0of4-seed2", 64),
        ("epsat/Tiny-all/chromosome/fold1of4-seed2", 64),
        ("epsat/Tiny-all/paper-code/fold0of10-seed1", 96),
        ("epsat-random-dna/Tiny-all/paper-code/fold0of10-seed1", 96),
    ];
    let cells = index(folder.path()).cells;
    assert_eq!(cells.len(), wanted.len());
    for (cell, (path, samples)) in cells.iter().zip(wanted) {
        assert_eq!((cell.state, cell.samples_seen), (CellState::Done, samples), "{path}");
        assert_eq!(cell.folder.as_deref(), Some(Path::new(&format!("runs/{path}"))));
        let run = folder.path().join("out/runs").join(path);
        let scores: Value = serde_json::from_slice(&read(&run, "metrics.json")).unwrap();
        // The whole test part is scored, whatever the budget; a lookup and the distance stand beside every model.
        let lines = String::from_utf8(read(&run, "predictions.tsv")).unwrap().lines().count() - 1;
        assert_eq!(scores["n"], lines);
        assert_eq!(scores["training"]["samples_seen"], samples);
        assert!(
            scores["baselines"]["lookup"]["aupr"].is_number() && scores["baselines"]["distance"]["aupr"].is_number()
        );
        assert!(scores["base_rate"].is_number());
        assert_eq!(scores["leaky"], cell.protocol == "paper-code");
        // An ordinary run folder: what it holds can be scored again. What only resuming would need is gone.
        let names = run.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert!(!names.into_iter().any(|name| name.starts_with("optimizer-")), "{path}");
        let resumed = program(&["train", "--resume", run.to_str().unwrap()]).assert().failure();
        resumed.stderr(contains("was removed when this run was over"));
        let again = program(&["evaluate", run.to_str().unwrap(), "--json"]).assert().success().get_output().clone();
        let again: Value = serde_json::from_slice(&again.stdout).unwrap();
        assert_eq!(again["aupr"], scores["aupr"], "{path}");
    }
    assert!(lines_of(&cells[0].folder, folder.path()) > 48, "the test part is larger than the budget in batches");
    assert_eq!(document["cells"][0]["estimate"]["samples_trained"], 64);
    assert_eq!(cells[4].trained_on, ["tiny"]);

    // Two at a time: the same bits, whichever ends first.
    let other = tempfile::tempdir().unwrap();
    let several = self::file(other.path(), "", &groups.concat());
    let text = format!("at_once = 2\n{}", std::fs::read_to_string(&several).unwrap());
    std::fs::write(&several, text).unwrap();
    study(&several, &[]).env("RAYON_NUM_THREADS", "4").assert().success().stdout(contains("6 cells, 6 done"));
    assert_eq!(Study::read(&other.path().join("out/study.toml")).unwrap().at_once, 2);
    for ((path, samples), cell) in wanted.iter().zip(&index(other.path()).cells) {
        let [a, b] = [folder.path(), other.path()].map(|folder| folder.join("out/runs").join(path));
        for name in ["best.safetensors", "predictions.tsv"] {
            assert!(read(&a, name) == read(&b, name), "{path}: {name} differs between one and two cells at a time");
        }
        assert_eq!((cell.state, cell.samples_seen), (CellState::Done, *samples), "{path}");
    }
    study(&several, &["--at-once", "0"]).assert().code(2).stderr(contains("at least one cell"));

    // Nothing is left to do.
    let before = read(&folder.path().join("out/runs").join(wanted[0].0), "metrics.json");
    study(&file, &[]).assert().success().stdout(contains("6 cells, 6 done"));
    assert_eq!(before, read(&folder.path().join("out/runs").join(wanted[0].0), "metrics.json"));
}

fn lines_of(run: &Option<PathBuf>, folder: &Path) -> usize {
    let run = folder.join("out").join(run.as_ref().unwrap());
    String::from_utf8(read(&run, "predictions.tsv")).unwrap().lines().count() - 1
}

#[test]
fn data_that_are_not_here_and_a_cell_that_fails_leave_the_others_alone() {
    let folder = tempfile::tempdir().unwrap();
    let data = "[data.absent]\ndataset = \"Absent\"\ngenome = \"hg99.2bit\"\npairs = \"pairs.tsv\"\n\
                [data.broken]\ndataset = \"Broken\"\nfile = \"broken.epi\"\n";
    std::fs::write(folder.path().join("broken.epi"), b"no data set").unwrap();
    let budget = "protocols = [\"chromosome\"]\nsamples = 32";
    let groups = [
        group("absent", &format!("data = [\"absent\"]\n{budget}"), &[]),
        group("broken", &format!("data = [\"broken\"]\n{budget}"), &[]),
        group(
            "explodes",
            &format!("models = [{{ label = \"wild\", preset = \"epsat\" }}]\n{budget}"),
            &["train.lr=1e30"],
        ),
        group("works", budget, &[]),
    ];
    let file = file(folder.path(), data, &groups.concat());
    let out = study(&file, &[]).assert().code(1).get_output().clone();
    let (said, told) = (String::from_utf8_lossy(&out.stderr), String::from_utf8_lossy(&out.stdout));
    assert!(said.contains("2 of 4 cells failed") && said.contains("broken.epi") && said.contains("wild"), "{said}");
    assert!(told.contains("no data here: ") && told.contains("hg99.2bit"), "{told}");
    let cells = index(folder.path()).cells;
    let states: Vec<_> = cells.iter().map(|cell| cell.state).collect();
    assert_eq!(states, [CellState::NoData, CellState::Failed, CellState::Failed, CellState::Done]);
    let reasons: Vec<_> = cells.iter().map(|cell| cell.reason.clone().unwrap_or_default()).collect();
    assert!(reasons[0].starts_with("no data here") && reasons[0].contains("--data-dir"), "{}", reasons[0]);
    assert!(reasons[2].contains("train.lr"), "{}", reasons[2]);
    assert!(cells[0].folder.is_none() && cells[1].folder.is_none());
}

#[cfg(unix)]
#[test]
fn stopped_by_the_user_or_killed_a_study_goes_on_bit_for_bit() {
    let often = ["train.checkpoint_every=3", "train.patience=0", "train.epochs=50", "train.evaluate_every=20"];
    let groups = group("all", "protocols = [\"chromosome\"]\nseeds = [1, 2]\nsamples = 3200", &often);
    let (whole, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    study(&file(whole.path(), "", &groups), &[]).assert().success();
    let file = file(broken.path(), "", &groups);
    let runs = ["fold0of5-seed1", "fold0of5-seed2"].map(|name| format!("out/runs/epsat/Tiny-all/chromosome/{name}"));
    let state = |run: &str| std::fs::read_to_string(broken.path().join(run).join("state.json")).unwrap_or_default();

    stopped(&study(&file, &[]), "-INT", || !state(&runs[0]).is_empty());
    assert_eq!(states(broken.path()), [CellState::Interrupted, CellState::Pending]);
    let reason = index(broken.path()).cells[0].reason.clone().unwrap();
    assert!(reason.contains("goes on"), "{reason}");
    stopped(&study(&file, &[]), "-KILL", || !state(&runs[1]).is_empty());
    assert_eq!(states(broken.path()), [CellState::Done, CellState::Running]);
    study(&file, &[]).assert().success();
    assert_eq!(states(broken.path()), [CellState::Done, CellState::Done]);
    for run in &runs {
        let [a, b] = [whole.path(), broken.path()].map(|folder| folder.join(run));
        for name in BITS {
            assert!(read(&a, name) == read(&b, name), "{run}: {name} differs from an unbroken study's");
        }
        assert_eq!(metrics(&a), metrics(&b));
    }
    assert_eq!(index(broken.path()).cells[1].samples_seen, index(whole.path()).cells[1].samples_seen);
}

#[test]
fn a_changed_file_adds_cells_and_is_refused_where_it_changes_one_that_was_begun() {
    let folder = tempfile::tempdir().unwrap();
    let keys = "protocols = [\"chromosome\"]\nsamples = 32";
    let first = group("first", keys, &[]);
    let write = |groups: &[&str]| file(folder.path(), "", &groups.concat());
    study(&write(&[&first]), &[]).assert().success();
    let other = group("first", keys, &["train.lr=0.5"]);
    study(&write(&[&other]), &[])
        .assert()
        .code(2)
        .stderr(contains("group `first`").and(contains("train.lr was 0.001")).and(contains("--out")));
    let second = group("second", "protocols = [\"component\"]\nsamples = 32", &[]);
    study(&write(&[&second]), &[]).assert().code(2).stderr(contains("no longer asks for it").and(contains("delete")));
    study(&write(&[&second, &first]), &[]).assert().success().stdout(contains("2 cells, 2 done"));
    // Twice the budget is another run, too.
    study(&write(&[&second, &first]), &["--scale", "2"]).assert().code(2).stderr(contains("train.max_samples"));
}

#[test]
fn a_dry_run_tells_cells_budgets_and_time_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = "[data.planted]\ndataset = \"planted\"\nplanted = { level = \"additive\", train = 64, validation = 32, test = 32 }\n\
                [data.absent]\ndataset = \"Absent\"\nfile = \"absent.epi\"\n";
    let budget = "protocols = [\"chromosome\"]\nsamples = 640";
    let groups = [
        group("tiny", budget, &[]),
        group("planted", "data = [\"planted\"]\nprotocols = [\"column:split\"]", &["train.epochs=3"]),
        group("absent", &format!("data = [\"absent\"]\n{budget}"), &[]),
    ];
    let file = file(folder.path(), data, &groups.concat());
    let before = folder.path().read_dir().unwrap().count();
    let out = study(&file, &["--dry-run"]).assert().success().get_output().clone();
    let told = String::from_utf8_lossy(&out.stdout);
    for words in ["epsat Tiny all chromosome fold 0/5 seed 1", "600", "192", "no data here", "3 cells", "left"] {
        assert!(told.contains(words), "{words} is missing:\n{told}");
    }
    let out = study(&file, &["--dry-run", "--json", "--scale", "0.1"]).assert().success().get_output().clone();
    let document: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(document["cells"][0]["budget_samples"], 64);
    assert_eq!(document["cells"][1]["estimate"]["samples_trained"], 192);
    assert!(document["seconds_left"].as_f64().unwrap() > 0.0);
    assert_eq!(folder.path().read_dir().unwrap().count(), before, "a dry run left something behind");
}

#[test]
fn files_that_are_no_study_are_refused_with_the_place_and_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let ok = "protocols = [\"chromosome\"]";
    for (groups, words) in [
        ("[[groups]]\nname = \"a\"\nmodls = [\"epsat\"]\n".to_string(), vec!["study.toml:", "modls", "models"]),
        (group("a", "protocols = [\"chromosom\"]", &[]), vec!["chromosom", "paper-code"]),
        (group("a", &format!("data = [\"tinny\"]\n{ok}"), &[]), vec!["group `a`", "tinny", "tiny"]),
        (group("a", &format!("models = [\"epsatt\"]\n{ok}"), &[]), vec!["group `a`", "epsatt", "epsat-paper"]),
        (group("a", &format!("cell_lines = [\"K562\"]\n{ok}"), &[]), vec!["group `a`", "K562", "lists: tiny"]),
        (group("a", ok, &["train.speed=1"]), vec!["group `a`", "speed"]),
        (group("a", &format!("{ok}\nfolds = \"some\""), &[]), vec!["folds", "all"]),
        (group("a", "protocols = [\"cross-cell\"]", &[]), vec!["cross-cell", "each"]),
        (group("a", &format!("{ok}\ncontrols = []"), &[]), vec!["controls", "empty"]),
        (group("a", &format!("models = [\"target-finder\"]\n{ok}"), &[]), vec!["target-finder", "features"]),
        ([group("a", ok, &[]), group("b", ok, &[])].concat(), vec!["group `b`", "group `a`", "label"]),
    ] {
        let file = file(folder.path(), "", &groups);
        let out = study(&file, &[]).assert().failure().get_output().clone();
        let said = String::from_utf8_lossy(&out.stderr).to_string();
        assert!(words.iter().all(|w| said.contains(w)), "{words:?}: {said}");
        assert!(!folder.path().join("out").exists(), "{words:?} left a folder");
    }
    program(&["study", "nowhere.toml"]).assert().code(1).stderr(contains("nowhere.toml"));
    program(&["study", "--help"]).assert().success().stdout(contains("Examples"));
}

#[test]
fn lines_train_for_each_other_in_a_matrix() {
    let folder = tempfile::tempdir().unwrap();
    let mut contents = tiny_contents(240, 5);
    contents.pairs.cell_lines = ["A", "B", "C"].map(String::from).to_vec();
    contents.pairs.rows.iter_mut().enumerate().for_each(|(i, row)| row.cell_line = (i / 16 % 3) as u16);
    contents.write(folder.path().join("lines.epi")).unwrap();
    let data = "[data.lines]\ndataset = \"Lines\"\ncell_lines = [\"A\", \"B\", \"C\"]\nfile = \"lines.epi\"\n";
    let keys = |lines: &str, from: &str| {
        format!(
            "data = [\"lines\"]\nprotocols = [\"cross-cell\"]\ncell_lines = [{lines}]\ntrain_on = [{from}]\nsamples = 32"
        )
    };
    let groups = [
        group("matrix", &keys("\"each\"", "\"A\", \"B\""), &[]),
        group("others", &keys("\"C\"", "\"others\""), &[]),
        group("general", "data = [\"lines\"]\nprotocols = [\"chromosome\"]\nsamples = 32", &[]),
        group("own", "data = [\"lines\"]\ncell_lines = [\"B\"]\nprotocols = [\"chromosome\"]\nsamples = 32", &[]),
    ];
    study(&file(folder.path(), data, &groups.concat()), &[]).assert().success();
    let cells = index(folder.path()).cells;
    let found: Vec<_> = cells.iter().map(|c| (c.cell_line.as_str(), c.trained_on.join("+"))).collect();
    let wanted = [("A", "B"), ("B", "A"), ("C", "A"), ("C", "B"), ("C", "A+B"), ("all", "A+B+C"), ("B", "B")]
        .map(|(s, t)| (s, t.to_string()));
    assert_eq!(found, wanted);
    for cell in &cells {
        let text = read(&folder.path().join("out").join(cell.folder.as_ref().unwrap()), "predictions.tsv");
        let mut reader = csv_lines(&text);
        let scored: Vec<String> = reader.by_ref().collect();
        let expected = |line: &String| cell.cell_line == "all" || *line == cell.cell_line;
        assert!(!scored.is_empty() && scored.iter().all(expected), "{}: {scored:?}", cell.title());
    }
}

/// The cell line of each line of `predictions.tsv`.
fn csv_lines(text: &[u8]) -> impl Iterator<Item = String> {
    let text = String::from_utf8(text.to_vec()).unwrap();
    let lines: Vec<String> = text.lines().skip(1).map(|l| l.split('\t').nth(1).unwrap().to_string()).collect();
    lines.into_iter()
}

#[test]
fn trees_take_all_folds_in_one_cell_and_read_no_sequence() {
    let folder = tempfile::tempdir().unwrap();
    let mut table = String::from(
        "enhancer_chrom,enhancer_start,enhancer_end,promoter_chrom,promoter_start,promoter_end,label,CTCF (enhancer),CTCF (promoter)\n",
    );
    for i in 0..200u32 {
        let (chromosome, start, label) = (1 + i % 5, 10_000 * (i + 1), (i / 5) % 4 == 0);
        let signal = f64::from(u8::from(label)) + f64::from(i * 7919 % 100) / 90.0;
        table += &format!(
            "chr{chromosome},{start},{},chr{chromosome},{},{},{},{signal},{}\n",
            start + 500,
            start + 5000,
            start + 5500,
            u8::from(label),
            f64::from(i * 104_729 % 100) / 100.0
        );
    }
    std::fs::write(folder.path().join("features.csv"), table).unwrap();
    let data = "[data.features]\ndataset = \"Features\"\ncell_lines = [\"NHEK\"]\nfeatures = \"features.csv\"\n";
    let trees = |keys: &str| {
        let base = "[[groups]]\nname = \"trees\"\nmodels = [\"target-finder\"]\ndata = [\"features\"]\nof = 4\n";
        format!("{base}protocols = [\"chromosome\"]\nset = [\"model.trees=20\"]\n{keys}\n")
    };
    let file_of = |keys: &str| file(folder.path(), data, &trees(keys));
    study(&file_of("controls = [\"random-dna\"]"), &[]).assert().code(2).stderr(contains("no sequence"));
    study(&file_of("folds = \"all\"\ncell_lines = [\"NHEK\"]"), &[]).assert().success();
    let cells = index(folder.path()).cells;
    assert_eq!((cells.len(), cells[0].fold, cells[0].folds), (1, None, 4));
    let run = folder.path().join("out/runs/target-finder/Features-NHEK/chromosome/allof4-seed1");
    let scores: Value = serde_json::from_slice(&read(&run, "metrics.json")).unwrap();
    assert_eq!((&scores["n"], &scores["folds"]), (&200.into(), &serde_json::json!([0, 1, 2, 3])));
}

#[test]
fn controls_change_the_sequence_and_nothing_else() {
    let plain = tiny_contents(40, 3).into_dataset().unwrap();
    let sequences = |d: &Dataset, side| (0..40).map(|e| d.stored_codes(side, e)).collect::<Vec<_>>();
    for control in [Control::PromoterOnly, Control::EnhancerOnly, Control::RandomDna] {
        let changed = controlled(plain.clone(), control).unwrap();
        assert_eq!(changed.table(), plain.table(), "pairs and labels stay");
        assert_ne!(changed.fingerprint(), plain.fingerprint());
        for side in [Side::Enhancer, Side::Promoter] {
            let (old, new) = (sequences(&plain, side), sequences(&changed, side));
            let kept = matches!(
                (control, side),
                (Control::PromoterOnly, Side::Promoter) | (Control::EnhancerOnly, Side::Enhancer)
            );
            if kept {
                assert_eq!(old, new);
            } else if control == Control::RandomDna {
                // Every element has bases of its own, the same each time, that share with the old ones what chance gives.
                let distinct: std::collections::HashSet<_> = new.iter().collect();
                assert_eq!(distinct.len(), 40);
                let equal: usize =
                    old.iter().zip(&new).map(|(a, b)| a.iter().zip(b).filter(|(x, y)| x == y).count()).sum();
                let share = equal as f64 / old.iter().map(Vec::len).sum::<usize>() as f64;
                assert!((share - 0.25).abs() < 0.03, "{share}");
            } else {
                assert!(new.iter().all(|codes| codes == &new[0] && codes.iter().all(|c| *c < 4)), "one window for all");
            }
        }
        assert_eq!(controlled(plain.clone(), control).unwrap().fingerprint(), changed.fingerprint());
    }
    // The window itself does not depend on the flanks that a file stores beside it.
    let mut narrow = tiny_contents(40, 3);
    narrow.flank = 0;
    for (side, length) in crate::support::LENGTHS.into_iter().enumerate() {
        narrow.windows[side] = epi_engine::data::window::Windows::new(length);
        let of = [Side::Enhancer, Side::Promoter][side];
        for element in 0..40 {
            narrow.windows[side].push(&plain.codes(of, element));
        }
    }
    let [narrow, wide] = [narrow.into_dataset().unwrap(), plain].map(|d| controlled(d, Control::RandomDna).unwrap());
    assert_eq!(narrow.codes(Side::Promoter, 7), wide.codes(Side::Promoter, 7));
    // Without coordinates splits follow sequence, so an element cannot be taken away.
    let mut placeless = tiny_contents(40, 3);
    placeless.pairs.enhancers.iter_mut().for_each(|e| e.contig = None);
    placeless.pairs.promoters.iter_mut().for_each(|e| e.contig = None);
    let error = controlled(placeless.into_dataset().unwrap(), Control::PromoterOnly).unwrap_err().to_string();
    assert!(error.contains("coordinates"), "{error}");
}

#[test]
fn the_bundled_checkpoint_gives_the_scores_that_its_folder_records() {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/epsat-bengi");
    let recorded = String::from_utf8(read(&run, "predictions.tsv")).unwrap();
    let lines: Vec<Vec<&str>> = recorded.lines().step_by(170).skip(1).map(|l| l.split('\t').collect()).collect();
    assert!(lines.len() >= 3);
    let folder = tempfile::tempdir().unwrap();
    let pairs = folder.path().join("pairs.tsv");
    let head = "enh_chrom\tenh_start\tenh_end\tprom_chrom\tprom_start\tprom_end\tdataset\n".to_string();
    let rows = lines.iter().map(|l| format!("{}\t{}\n", l[2..8].join("\t"), l[1]));
    std::fs::write(&pairs, rows.fold(head, |text, row| text + &row)).unwrap();
    let out = program(&["predict", run.to_str().unwrap(), "--device", "cpu", "--json", "--pairs"])
        .arg(&pairs)
        .assert()
        .success()
        .get_output()
        .clone();
    let document: Value = serde_json::from_slice(&out.stdout).unwrap();
    let scores: Vec<f64> = document["scores"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).collect();
    assert_eq!(scores.len(), lines.len());
    // Another instruction set rounds otherwise.
    for (score, line) in scores.iter().zip(&lines) {
        let wanted: f64 = line[9].parse().unwrap();
        assert!((score - wanted).abs() < 1e-4, "{score} for {line:?}");
    }
    // The card quotes what metrics.json says.
    let (card, scores) = (String::from_utf8(read(&run, "README.md")).unwrap(), read(&run, "metrics.json"));
    let scores: Value = serde_json::from_slice(&scores).unwrap();
    for name in ["aupr", "auroc"] {
        let [value, low, high] = ["", "_low", "_high"].map(|end| scores[format!("{name}{end}")].as_f64().unwrap());
        let text = format!("{value:.3} [{low:.3}, {high:.3}]");
        assert!(card.contains(&text), "the card lacks {name} {text}");
    }
}

/// Scores that know nothing, so that only the baselines of the report say something.
fn baselines_only(kind: &str) -> Report {
    let dataset = demo().unwrap();
    let config = config::load("epsat", &[format!("split.kind={kind}")]).unwrap();
    let split = session::make_split(&config, &dataset).unwrap();
    let [test, validation] = [&split.test, &split.validation].map(|part| vec![0.5; part.len()]);
    let fold = FoldScores {
        split: &split,
        part: Scored { samples: &split.test, scores: &test },
        validation: Scored { samples: &split.validation, scores: &validation },
    };
    evaluate(dataset.table(), &[fold], &Options::default()).unwrap()
}

/// On random DNA nothing is left of an element but its identity. What that is worth where the released program's rows are drawn
/// is what the element lookup scores on them; networks of the study stand beside this figure.
#[test]
fn names_alone_tell_the_labels_that_the_released_program_draws() {
    let [leaky, sound] = ["paper-code", "chromosome"].map(baselines_only);
    let lookup = |report: &Report, name: &str| report.lookup.get(name).0.unwrap();
    assert!((lookup(&leaky, "aupr") - 0.9906).abs() < 5e-4, "AUPR {}", lookup(&leaky, "aupr"));
    assert!((lookup(&leaky, "auroc") - 0.9364).abs() < 5e-4, "AUROC {}", lookup(&leaky, "auroc"));
    assert!(leaky.lookup.get("aupr").1.is_none(), "one component holds nearly all pairs");
    assert_eq!(lookup(&sound, "auroc"), 0.5);
    assert!(sound.lookup.get("aupr").1.is_some());
    for model in ["epsat", "epsat-random-dna", "speid", "speid-random-dna"] {
        let run =
            format!("{}/examples/study/runs/{model}/BENGI-all/paper-code/fold0of10-seed1", env!("CARGO_MANIFEST_DIR"));
        let kept: Value = serde_json::from_slice(&read(Path::new(&run), "metrics.json")).unwrap();
        let kept = kept["baselines"]["lookup"]["aupr"].as_f64().unwrap();
        assert!((kept - lookup(&leaky, "aupr")).abs() < 1e-9, "{model}: the study's rows are other ones");
    }
}
