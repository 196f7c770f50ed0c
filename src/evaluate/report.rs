//! The report of an evaluation: JSON for machines, a table for people.

use super::Reconstruction;
use crate::metrics::{Calibration, Confusion, Interval, Scores};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// Scores and their 95 % intervals, in the order of [`Scores::NAMES`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimates {
    pub scores: Scores,
    pub intervals: [Option<Interval>; 8],
}

impl Estimates {
    /// Value and interval of the score called `name` (one of [`Scores::NAMES`]).
    pub fn get(&self, name: &str) -> (Option<f64>, Option<Interval>) {
        let at = Scores::NAMES.iter().position(|&n| n == name);
        at.map_or((None, None), |at| (self.scores.values()[at], self.intervals[at]))
    }
    /// `{name: value, name_low, name_high}` of the named scores; null where the data define none.
    pub fn to_json(&self, names: &[&str]) -> Map<String, Value> {
        let mut map = Map::new();
        for name in names {
            let (value, interval) = self.get(name);
            map.insert((*name).into(), json!(value));
            map.insert(format!("{name}_low"), json!(interval.map(|i| i.low)));
            map.insert(format!("{name}_high"), json!(interval.map(|i| i.high)));
        }
        map
    }
}

/// Scores of the rows of one chromosome or one distance bin.
#[derive(Clone, Debug, PartialEq)]
pub struct Stratum {
    pub name: String,
    pub n: usize,
    pub positives: usize,
    pub scores: Scores,
}

/// The scores of EPSAT's released program, printed beside the sound ones under `paper-code`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PaperScores {
    /// Macro F1 at 0.5 over the whole part.
    pub macro_f1: Option<f64>,
    /// Macro F1 at 0.5 of each batch, averaged: what the program prints.
    pub macro_f1_per_batch: Option<f64>,
    pub batch: usize,
}

/// Everything that is known about the scores of a part.
#[derive(Clone, Debug)]
pub struct Report {
    pub split: String,
    /// The folds pooled here.
    pub folds: Vec<u32>,
    pub leaky: bool,
    pub n: usize,
    pub positives: usize,
    pub scores: Estimates,
    /// Positive calls are scores at or above it (the mean over folds).
    pub f1_threshold: f64,
    /// Chosen on validation in every fold; otherwise some fold uses 0.5.
    pub f1_threshold_chosen: bool,
    pub confusion: Confusion,
    pub calibration: Calibration,
    pub lookup: Estimates,
    /// `None` without coordinates.
    pub distance: Option<Estimates>,
    /// What intervals resample, and how many there are.
    pub unit: &'static str,
    pub units: u32,
    pub per_chromosome: Vec<Stratum>,
    pub per_distance: Vec<Stratum>,
    pub paper: Option<PaperScores>,
    /// How well an autoencoder gives back the sequences.
    pub reconstruction: Option<Reconstruction>,
    pub warnings: Vec<String>,
}

const BASELINE: [&str; 2] = ["aupr", "auroc"];

impl Report {
    /// The document of `evaluate --json` and `metrics.json`.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        if self.leaky {
            map.insert("LEAKY".into(), json!(self.split));
        }
        map.extend([
            ("split".into(), json!(self.split)),
            ("folds".into(), json!(self.folds)),
            ("leaky".into(), json!(self.leaky)),
            ("n".into(), json!(self.n)),
            ("positives".into(), json!(self.positives)),
        ]);
        map.extend(self.scores.to_json(&Scores::NAMES));
        map.insert("f1_threshold".into(), json!(self.f1_threshold));
        map.insert("f1_threshold_chosen".into(), json!(self.f1_threshold_chosen));
        map.insert("interval_unit".into(), json!(self.unit));
        map.insert("interval_units".into(), json!(self.units));
        let distance = self.distance.map(|d| d.to_json(&BASELINE));
        map.insert("baselines".into(), json!({"lookup": self.lookup.to_json(&BASELINE), "distance": distance}));
        let c = &self.confusion;
        map.insert(
            "confusion".into(),
            json!({
                "true_positives": c.true_positives as u64, "false_positives": c.false_positives as u64,
                "true_negatives": c.true_negatives as u64, "false_negatives": c.false_negatives as u64,
            }),
        );
        let bin = |b: &crate::metrics::Bin| json!({"low": b.low, "high": b.high, "n": b.n, "mean_score": b.mean_score, "positive_rate": b.positive_rate});
        let bins: Vec<Value> = self.calibration.bins.iter().map(bin).collect();
        map.insert("calibration".into(), json!({"ece": self.calibration.ece, "bins": bins}));
        let strata = |strata: &[Stratum]| -> Value {
            let one = |s: &Stratum| {
                let Scores { auroc, aupr, base_rate, .. } = s.scores;
                json!({"name": s.name, "n": s.n, "positives": s.positives, "base_rate": base_rate, "aupr": aupr, "auroc": auroc})
            };
            strata.iter().map(one).collect()
        };
        map.insert("per_chromosome".into(), strata(&self.per_chromosome));
        map.insert("per_distance".into(), strata(&self.per_distance));
        if let Some(p) = self.paper {
            let batch = p.batch;
            map.insert("macro_f1".into(), json!(p.macro_f1));
            map.insert("macro_f1_per_batch".into(), json!({"value": p.macro_f1_per_batch, "batch": batch}));
        }
        if let Some(r) = &self.reconstruction {
            map.insert("reconstruction".into(), r.to_json());
        }
        map.insert("warnings".into(), json!(self.warnings));
        map.into()
    }

    /// The table that `train`, `evaluate` and `make demo` print: `model` beside the baselines, then what intervals mean.
    pub fn table(&self, model: &str) -> String {
        let mut text = String::new();
        if self.leaky {
            let _ = writeln!(
                text,
                "LEAKY: `{}` scores what training has seen; these figures say nothing about new loci",
                self.split
            );
        }
        let base = self.scores.scores.base_rate;
        let mut row = |name: &str, cells: [String; 3]| {
            let _ = writeln!(text, "{name:<16}{:<24}{:<24}{}", cells[0], cells[1], cells[2].trim_end());
        };
        row("", ["AUPR".into(), "AUROC".into(), format!("F1 at {:.3}", self.f1_threshold)]);
        let scored = |e: &Estimates, f1: bool| {
            let cell = |name| shown(e.get(name));
            [cell("aupr"), cell("auroc"), if f1 { cell("f1") } else { String::new() }]
        };
        row(model, scored(&self.scores, true));
        row("base rate", [shown((base, None)), shown((Some(0.5), None)), String::new()]);
        match &self.distance {
            Some(distance) => row("distance", scored(distance, false)),
            None => row("distance", ["n/a (no coordinates)".into(), String::new(), String::new()]),
        }
        row("element lookup", scored(&self.lookup, false));
        let Report { n, positives, units, unit, .. } = self;
        let intervals = match (units, self.scores.get("base_rate").1) {
            (0 | 1, _) => format!("no intervals: all pairs belong to one of the {unit}"),
            (_, None) => format!("no intervals: nearly all pairs belong to one of {units} {unit}"),
            (_, Some(_)) => format!("95 % intervals resample {units} {unit}"),
        };
        let _ = writeln!(text, "{n} pairs, {positives} positive; {intervals}");
        if let Some(p) = self.paper {
            let _ = writeln!(
                text,
                "macro F1 at 0.5: {} per batch of {}, averaged, as released; {} over the whole part",
                shown((p.macro_f1_per_batch, None)),
                p.batch,
                shown((p.macro_f1, None))
            );
        }
        if let Some(r) = &self.reconstruction {
            let _ = writeln!(text, "reconstruction: {}; guessing is right in one base of four", r.brief());
        }
        text
    }
}

/// `0.123 [0.100, 0.150]`, or `n/a`.
pub(super) fn shown((value, interval): (Option<f64>, Option<Interval>)) -> String {
    match (value, interval) {
        (None, _) => "n/a".into(),
        (Some(v), None) => format!("{v:.3}"),
        (Some(v), Some(i)) => format!("{v:.3} [{:.3}, {:.3}]", i.low, i.high),
    }
}
