//! The audit as JSON and as a table.

use super::{Audit, LineAudit, Ranked};
use crate::metrics::Interval;
use serde_json::{Map, Value, json};
use std::fmt::Write;

impl Audit {
    /// The document of `audit --json`.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        if self.split.leaky() {
            map.insert("LEAKY".into(), json!(self.split.to_string()));
        }
        let lines: Map<String, Value> = self.lines.iter().map(|l| (l.name.clone(), line_json(l))).collect();
        map.insert("split".into(), json!(self.split.to_string()));
        map.insert("leaks".into(), json!(self.leaks()));
        map.insert("folds".into(), json!(self.folds));
        map.insert("cell_lines".into(), lines.into());
        map.insert("all_lines".into(), json!(self.together.as_ref().map(line_json)));
        map.into()
    }

    /// The table that `audit` prints.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{}{}, {} fold(s)\n{:<20}{:>8}{:>7}  {:<24}{:<24}{:<14}{:>6}{:>6}{:>6}{:>6}  leak\n",
            self.split,
            if self.split.leaky() { " (LEAKY)" } else { "" },
            self.folds,
            "",
            "pairs",
            "base",
            "lookup AUPR",
            "lookup AUROC",
            "distance AUPR",
            "enh %",
            "prom %",
            "win %",
            "near %",
        );
        for line in self.lines.iter().chain(&self.together) {
            let percent = |n: usize| format!("{:.0}", 100.0 * n as f64 / line.n.max(1) as f64);
            let _ = writeln!(
                text,
                "{:<20}{:>8}{:>7}  {:<24}{:<24}{:<14}{:>6}{:>6}{:>6}{:>6}  {}",
                line.name,
                line.n,
                number(line.base_rate),
                with_interval(line.lookup.aupr, line.lookup.aupr_interval),
                with_interval(line.lookup.auroc, line.lookup.auroc_interval),
                number(line.distance.and_then(|d| d.aupr)),
                percent(line.shared.enhancers),
                percent(line.shared.promoters),
                percent(line.shared.windows),
                line.near_duplicates.map_or("n/a".into(), percent),
                if line.leaks() { "LEAKS" } else { "no" },
            );
        }
        for line in &self.lines {
            if let Some(p) = line.paper {
                let _ = writeln!(
                    text,
                    "{}: of {} rows drawn as positives {} keep their partner, {} are true pairs, {} join one chromosome; macro F1 \
                     of the enhancer dictionary {}, of \"the chromosomes differ\" {}",
                    line.name,
                    p.counts.drawn,
                    p.counts.partner_keeping,
                    p.counts.true_pairs,
                    p.counts.same_chromosome,
                    number(p.dictionary_macro_f1),
                    number(p.different_chromosomes_macro_f1)
                );
            }
        }
        if let Some(line) = self.lines.first() {
            let _ = writeln!(
                text,
                "Shares are of test rows whose enhancer, promoter, padded window or near-duplicate sequence is outside the test part. \
                 Figures are means over folds; 95 % intervals resample {}.",
                line.unit
            );
        }
        text
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or("n/a".into(), |v| format!("{v:.3}"))
}

fn with_interval(value: Option<f64>, interval: Option<Interval>) -> String {
    match interval {
        Some(Interval { low, high }) => format!("{} [{low:.3}, {high:.3}]", number(value)),
        None => number(value),
    }
}

fn ranked_json(ranked: &Ranked) -> Value {
    let (aupr, auroc) = (ranked.aupr_interval, ranked.auroc_interval);
    json!({
        "aupr": ranked.aupr, "aupr_low": aupr.map(|i| i.low), "aupr_high": aupr.map(|i| i.high),
        "auroc": ranked.auroc, "auroc_low": auroc.map(|i| i.low), "auroc_high": auroc.map(|i| i.high),
    })
}

fn line_json(line: &LineAudit) -> Value {
    let folds: Vec<Value> = line
        .folds
        .iter()
        .map(|f| {
            let scores = |s: &crate::metrics::Scores| json!({"aupr": s.aupr, "auroc": s.auroc});
            json!({
                "fold": f.fold, "pairs": f.n, "positives": f.positives, "base_rate": f.lookup.base_rate,
                "lookup": scores(&f.lookup), "distance": f.distance.as_ref().map(scores),
            })
        })
        .collect();
    let mut map = Map::new();
    map.extend([
        ("leaks".to_string(), json!(line.leaks())),
        ("pairs".into(), json!(line.n)),
        ("positives".into(), json!(line.positives)),
        ("base_rate".into(), json!(line.base_rate)),
        ("lookup".into(), ranked_json(&line.lookup)),
        ("distance".into(), json!(line.distance.as_ref().map(ranked_json))),
        ("shared_enhancers".into(), json!(line.shared.enhancers)),
        ("shared_promoters".into(), json!(line.shared.promoters)),
        ("shared_windows".into(), json!(line.shared.windows)),
        ("near_duplicates".into(), json!(line.near_duplicates)),
        ("interval_unit".into(), json!(line.unit)),
        ("interval_units".into(), json!(line.units)),
    ]);
    if let Some(p) = line.paper {
        map.extend([
            ("drawn".to_string(), json!(p.counts.drawn)),
            ("partner_keeping".into(), json!(p.counts.partner_keeping)),
            ("true_pairs".into(), json!(p.counts.true_pairs)),
            ("same_chromosome".into(), json!(p.counts.same_chromosome)),
            ("dictionary_macro_f1".into(), json!(p.dictionary_macro_f1)),
            ("different_chromosomes_macro_f1".into(), json!(p.different_chromosomes_macro_f1)),
        ]);
    }
    map.insert("per_fold".into(), folds.into());
    map.insert("warnings".into(), json!(line.warnings));
    map.into()
}
