//! `report`: the page, its figures and tables, what is missing, what is damaged, and a study in every state.

use std::fs;
use std::path::{Path, PathBuf};

use epi_engine::study::{Cell, CellState, Control, Index};
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;

use crate::support::{TINY, program, read, tiny_contents, tiny_file, train, train_tiny};

/// Figures of every run of a network.
const FIGURES: [&str; 9] = [
    "baselines-aupr",
    "baselines-auroc",
    "roc",
    "precision-recall",
    "calibration",
    "figure-4-f1",
    "figure-3-loss",
    "figure-3-validation",
    "figure-5-activations",
];
const TABLES: [&str; 8] = [
    "test-scores",
    "calibration-bins",
    "per-chromosome",
    "per-distance",
    "table-3-f1",
    "table-3-published",
    "table-1-pairs",
    "table-2-parameters",
];

fn report(folder: &Path) -> Value {
    let out = program(&["report", folder.to_str().unwrap(), "--json"]).assert().success().get_output().stdout.clone();
    serde_json::from_slice(&out).unwrap()
}

fn page(folder: &Path) -> String {
    String::from_utf8(read(folder, "report.html")).unwrap()
}

fn table(folder: &Path, name: &str) -> Vec<Vec<String>> {
    let text = String::from_utf8(read(folder, &format!("tables/{name}.tsv"))).unwrap();
    text.lines().map(|l| l.split('\t').map(str::to_string).collect()).collect()
}

/// The page needs nothing but itself, and what it shows has its file.
fn stands_alone(folder: &Path, page: &str) {
    assert!(
        !page.contains("http:") && !page.contains("https:") && !page.contains("<script"),
        "a page without a network"
    );
    assert!(!page.contains(" src=") && !page.contains("url(") && !page.contains("NaN"));
    let links: Vec<&str> = page.split("href='").skip(1).map(|rest| rest.split('\'').next().unwrap()).collect();
    assert!(links.len() > 5 && links.iter().all(|l| l.starts_with('#') && page.contains(&format!("id='{}'", &l[1..]))));
    let ids: Vec<&str> = page.split(" id='").skip(1).map(|rest| rest.split('\'').next().unwrap()).collect();
    let mut once = ids.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), ids.len(), "an id is used twice");
    for svg in page.split("<svg ").skip(1) {
        let id = svg.split("id='").nth(1).unwrap().split('\'').next().unwrap();
        let file = String::from_utf8(read(folder, &format!("figures/{id}.svg"))).unwrap();
        assert!(file.contains("xmlns=") && file.contains("<desc") && file.ends_with("</svg>\n"), "{id}");
        assert!(svg.contains("role='img'") && !file.contains("var("), "{id}");
    }
}

struct Run {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn trained(tiny: usize, settings: &[&str], split: Option<&str>) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let (data, path) = (tiny_file(folder.path(), 160), folder.path().join("run"));
    let mut command = train_tiny(&TINY[tiny], &data, &path, &[&["train.epochs=2"], settings].concat());
    split.map(|s| command.args(["--split", s]));
    command.assert().success();
    Run { _folder: folder, path }
}

#[test]
fn a_run_has_its_page_its_figures_and_its_tables() {
    let run = trained(0, &[], None);
    let written = report(&run.path);
    let page = page(&run.path);
    stands_alone(&run.path, &page);
    FIGURES.iter().for_each(|id| assert!(page.contains(&format!("class='drawing' id='{id}'")), "{id}"));
    TABLES.iter().for_each(|id| assert!(page.contains(&format!("class='table' id='{id}'")), "{id}"));
    assert_eq!(written["figures"].as_array().unwrap().len(), FIGURES.len());
    assert_eq!(written["tables"].as_array().unwrap().len(), TABLES.len());
    let metrics: Value = serde_json::from_slice(&read(&run.path, "metrics.json")).unwrap();
    assert_eq!(written["key"]["aupr"], metrics["aupr"]);
    // The TSV holds the numbers of metrics.json, all digits.
    let scores = table(&run.path, "test-scores");
    let column = |name: &str| scores[0].iter().position(|c| c == name).unwrap();
    for (name, key) in [("AUPR", "aupr"), ("AUROC", "auroc"), ("F1", "f1"), ("Brier", "brier")] {
        for (end, suffix) in [("", ""), ("_low", "_low"), ("_high", "_high")] {
            let value: f64 = scores[1][column(&format!("{name}{end}"))].parse().unwrap();
            assert_eq!(value, metrics[format!("{key}{suffix}")].as_f64().unwrap(), "{name}{end}");
        }
    }
    assert_eq!(table(&run.path, "table-1-pairs")[1][..4], ["tiny", "160", "56", "104"]);
    // One line of the data, so F1 of the line is F1 of the run.
    let (f1, row) = (table(&run.path, "table-3-f1"), metrics["f1"].as_f64().unwrap());
    assert_eq!(f1[1][6].parse::<f64>().unwrap(), row);
    assert!(page.contains("no latent") || page.contains("this model has none"));
    assert!(!page.contains("LEAKY"), "a sound protocol");
    // Again, and elsewhere.
    let before = fs::read(run.path.join("report.html")).unwrap();
    report(&run.path);
    assert_eq!(before, fs::read(run.path.join("report.html")).unwrap());
    let elsewhere = run.path.join("../site");
    program(&["report"]).arg(&run.path).arg("--out").arg(&elsewhere).assert().success().stdout(contains("9 figures"));
    assert_eq!(before, fs::read(elsewhere.join("report.html")).unwrap());
}

#[test]
fn a_leak_is_stamped_on_every_figure_and_table() {
    let run = trained(0, &[], Some("random"));
    let written = report(&run.path);
    assert_eq!(written["key"]["leaky"], true);
    for figure in written["figures"].as_array().unwrap() {
        let text = fs::read_to_string(figure.as_str().unwrap()).unwrap();
        assert!(text.contains("LEAKY: random"), "{figure}");
    }
    let own = |t: &&&str| !t.contains("published") && !t.contains("-1-") && !t.contains("-2-");
    for name in TABLES.iter().filter(own) {
        let rows = table(&run.path, name);
        assert!(rows[1..].iter().all(|r| r.last().unwrap() == "random:LEAKY"), "{name}: {rows:?}");
    }
    assert!(page(&run.path).contains("LEAKY: random") && written["verdict"].as_str().unwrap().contains("new loci"));
}

#[test]
fn an_autoencoder_says_how_to_map_its_code_and_then_shows_it() {
    let run = trained(2, &[], None);
    report(&run.path);
    assert!(page(&run.path).contains("epi-engine explain latent"));
    program(&["explain", "latent", run.path.to_str().unwrap(), "--device", "cpu", "--copies", "5"]).assert().success();
    report(&run.path);
    let page = page(&run.path);
    stands_alone(&run.path, &page);
    for id in ["figure-5-input", "figure-5-code", "figure-5-logits"] {
        assert!(page.contains(&format!("class='drawing' id='{id}'")), "{id}");
    }
    let parts = table(&run.path, "table-2-parameters");
    assert!(parts.iter().any(|r| r[1] == "encoder" && r[3] == "85619200"), "{parts:?}");
}

#[test]
fn trees_of_all_folds_have_a_report_too() {
    let folder = tempfile::tempdir().unwrap();
    let (features, run) = (folder.path().join("training.csv"), folder.path().join("run"));
    let mut text = String::from(
        "bin,enhancer_chrom,enhancer_start,enhancer_end,enhancer_name,promoter_chrom,promoter_start,promoter_end,promoter_name,\
         label,X (enhancer),<b> (promoter)\n",
    );
    for i in 0..120u32 {
        let (chrom, at, label) = (i % 12 + 1, 10_000 + 5_000 * i, u32::from((i / 12) % 3 == 0));
        text += &format!(
            "0,chr{chrom},{at},{},NHEK|chr{chrom}:{at},chr{chrom},{},{},NHEK|p{i},{label},{},{}\n",
            at + 500,
            at + 900,
            at + 1400,
            label * 3 + i % 2,
            i % 7
        );
    }
    fs::write(&features, text).unwrap();
    program(&["train", "--preset", "target-finder", "--set", "model.trees=20", "--fold", "all", "--features"])
        .arg(&features)
        .arg("--out")
        .arg(&run)
        .assert()
        .success();
    report(&run);
    let page = page(&run);
    stands_alone(&run, &page);
    assert!(
        page.contains("Trees have no loss curve") && page.contains("&lt;b&gt; (promoter)") && !page.contains("<b> ")
    );
    let row = &table(&run, "table-3-f1")[1];
    assert_eq!((row[0].as_str(), row[9].as_str()), ("NHEK", "0.592"), "{row:?}");
}

#[test]
fn what_is_missing_is_said_and_what_is_damaged_is_an_error() {
    let run = trained(0, &[], None);
    let at = |name: &str| run.path.join(name);
    let fails = |name: &str, say: &str| {
        program(&["report"]).arg(&run.path).assert().code(1).stderr(contains(name).and(contains(say)));
    };
    let predictions = fs::read_to_string(at("predictions.tsv")).unwrap();
    fs::write(at("predictions.tsv"), predictions.replacen("\t0\t", "\tx\t", 1)).unwrap();
    fails("predictions.tsv:", "not a line");
    fs::remove_file(at("predictions.tsv")).unwrap();
    report(&run.path);
    assert!(page(&run.path).contains("No predictions.tsv") && page(&run.path).contains("train --resume"));
    let metrics = fs::read_to_string(at("metrics.json")).unwrap();
    fs::write(at("metrics.json"), &metrics[..metrics.len() / 2]).unwrap();
    fails("metrics.json:", "--resume");
    fs::remove_file(at("metrics.json")).unwrap();
    let written = report(&run.path);
    assert!(written["verdict"].as_str().unwrap().contains("not finished"));
    assert!(page(&run.path).contains("class='drawing' id='figure-3-loss'"), "what there is is drawn");
    let log = fs::read_to_string(at("metrics.jsonl")).unwrap();
    fs::write(at("metrics.jsonl"), log.trim_end().trim_end_matches('}')).unwrap();
    report(&run.path);
    fs::write(at("metrics.jsonl"), log.replacen('{', "", 1)).unwrap();
    fails("metrics.jsonl:1", "not a line");
    program(&["report", "/nowhere"]).assert().code(1).stderr(contains("/nowhere"));
}

#[test]
fn names_of_users_stay_text() {
    let folder = tempfile::tempdir().unwrap();
    let (data, run) = (folder.path().join("x.epi"), folder.path().join("run & <i>"));
    let mut contents = tiny_contents(160, 3);
    contents.pairs.cell_lines = vec!["<script>alert(1)</script>".into()];
    contents.write(&data).unwrap();
    train(&data, &run, &["train.epochs=1"]).assert().success();
    report(&run);
    let page = page(&run);
    stands_alone(&run, &page);
    assert!(page.contains("&lt;script&gt;alert(1)") && page.contains("run &amp; &lt;i&gt;"));
    let figure = String::from_utf8(read(&run, "figures/figure-4-f1.svg")).unwrap();
    assert!(figure.contains("&lt;script&gt;"));
}

/// A cell of a study whose run is a copy of `run`.
fn cell(study: &Path, run: Option<&Path>, name: &str, change: impl FnOnce(&mut Cell)) -> Cell {
    let mut cell = Cell {
        group: "a".into(),
        model: "epsat".into(),
        preset: "epsat".into(),
        dataset: "tiny & small".into(),
        cell_line: "tiny".into(),
        data: None,
        protocol: "chromosome".into(),
        fold: Some(0),
        folds: 5,
        seed: 1,
        control: Control::None,
        trained_on: vec!["tiny".into()],
        budget_samples: 100,
        folder: Some(PathBuf::from("runs").join(name)),
        state: if run.is_some() { CellState::Done } else { CellState::Pending },
        reason: None,
        samples_seen: 0,
        seconds: 0.0,
    };
    if let Some(run) = run {
        let to = study.join("runs").join(name);
        fs::create_dir_all(&to).unwrap();
        for file in ["config.toml", "metrics.json", "metrics.jsonl", "predictions.tsv", "state.json"] {
            fs::copy(run.join(file), to.join(file)).unwrap();
        }
    }
    change(&mut cell);
    cell
}

#[test]
fn a_study_shows_every_state() {
    let (first, second) = (trained(0, &[], None), trained(0, &["split.fold=1"], None));
    let leaky = trained(0, &[], Some("random"));
    let study = tempfile::tempdir().unwrap();
    let folder = study.path();
    let made = |run: &Run, name: &str, change: &dyn Fn(&mut Cell)| cell(folder, Some(&run.path), name, change);
    let state = |state: CellState, name: &str, reason: Option<&str>, line: &str| {
        cell(folder, None, name, |c| {
            (c.state, c.reason, c.cell_line) = (state, reason.map(str::to_string), line.into());
            c.trained_on = vec![line.into()];
        })
    };
    let cells = vec![
        made(&first, "one", &|_| {}),
        made(&second, "two", &|c| c.fold = Some(1)),
        cell(folder, None, "three", |c| c.fold = Some(2)),
        made(&leaky, "leaky", &|c| c.protocol = "random".into()),
        made(&leaky, "random-dna", &|c| (c.protocol, c.control) = ("random".into(), Control::RandomDna)),
        made(&first, "across", &|c| (c.cell_line, c.protocol) = ("other".into(), "cross-cell".into())),
        made(&first, "damaged", &|c| c.cell_line = "broken".into()),
        state(CellState::NoData, "a", Some("<no> genome"), "absent"),
        state(CellState::Failed, "b", Some("out of memory"), "failing"),
        state(CellState::Interrupted, "c", None, "stopped"),
        state(CellState::Running, "d", None, "running"),
    ];
    fs::write(folder.join("runs/damaged/metrics.json"), "{").unwrap();
    let index = Index {
        version: "1".into(),
        commit: "abc".into(),
        device: "cpu".into(),
        started: "2026-01-01T00:00:00Z".into(),
        command: "epi-engine study x.toml --out 'a & b'".into(),
        cells,
    };
    index.write(folder).unwrap();
    let run = program(&["report", folder.to_str().unwrap(), "--json"]).assert().success();
    let output = run.get_output();
    assert!(String::from_utf8_lossy(&output.stderr).contains("damaged/metrics.json"));
    let written: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(written["key"]["states"]["done"], 6);
    let page = page(folder);
    stands_alone(folder, &page);
    for text in [
        "no data here",
        "failed",
        "interrupted",
        "running",
        "pending",
        "files damaged",
        "&lt;no&gt; genome",
        "2 of 3 runs",
    ] {
        assert!(page.contains(text), "{text}");
    }
    for id in [
        "figure-4-f1-tiny-small-chromosome",
        "figure-4-f1-tiny-small-random",
        "leaks-auroc-tiny-small-tiny",
        "roc-tiny-small-tiny-chromosome",
        "precision-recall-tiny-small-tiny-random",
        "figure-3-loss-EPSAT-tiny-small-chromosome",
        "figure-5-activations-EPSAT-on-random-DNA-tiny-small-random",
    ] {
        assert!(page.contains(&format!("id='{id}'")), "{id}");
    }
    let leaks = table(folder, "leak-table");
    let row = leaks.iter().find(|r| r[0] == "EPSAT on random DNA").unwrap();
    assert_eq!((row[3].as_str(), row[9].as_str()), ("random:LEAKY", "no such run"), "{row:?}");
    let (sound, leak) = (&leaks[1], &leaks[2]);
    assert_eq!((sound[3].as_str(), leak[3].as_str()), ("chromosome", "random:LEAKY"));
    let number = |row: &[String], name: &str| {
        let at = leaks[0].iter().position(|c| c == name).unwrap();
        row[at].parse::<f64>().unwrap()
    };
    let worth = number(leak, "AUROC") - number(sound, "AUROC");
    assert!((number(leak, "less chromosome") - worth).abs() < 1e-12);
    let across = table(folder, "across-auroc-tiny-small");
    assert_eq!(across[0][3], "other");
    assert_eq!(across[1][..3], ["EPSAT", "cross-cell", "tiny"]);
    // The folds are pooled: as many scored pairs as both runs have.
    let n = |run: &Run| {
        let metrics: Value = serde_json::from_slice(&read(&run.path, "metrics.json")).unwrap();
        metrics["n"].as_u64().unwrap()
    };
    let scored = leaks[0].iter().position(|c| c == "scored pairs").unwrap();
    assert_eq!(sound[scored], (n(&first) + n(&second)).to_string());
    fs::write(folder.join("study.json"), "{").unwrap();
    program(&["report"]).arg(folder).assert().code(1).stderr(contains("study.json"));
}
