//! Two runs over the same pairs: is one better beyond what resampling the pairs' loci explains?

use super::Prediction;
use super::report::shown;
use crate::metrics::{Interval, Ranking, Scores, interval, resample};
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fmt::Write;

/// One score of both runs, and how they differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    pub name: &'static str,
    pub a: Option<f64>,
    pub b: Option<f64>,
    /// `a − b`.
    pub difference: Option<f64>,
    /// 95 % interval of the difference over paired replicates.
    pub interval: Option<Interval>,
    /// Share of replicates in which `a` is higher (ties count one half).
    pub a_higher: Option<f64>,
}

/// A paired comparison.
#[derive(Clone, Debug)]
pub struct Comparison {
    pub n: usize,
    pub positives: usize,
    pub unit: &'static str,
    pub units: u32,
    pub leaky: bool,
    pub differences: Vec<Difference>,
    pub warnings: Vec<String>,
}

/// What makes two lines of two files the same pair.
type Key<'a> = (&'a str, [&'a Option<String>; 2], [Option<i64>; 4], u8, Option<u32>, u32);

/// Compares scores of the same pairs by a bootstrap that draws the same units for both.
///
/// Pairs are matched by cell line, coordinates and label (by row where there are no coordinates); pairs that only one run
/// scored are left out with a warning. Base rates are equal by construction and not listed.
///
/// # Errors
/// [`Error::Config`] when the runs have no pair in common.
pub fn compare(a: &[Prediction], b: &[Prediction], seed: u64, replicates: u32) -> Result<Comparison> {
    let in_b: HashMap<Key, &Prediction> = keyed(b).collect();
    let pairs: Vec<(&Prediction, &Prediction)> = keyed(a).filter_map(|(k, x)| Some((x, *in_b.get(&k)?))).collect();
    if pairs.is_empty() {
        let message = "the two runs scored no pair in common: compare runs of the same data, split and fold";
        return Err(Error::config("compare", message));
    }
    let mut warnings = Vec::new();
    if pairs.len() < a.len().max(b.len()) {
        let (n, a, b) = (pairs.len(), a.len(), b.len());
        warnings.push(format!("{n} pairs are in both runs, of {a} and {b}: only these are compared"));
    }
    let leaky = pairs.iter().any(|(x, y)| x.split.ends_with(":LEAKY") || y.split.ends_with(":LEAKY"));
    if leaky {
        warnings.push("LEAKY: at least one run scores what its training has seen".into());
    }
    let mut numbers: HashMap<&str, u32> = HashMap::new();
    let mut number = |unit| {
        let next = numbers.len() as u32;
        *numbers.entry(unit).or_insert(next)
    };
    let groups: Vec<u32> = pairs.iter().map(|(x, _)| number(x.unit.as_str())).collect();
    let labels: Vec<u8> = pairs.iter().map(|(x, _)| x.label).collect();
    let ranking = |own: &[&Prediction]| {
        let scores: Vec<f64> = own.iter().map(|p| p.score.into()).collect();
        let calls: Vec<bool> = own.iter().map(|p| p.call == 1).collect();
        Ranking::new(&labels, &scores, &calls, &groups)
    };
    let (of_a, of_b): (Vec<&Prediction>, Vec<&Prediction>) = pairs.iter().copied().unzip();
    let (first, second) = (ranking(&of_a), ranking(&of_b));
    let replicates = if first.resamples() { replicates } else { 0 };
    let drawn = resample(first.groups(), replicates, seed, |copies| {
        (first.resampled(copies).values(), second.resampled(copies).values())
    });
    let (values_a, values_b) = (first.scores().values(), second.scores().values());
    let difference = |(i, name)| {
        let minus = |a: Option<f64>, b: Option<f64>| Some(a? - b?);
        let each = || drawn.iter().map(move |(a, b)| minus(a[i], b[i]));
        let known: Vec<f64> = each().flatten().collect();
        let higher = known
            .iter()
            .map(|d| {
                if *d > 0.0 {
                    1.0
                } else if *d == 0.0 {
                    0.5
                } else {
                    0.0
                }
            })
            .sum::<f64>();
        Difference {
            name,
            a: values_a[i],
            b: values_b[i],
            difference: minus(values_a[i], values_b[i]),
            interval: interval(each()),
            a_higher: (!known.is_empty()).then(|| higher / known.len() as f64),
        }
    };
    let names = Scores::NAMES.into_iter().enumerate().filter(|(_, name)| *name != "base_rate");
    Ok(Comparison {
        n: pairs.len(),
        positives: labels.iter().filter(|&&l| l == 1).count(),
        unit: if pairs[0].0.unit.starts_with("component") { "components" } else { "chromosomes" },
        units: first.groups(),
        leaky,
        differences: names.map(difference).collect(),
        warnings,
    })
}

/// Predictions with their keys; repeated pairs are numbered.
fn keyed(all: &[Prediction]) -> impl Iterator<Item = (Key<'_>, &Prediction)> {
    let mut copies: HashMap<Key, u32> = HashMap::new();
    all.iter().map(move |p| {
        let row = p.enh_start.is_none().then_some(p.row);
        let ends = [p.enh_start, p.enh_end, p.prom_start, p.prom_end];
        let mut key: Key = (&p.cell_line, [&p.enh_chrom, &p.prom_chrom], ends, p.label, row, 0);
        let copy = copies.entry(key).or_insert(0);
        key.5 = *copy;
        *copy += 1;
        (key, p)
    })
}

impl Comparison {
    /// The document of `compare --json`.
    pub fn to_json(&self) -> Value {
        let one = |d: &Difference| {
            let (low, high) = (d.interval.map(|i| i.low), d.interval.map(|i| i.high));
            let value = json!({
                "a": d.a, "b": d.b, "difference": d.difference,
                "difference_low": low, "difference_high": high, "a_higher": d.a_higher,
            });
            (d.name.to_string(), value)
        };
        let scores: Map<String, Value> = self.differences.iter().map(one).collect();
        json!({
            "n": self.n, "positives": self.positives, "leaky": self.leaky, "interval_unit": self.unit,
            "interval_units": self.units, "scores": scores, "warnings": self.warnings,
        })
    }
    /// The table that `compare` prints.
    pub fn table(&self, a: &str, b: &str) -> String {
        let mut text = format!("A = {a}\nB = {b}\n{:<12}{:<10}{:<10}{:<28}A higher in\n", "", "A", "B", "A - B");
        for d in &self.differences {
            let share = d.a_higher.map_or("n/a".into(), |s| format!("{:.1} % of replicates", 100.0 * s));
            let (a, b) = (shown((d.a, None)), shown((d.b, None)));
            let _ = writeln!(text, "{:<12}{a:<10}{b:<10}{:<28}{share}", d.name, shown((d.difference, d.interval)));
        }
        let Comparison { n, positives, units, unit, .. } = self;
        let intervals = match self.differences.iter().any(|d| d.interval.is_some()) {
            true => format!("95 % intervals resample {units} {unit}, the same for both"),
            false => "no intervals".into(),
        };
        let _ = writeln!(text, "{n} pairs, {positives} positive; {intervals}");
        text
    }
}
