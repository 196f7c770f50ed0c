//! Scoring a part of a data set: metrics with intervals, beside the baselines that need no model.

mod compare;
pub mod predict;
mod predictions;
mod reconstruction;
mod report;
mod score;

pub use crate::data::baselines;
pub use compare::{Comparison, Difference, compare};
pub use predictions::{Prediction, predictions, read_predictions, write_predictions};
pub use reconstruction::{Rebuilt, Reconstruction};
pub use report::{Estimates, PaperScores, Report, Stratum};
pub use score::{Scores, score};

use crate::data::baselines::{Distance, Lookup};
use crate::data::split::{Split, SplitKind, Units};
use crate::data::{PairTable, Sample, Side};
use crate::metrics::{self, Confusion, Ranking, calibration, interval, macro_f1_per_batch, resample};
use crate::{Error, Result};
use std::collections::BTreeMap;

/// Samples and the probability of interaction that a model gives each of them.
#[derive(Clone, Copy, Debug)]
pub struct Scored<'a> {
    pub samples: &'a [Sample],
    pub scores: &'a [f32],
}

impl Scored<'_> {
    /// Nothing scored.
    pub const NONE: Scored<'static> = Scored { samples: &[], scores: &[] };
}

/// What one run scored: usually `split.test`, and `split.validation` for the threshold.
#[derive(Clone, Copy, Debug)]
pub struct FoldScores<'a> {
    pub split: &'a Split,
    pub part: Scored<'a>,
    pub validation: Scored<'a>,
}

/// How to evaluate.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Seed of the bootstrap.
    pub seed: u64,
    /// Bootstrap replicates; 0 gives no intervals.
    pub replicates: u32,
    /// Bases by which windows are padded before overlaps make components (the largest shift of augmentation).
    pub padding: i64,
    /// Batch size of the macro F1 "per batch, averaged" that `paper-code` reports.
    pub batch: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { seed: 0, replicates: 1000, padding: 100, batch: 64 }
    }
}

/// Upper ends of the distance bins, in bases; the last bin is open.
const DISTANCES: [(i64, &str); 6] = [
    (10_000, "< 10 kb"),
    (50_000, "10-50 kb"),
    (100_000, "50-100 kb"),
    (250_000, "100-250 kb"),
    (1_000_000, "250 kb-1 Mb"),
    (i64::MAX, ">= 1 Mb"),
];

/// Scores folds together (one fold, or all for out-of-fold scores). Thresholds are chosen and baselines fitted per fold.
///
/// # Errors
/// [`Error::NonFinite`] for a score that is not a number; [`Error::Config`] when nothing was scored.
pub fn evaluate(table: &PairTable, folds: &[FoldScores], options: &Options) -> Result<Report> {
    let pooled = Pooled::of(table, folds)?;
    let units = Units::of(table, &pooled.samples, options.padding);
    let Pooled { samples, labels, scores, calls, thresholds, .. } = &pooled;
    let estimate = |scores: &[f64], calls: &[bool]| {
        let ranking = Ranking::new(labels, scores, calls, &units.of);
        estimates(&ranking, options)
    };
    let baseline = |scores: &[f64]| estimate(scores, &scores.iter().map(|&s| s >= 0.5).collect::<Vec<_>>());
    let stratum = |name: String, rows: Vec<usize>| {
        let pick = |values: &[f64]| rows.iter().map(|&i| values[i]).collect::<Vec<_>>();
        let labels: Vec<u8> = rows.iter().map(|&i| labels[i]).collect();
        let positives = labels.iter().filter(|&&l| l == 1).count();
        Stratum { name, n: rows.len(), positives, scores: Ranking::ungrouped(&labels, &pick(scores), 0.5).scores() }
    };
    let by = |key: &dyn Fn(&Sample) -> Option<(usize, String)>| {
        let mut strata: BTreeMap<(usize, String), Vec<usize>> = BTreeMap::new();
        for (i, sample) in samples.iter().enumerate() {
            if let Some(key) = key(sample) {
                strata.entry(key).or_default().push(i);
            }
        }
        strata.into_iter().map(|((_, name), rows)| stratum(name, rows)).collect::<Vec<_>>()
    };
    let chromosome = |s: &Sample| {
        let contig = table.enhancers[s.enhancer as usize].contig? as usize;
        Some((contig, table.contigs[contig].clone()))
    };
    let distance_bin = |s: &Sample| {
        let Some(distance) = table.sample_distance(s) else {
            let somewhere = table.enhancers[s.enhancer as usize].contig.is_some();
            return somewhere.then(|| (DISTANCES.len(), "two chromosomes".to_string()));
        };
        let bin = DISTANCES.iter().position(|&(end, _)| distance < end).unwrap_or(DISTANCES.len() - 1);
        Some((bin, DISTANCES[bin].1.to_string()))
    };
    let chosen = thresholds.iter().all(|t| t.chosen);
    let ranking = Ranking::new(labels, scores, calls, &units.of);
    let mut warnings: Vec<String> = folds.iter().flat_map(|f| f.split.warnings.iter().cloned()).collect();
    if !chosen {
        warnings.push("F1 and MCC use the threshold 0.5 where validation has no positive to choose one on".into());
    }
    let mut seen = std::collections::HashSet::new();
    warnings.retain(|w| seen.insert(w.clone()));
    let paper = matches!(folds[0].split.kind, SplitKind::PaperCode).then(|| PaperScores {
        macro_f1: Confusion::at(labels, scores, 0.5).macro_f1(),
        macro_f1_per_batch: macro_f1_per_batch(labels, scores, 0.5, options.batch),
        batch: options.batch,
    });
    Ok(Report {
        split: folds[0].split.kind.to_string(),
        folds: folds.iter().map(|f| f.split.fold).collect(),
        leaky: folds.iter().any(|f| f.split.leaky),
        n: samples.len(),
        positives: labels.iter().filter(|&&l| l == 1).count(),
        scores: estimates(&ranking, options),
        f1_threshold: thresholds.iter().map(|t| t.value).sum::<f64>() / thresholds.len() as f64,
        f1_threshold_chosen: chosen,
        confusion: Confusion::of_calls(labels, calls.iter().copied()),
        calibration: calibration(labels, scores, 10),
        lookup: baseline(&pooled.lookup),
        distance: pooled.distance.as_deref().map(baseline),
        unit: units.unit,
        units: units.count,
        per_chromosome: by(&chromosome),
        per_distance: by(&distance_bin),
        paper,
        reconstruction: None,
        warnings,
    })
}

/// The scores of a ranking with their 95 % intervals (none from effectively fewer than two units).
pub(crate) fn estimates(ranking: &Ranking, options: &Options) -> Estimates {
    let replicates = if ranking.resamples() { options.replicates } else { 0 };
    let drawn: Vec<metrics::Scores> =
        resample(ranking.groups(), replicates, options.seed, |copies| ranking.resampled(copies));
    let values: Vec<_> = drawn.iter().map(metrics::Scores::values).collect();
    let intervals = std::array::from_fn(|i| interval(values.iter().map(|v| v[i])));
    Estimates { scores: ranking.scores(), intervals }
}

/// Where calls begin in one fold.
#[derive(Clone, Copy, Debug)]
struct Threshold {
    value: f64,
    /// Chosen on validation; otherwise 0.5.
    chosen: bool,
}

/// The threshold of best F1 on validation, or 0.5 when validation has no positive.
fn threshold(validation: &Scored) -> Threshold {
    let labels: Vec<u8> = validation.samples.iter().map(|s| s.label).collect();
    let scores: Vec<f64> = validation.scores.iter().map(|&s| s.into()).collect();
    let best = Ranking::ungrouped(&labels, &scores, 0.5).best_threshold();
    Threshold { value: best.unwrap_or(0.5), chosen: best.is_some() }
}

/// All folds, one after the other.
#[derive(Default)]
struct Pooled {
    samples: Vec<Sample>,
    labels: Vec<u8>,
    scores: Vec<f64>,
    calls: Vec<bool>,
    /// Position in `folds` of each sample.
    fold: Vec<usize>,
    thresholds: Vec<Threshold>,
    lookup: Vec<f64>,
    distance: Option<Vec<f64>>,
}

impl Pooled {
    fn of(table: &PairTable, folds: &[FoldScores]) -> Result<Self> {
        let mut all = Pooled { distance: Some(Vec::new()), ..Pooled::default() };
        for (at, FoldScores { split, part, validation }) in folds.iter().enumerate() {
            for scored in [part, validation] {
                assert_eq!(scored.samples.len(), scored.scores.len(), "one score per sample");
                if let Some(i) = scored.scores.iter().position(|s| !s.is_finite()) {
                    let (score, row) = (scored.scores[i], scored.samples[i].row);
                    return Err(Error::NonFinite(format!(
                        "the score of row {row} is {score}: the model's weights are not usable"
                    )));
                }
            }
            let threshold = threshold(validation);
            all.thresholds.push(threshold);
            all.samples.extend(part.samples);
            all.labels.extend(part.samples.iter().map(|s| s.label));
            all.scores.extend(part.scores.iter().map(|&s| f64::from(s)));
            all.calls.extend(part.scores.iter().map(|&s| f64::from(s) >= threshold.value));
            all.fold.extend(part.samples.iter().map(|_| at));
            let lookup = Lookup::fit(table, &split.train, &[Side::Enhancer, Side::Promoter]);
            all.lookup.extend(part.samples.iter().map(|s| lookup.probability(s)));
            let distance = Distance::fit(table, &split.train);
            all.distance = all.distance.zip(distance).map(|(mut scores, model)| {
                scores.extend(part.samples.iter().map(|s| model.probability(table, s)));
                scores
            });
        }
        if all.samples.is_empty() {
            return Err(Error::config("--part", "there is nothing to score in this part of the split"));
        }
        Ok(all)
    }
}
