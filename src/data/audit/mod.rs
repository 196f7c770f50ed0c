//! The leak audit: what a split lets a program score that knows element names and distances, and no sequence.

mod near;
mod report;

pub use near::NearDuplicates;

use super::baselines::{Distance, Lookup};
use super::split::{Identity, PaperCounts, Shared, Split, SplitKind, SplitSpec, Units, paper_counts, split};
use super::{PairTable, Sample, Side};
use crate::Result;
use crate::metrics::{Confusion, Interval, Ranking, Scores, effective_groups, interval, resample};
use rayon::prelude::*;

/// What to audit.
#[derive(Clone, Debug)]
pub struct AuditSpec {
    pub split: SplitSpec,
    /// Audit `split.fold` alone; otherwise every fold, and figures are means over folds.
    pub one_fold: bool,
    /// Bootstrap replicates of the intervals.
    pub replicates: u32,
}

/// AUPR and AUROC of one baseline: means over folds, weighted by their test rows, with 95 % intervals of those means.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ranked {
    pub aupr: Option<f64>,
    pub auroc: Option<f64>,
    pub aupr_interval: Option<Interval>,
    pub auroc_interval: Option<Interval>,
}

/// One fold.
#[derive(Clone, Debug, PartialEq)]
pub struct FoldAudit {
    pub fold: u32,
    pub n: usize,
    pub positives: usize,
    pub lookup: Scores,
    pub distance: Option<Scores>,
}

/// What `paper-code` makes of a line, and what scores it without any sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PaperAudit {
    pub counts: PaperCounts,
    /// "Positive when the enhancer was more often positive than the prior": macro F1 of the held-out part.
    pub dictionary_macro_f1: Option<f64>,
    /// "Positive when the chromosomes differ": macro F1 of the held-out part.
    pub different_chromosomes_macro_f1: Option<f64>,
}

/// The audit of one cell line, or of all lines together.
#[derive(Clone, Debug)]
pub struct LineAudit {
    pub name: String,
    /// Rows tested, over all audited folds.
    pub n: usize,
    pub positives: usize,
    /// Share of positives.
    pub base_rate: Option<f64>,
    pub lookup: Ranked,
    /// `None` without coordinates.
    pub distance: Option<Ranked>,
    pub shared: Shared,
    /// Test rows of which an element's sequence (or a shifted or reverse-complemented one) is outside the test part;
    /// `None` when there are no sequences.
    pub near_duplicates: Option<usize>,
    pub paper: Option<PaperAudit>,
    /// What the intervals resample.
    pub unit: &'static str,
    pub units: u32,
    pub folds: Vec<FoldAudit>,
    pub warnings: Vec<String>,
}

impl LineAudit {
    /// Whether the element lookup beats chance beyond its interval.
    ///
    /// AUROC decides: chance is one half whatever the size of a fold, while the AUPR of a few positives exceeds their share
    /// by chance. On one locus there is nothing to resample, and any success counts.
    pub fn leaks(&self) -> bool {
        let reached = self.lookup.auroc_interval.map(|i| i.low).or(self.lookup.auroc);
        reached.is_some_and(|auroc| auroc > 0.5 + 1e-9)
    }
}

/// The audit of a table under one split.
#[derive(Clone, Debug)]
pub struct Audit {
    pub split: SplitKind,
    pub folds: u32,
    /// One entry per cell line, each split by itself; under `cross-cell` the entry of the line that is tested.
    pub lines: Vec<LineAudit>,
    /// All lines as one set, when there are several.
    pub together: Option<LineAudit>,
}

impl Audit {
    /// Whether any line leaks.
    pub fn leaks(&self) -> bool {
        self.lines.iter().chain(&self.together).any(LineAudit::leaks)
    }
}

/// Audits `table` under a split. `near` knows similar sequences, where there are sequences.
///
/// # Errors
/// As [`split`]: the table lacks what the protocol needs, or a part is empty.
pub fn audit(
    table: &PairTable,
    spec: &AuditSpec,
    identity: Option<&Identity>,
    near: Option<&NearDuplicates>,
) -> Result<Audit> {
    let rows_of = |line: u16| -> Vec<u32> {
        (0..table.rows.len() as u32).filter(|&r| table.rows[r as usize].cell_line == line).collect()
    };
    let all: Vec<u32> = (0..table.rows.len() as u32).collect();
    let lines: Vec<(u16, Vec<u32>)> =
        (0..table.cell_lines.len() as u16).map(|l| (l, rows_of(l))).filter(|(_, rows)| !rows.is_empty()).collect();
    let context = Context { table, spec, identity, near };
    let name = |line: u16| table.cell_lines[line as usize].clone();
    let crossed = matches!(spec.split.kind, SplitKind::CrossCell { .. });
    let audited: Result<Vec<LineAudit>> = if crossed {
        // One fold per line: the line with that number is tested.
        let asked = |fold: &usize| !spec.one_fold || *fold == spec.split.fold as usize;
        let folds: Vec<usize> = (0..lines.len()).filter(asked).collect();
        let one = |fold: usize| context.line(name(lines[fold].0), &all, &[fold as u32]);
        if lines.len() < 2 || folds.is_empty() {
            split(table, &all, &spec.split, identity).map(|_| Vec::new())
        } else {
            folds.into_par_iter().map(one).collect()
        }
    } else {
        lines.par_iter().map(|(line, rows)| context.line(name(*line), rows, &[])).collect()
    };
    let lines_audited = audited?;
    // The released program draws within a line; all lines at once mean nothing there.
    let apart = crossed || matches!(spec.split.kind, SplitKind::PaperText | SplitKind::PaperCode);
    let together = !apart && lines.len() > 1;
    let together = together.then(|| context.line("all lines together".into(), &all, &[])).transpose()?;
    let folds = lines_audited.iter().map(|l| l.folds.len() as u32).max().unwrap_or(0);
    Ok(Audit { split: spec.split.kind.clone(), folds, lines: lines_audited, together })
}

struct Context<'a> {
    table: &'a PairTable,
    spec: &'a AuditSpec,
    identity: Option<&'a Identity>,
    near: Option<&'a NearDuplicates>,
}

/// One fold's test part as the baselines score it.
struct ScoredFold {
    split: Split,
    lookup: Vec<f64>,
    distance: Option<Vec<f64>>,
    near: Option<usize>,
    paper: Option<(Option<f64>, Option<f64>)>,
}

impl Context<'_> {
    /// Audits `rows`; `folds` empty means the folds of the specification.
    fn line(&self, name: String, rows: &[u32], folds: &[u32]) -> Result<LineAudit> {
        let first = SplitSpec { fold: *folds.first().unwrap_or(&self.fold_asked()), ..self.spec.split.clone() };
        let first = split(self.table, rows, &first, self.identity)?;
        let rest = if self.spec.one_fold || !folds.is_empty() { 0 } else { first.folds };
        let mut splits = vec![first];
        for fold in 1..rest {
            splits.push(split(self.table, rows, &SplitSpec { fold, ..self.spec.split.clone() }, self.identity)?);
        }
        let scored: Vec<ScoredFold> = splits.into_par_iter().map(|s| self.fold(s)).collect();
        Ok(self.summarise(name, rows, scored))
    }

    fn fold_asked(&self) -> u32 {
        if self.spec.one_fold { self.spec.split.fold } else { 0 }
    }

    fn fold(&self, split: Split) -> ScoredFold {
        let known: Vec<Sample> = match split.kind {
            // There the held-out part is the validation part too.
            SplitKind::PaperText | SplitKind::PaperCode => split.train.clone(),
            _ => split.train.iter().chain(&split.validation).copied().collect(),
        };
        let lookup = Lookup::fit(self.table, &known, &[Side::Enhancer, Side::Promoter]);
        let distances = Distance::fit(self.table, &known);
        let paper = (split.kind == SplitKind::PaperCode).then(|| {
            let dictionary = Lookup::fit(self.table, &known, &[Side::Enhancer]);
            let labels: Vec<u8> = split.test.iter().map(|s| s.label).collect();
            let by =
                |call: &dyn Fn(&Sample) -> bool| Confusion::of_calls(&labels, split.test.iter().map(call)).macro_f1();
            (by(&|s| dictionary.score(s) > 0.0), by(&|s| self.table.sample_distance(s).is_none()))
        });
        ScoredFold {
            lookup: split.test.iter().map(|s| lookup.score(s)).collect(),
            distance: distances.map(|d| split.test.iter().map(|s| d.probability(self.table, s)).collect()),
            near: self.near.map(|near| near.count(self.table, &known, &split.test)),
            paper,
            split,
        }
    }

    fn summarise(&self, name: String, rows: &[u32], folds: Vec<ScoredFold>) -> LineAudit {
        let table = self.table;
        let pooled: Vec<Sample> = folds.iter().flat_map(|f| f.split.test.iter().copied()).collect();
        let units = Units::of(table, &pooled, self.spec.split.shift.into());
        let mut from = 0;
        let groups: Vec<&[u32]> = folds
            .iter()
            .map(|f| {
                from += f.split.test.len();
                &units.of[from - f.split.test.len()..from]
            })
            .collect();
        let rankings = |scores: &dyn Fn(&ScoredFold) -> Option<Vec<f64>>| -> Option<Vec<Ranking>> {
            let ranking = |(fold, groups): (&ScoredFold, &&[u32])| {
                let labels: Vec<u8> = fold.split.test.iter().map(|s| s.label).collect();
                Some(Ranking::new(&labels, &scores(fold)?, &vec![false; labels.len()], groups))
            };
            folds.iter().zip(&groups).map(ranking).collect()
        };
        let lookup = rankings(&|f| Some(f.lookup.clone())).unwrap_or_default();
        let distance = rankings(&|f| f.distance.clone());
        let mut shared = Shared::default();
        folds.iter().for_each(|f| shared.add(&f.split.shared));
        let mut warnings: Vec<String> = Vec::new();
        for warning in folds.iter().flat_map(|f| &f.split.warnings) {
            // Which share of a fold leaks is in the figures, summed over folds.
            if !warning.contains("leak") && !warning.contains("LEAKY") && !warnings.contains(warning) {
                warnings.push(warning.clone());
            }
        }
        let over_folds = |value: &dyn Fn(usize) -> Option<f64>| {
            mean(folds.iter().enumerate().map(|(i, f)| (value(i), f.split.test.len() as f64)))
        };
        let paper = folds[0].paper.is_some().then(|| PaperAudit {
            counts: paper_counts(table, rows),
            dictionary_macro_f1: over_folds(&|i| folds[i].paper?.0),
            different_chromosomes_macro_f1: over_folds(&|i| folds[i].paper?.1),
        });
        let each = |(i, f): (usize, &ScoredFold)| FoldAudit {
            fold: f.split.fold,
            n: f.split.test.len(),
            positives: f.split.test.iter().filter(|s| s.label == 1).count(),
            lookup: lookup[i].scores(),
            distance: distance.as_ref().map(|d| d[i].scores()),
        };
        LineAudit {
            name,
            n: pooled.len(),
            positives: pooled.iter().filter(|s| s.label == 1).count(),
            base_rate: over_folds(&|i| lookup[i].scores().base_rate),
            lookup: self.ranked(&lookup, units.count),
            distance: distance.as_ref().map(|d| self.ranked(d, units.count)),
            shared,
            near_duplicates: folds.iter().map(|f| f.near).sum(),
            paper,
            unit: units.unit,
            units: units.count,
            folds: folds.iter().enumerate().map(each).collect(),
            warnings,
        }
    }

    /// Means over folds, and the intervals of these means.
    fn ranked(&self, folds: &[Ranking], units: u32) -> Ranked {
        let means = |copies: &[u32]| -> [Option<f64>; 2] {
            let all: Vec<(Scores, f64)> = folds.iter().map(|r| (r.resampled(copies), r.size(copies))).collect();
            let over = |score: fn(&Scores) -> Option<f64>| mean(all.iter().map(|(s, n)| (score(s), *n)));
            [over(|s| s.aupr), over(|s| s.auroc)]
        };
        let [aupr, auroc] = means(&vec![1; units as usize]);
        let mut sizes = vec![0.0; units as usize];
        folds.iter().for_each(|r| sizes.iter_mut().zip(r.sizes()).for_each(|(sum, n)| *sum += n));
        let replicates = if effective_groups(sizes.into_iter()) < 2.0 { 0 } else { self.spec.replicates };
        let drawn = resample(units, replicates, self.spec.split.seed, means);
        let [aupr_interval, auroc_interval] = [0, 1].map(|i| interval(drawn.iter().map(|d| d[i])));
        Ranked { aupr, auroc, aupr_interval, auroc_interval }
    }
}

/// The mean of the values that are defined, each with its weight.
fn mean(values: impl Iterator<Item = (Option<f64>, f64)>) -> Option<f64> {
    let add = |(sum, weight), (value, w)| (sum + value * w, weight + w);
    let (sum, weight) = values.filter_map(|(value, w)| Some((value?, w))).fold((0.0, 0.0), add);
    (weight > 0.0).then(|| sum / weight)
}
