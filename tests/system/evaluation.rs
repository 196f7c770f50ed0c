//! Reports, predictions.tsv and paired comparison.

use epi_engine::data::split::{Split, SplitSpec, split};
use epi_engine::data::{Element, PairTable, Row, Sample};
use epi_engine::evaluate::{
    FoldScores, Options, Prediction, Report, Scored, compare, evaluate, predictions, read_predictions,
    write_predictions,
};
use epi_engine::metrics::Scores;
use epi_engine::rng::Stream;

/// `contigs` chromosomes of 20 loci, every third positive.
fn table(contigs: u32) -> PairTable {
    let place = |i: u32, at: i64| {
        let start = 50_000 * i64::from(i / contigs) + at;
        Element { contig: Some(i % contigs), start, end: start + 200 }
    };
    let n = 20 * contigs;
    PairTable {
        contigs: (1..=contigs).map(|c| format!("chr{c}")).collect(),
        enhancers: (0..n).map(|i| place(i, 0)).collect(),
        promoters: (0..n).map(|i| place(i, 8_000 + 1000 * i64::from(i % 5))).collect(),
        cell_lines: vec!["A".into()],
        rows: (0..n)
            .map(|i| Row { enhancer: i, promoter: i, label: u8::from((i / contigs).is_multiple_of(3)), cell_line: 0 })
            .collect(),
        enhancer_length: 300,
        promoter_length: 200,
        ..PairTable::default()
    }
}

fn parts(table: &PairTable, kind: &str, folds: u32) -> Vec<Split> {
    let rows: Vec<u32> = (0..table.rows.len() as u32).collect();
    let spec = |fold| SplitSpec { fold, folds: Some(folds), ..SplitSpec::new(kind.parse().unwrap()) };
    (0..folds).map(|fold| split(table, &rows, &spec(fold), None).unwrap()).collect()
}

/// Scores that know the label up to noise.
fn noisy(samples: &[Sample], noise: f32, seed: u64) -> Vec<f32> {
    let score = |s: &Sample| {
        let mut numbers = Stream::new(seed, 5, s.row);
        (1.0 - noise) * f32::from(s.label) + noise * numbers.uniform()
    };
    samples.iter().map(score).collect()
}

/// Folds and the scores of their test and validation parts.
struct Scoring {
    splits: Vec<Split>,
    scores: Vec<[Vec<f32>; 2]>,
}

impl Scoring {
    fn new(table: &PairTable, kind: &str, folds: u32, noise: f32) -> Self {
        let splits = parts(table, kind, folds);
        let scores = splits.iter().map(|s| [noisy(&s.test, noise, 1), noisy(&s.validation, noise, 2)]).collect();
        Scoring { splits, scores }
    }
    fn folds(&self) -> Vec<FoldScores<'_>> {
        self.splits
            .iter()
            .zip(&self.scores)
            .map(|(split, [test, validation])| FoldScores {
                split,
                part: Scored { samples: &split.test, scores: test },
                validation: Scored { samples: &split.validation, scores: validation },
            })
            .collect()
    }
    fn report(&self, table: &PairTable) -> Report {
        evaluate(table, &self.folds(), &Options { replicates: 200, ..Options::default() }).unwrap()
    }
    fn predictions(&self, table: &PairTable) -> Vec<Prediction> {
        predictions(table, &self.folds(), &Options::default()).unwrap()
    }
}

#[test]
fn a_report_has_the_promised_keys_and_no_nan() {
    let table = table(12);
    let report = Scoring::new(&table, "chromosome", 3, 0.7).report(&table);
    let json = report.to_json();
    for key in Scores::NAMES {
        let [value, low, high] = ["", "_low", "_high"].map(|end| json[format!("{key}{end}")].as_f64().unwrap());
        assert!(low <= high && (0.0..=1.5).contains(&value), "{key}: {value} [{low}, {high}]");
    }
    for baseline in ["lookup", "distance"] {
        for key in ["aupr", "auroc", "aupr_low", "aupr_high"] {
            assert!(json["baselines"][baseline][key].is_f64(), "{baseline}.{key}");
        }
    }
    assert_eq!((&json["leaky"], &json["n"], &json["positives"]), (&false.into(), &240.into(), &84.into()));
    assert_eq!((&json["interval_unit"], &json["interval_units"]), (&"chromosomes".into(), &12.into()));
    assert!(json.get("LEAKY").is_none() && !json.to_string().contains("NaN"));
    assert_eq!(json["baselines"]["lookup"]["auroc"], 0.5, "no element of a test row is known");
    assert_eq!(json["per_chromosome"].as_array().unwrap().len(), 12);
    let by_distance: u64 = json["per_distance"].as_array().unwrap().iter().map(|s| s["n"].as_u64().unwrap()).sum();
    assert_eq!(by_distance, 240);
    let text = report.table("EPSAT");
    for row in ["EPSAT", "base rate", "distance", "element lookup", "12 chromosomes"] {
        assert!(text.contains(row), "{text}");
    }
}

#[test]
fn few_chromosomes_resample_components_and_say_so() {
    let table = table(4);
    let report = Scoring::new(&table, "chromosome", 4, 0.7).report(&table);
    assert_eq!((report.unit, report.units), ("components", 80));
}

#[test]
fn the_threshold_comes_from_validation_or_is_one_half_and_said() {
    let table = table(12);
    let scored = Scoring::new(&table, "chromosome", 3, 0.4);
    let chosen = scored.report(&table);
    assert!(chosen.f1_threshold_chosen && chosen.f1_threshold > 0.4);
    let blind: Vec<_> = scored.folds().into_iter().map(|f| FoldScores { validation: Scored::NONE, ..f }).collect();
    let report = evaluate(&table, &blind, &Options { replicates: 0, ..Options::default() }).unwrap();
    assert_eq!((report.f1_threshold, report.f1_threshold_chosen), (0.5, false));
    assert!(report.warnings.iter().any(|w| w.contains("0.5")));
    assert_eq!(report.scores.get("auroc").1, None, "no replicates, no interval");
}

#[test]
fn leaky_reports_and_predictions_are_stamped() {
    let table = table(12);
    let scored = Scoring::new(&table, "paper-code", 10, 0.7);
    let report = scored.report(&table);
    assert_eq!(report.to_json()["LEAKY"], "paper-code");
    assert!(report.table("EPSAT").starts_with("LEAKY") && report.paper.is_some());
    assert!(scored.predictions(&table).iter().all(|p| p.split == "paper-code:LEAKY"));
}

#[test]
fn a_score_that_is_no_number_is_an_error_with_its_row() {
    let table = table(12);
    let mut scored = Scoring::new(&table, "chromosome", 3, 0.7);
    scored.scores[1][0][4] = f32::NAN;
    let row = scored.splits[1].test[4].row;
    let error = evaluate(&table, &scored.folds(), &Options::default()).unwrap_err().to_string();
    assert!(error.contains(&format!("row {row}")), "{error}");
    assert!(evaluate(&table, &[], &Options::default()).is_err());
}

#[test]
fn predictions_come_back_as_written() {
    let table = table(12);
    let mut nowhere = table.clone();
    nowhere.enhancers.iter_mut().chain(&mut nowhere.promoters).for_each(|e| e.contig = None);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("predictions.tsv");
    for (table, kind) in [(&table, "chromosome"), (&nowhere, "component")] {
        let lines = Scoring::new(table, kind, 3, 0.7).predictions(table);
        write_predictions(&path, &lines).unwrap();
        assert_eq!(read_predictions(&path).unwrap(), lines);
    }
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("\t0\t", "\tmaybe\t", 1)).unwrap();
    let error = read_predictions(&path).unwrap_err().to_string();
    assert!(error.contains("predictions.tsv:") && error.contains("not a line"), "{error}");
}

#[test]
fn comparison_is_paired() {
    let table = table(12);
    let [good, poor] = [0.6, 0.95].map(|noise| Scoring::new(&table, "chromosome", 3, noise).predictions(&table));
    let same = compare(&good, &good, 0, 200).unwrap();
    assert!(same.differences.iter().all(|d| d.difference == Some(0.0) && d.a_higher == Some(0.5)), "{same:?}");
    assert!(same.warnings.is_empty());
    let better = compare(&good, &poor, 0, 200).unwrap();
    let auroc = better.differences.iter().find(|d| d.name == "auroc").unwrap();
    assert!(auroc.interval.unwrap().low > 0.0 && auroc.a_higher == Some(1.0), "{auroc:?}");
    let part = compare(&good, &poor[40..], 0, 200).unwrap();
    assert_eq!(part.n, good.len() - 40);
    assert!(part.warnings[0].contains("both runs"), "{:?}", part.warnings);
    let mut other = poor.clone();
    other.iter_mut().for_each(|p| p.cell_line = "B".into());
    assert!(compare(&good, &other, 0, 200).is_err());
    assert!(better.table("runs/a", "runs/b").contains("12 chromosomes"));
    assert_eq!(better.to_json()["scores"]["auroc"]["a_higher"], 1.0);
}
