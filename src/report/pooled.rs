//! Scores of predictions put together: of the folds of one model, or of one cell line of a run.

use std::collections::HashMap;

use super::marks::Estimate;
use crate::evaluate::Prediction;
use crate::metrics::{Interval, Ranking, Scores, interval, resample};

/// Bootstrap replicates, and their seed: those of `metrics.json`.
const REPLICATES: u32 = 1000;
const SEED: u64 = 0;
/// With so many chromosomes or more, chromosomes are resampled.
const CHROMOSOMES: usize = 10;

/// Scores with their intervals; means over seeds where there are several.
#[derive(Clone, Debug)]
pub struct Pooled {
    /// Pairs of one seed, and the positives among them.
    pub n: usize,
    pub positives: usize,
    /// What intervals resample, and how many there are.
    pub unit: &'static str,
    pub units: u32,
    values: [Option<f64>; 8],
    intervals: [Option<Interval>; 8],
}

impl Pooled {
    /// The score called `name` (one of [`Scores::NAMES`]).
    pub fn score(&self, name: &str) -> Estimate {
        let at = Scores::NAMES.iter().position(|&n| n == name).expect("a name of a score");
        (self.values[at], self.intervals[at])
    }
    /// What intervals resample: `23 chromosomes`.
    pub fn resampled(&self) -> String {
        format!("{} {}", self.units, self.unit)
    }
    /// Takes over what `scores` says of each score.
    pub fn take(&mut self, scores: impl Fn(&str) -> Estimate) {
        for (i, name) in Scores::NAMES.into_iter().enumerate() {
            (self.values[i], self.intervals[i]) = scores(name);
        }
    }
}

/// Predictions of one seed: the number of the run that made each, and the prediction.
pub type OfSeed<'a> = Vec<(usize, &'a Prediction)>;

/// Scores the predictions of each seed and averages the scores; a replicate draws the same units for all seeds. `None`
/// without predictions. Without `intervals` there are only the values.
pub fn pool(seeds: &[OfSeed], intervals: bool) -> Option<Pooled> {
    let first = seeds.iter().find(|s| !s.is_empty())?;
    let all = || seeds.iter().flatten();
    let mut chromosomes: Vec<&Option<String>> = all().map(|(_, p)| &p.enh_chrom).collect();
    chromosomes.sort_unstable();
    chromosomes.dedup();
    let several = all().any(|(run, _)| *run != first[0].0);
    let by_chromosome = several && chromosomes.len() >= CHROMOSOMES && !chromosomes.contains(&&None);
    let mut numbers: HashMap<(usize, &str), u32> = HashMap::new();
    let mut groups: Vec<Vec<u32>> = Vec::new();
    for seed in seeds {
        let mut of = Vec::with_capacity(seed.len());
        for &(run, p) in seed {
            let next = numbers.len() as u32;
            of.push(*numbers.entry(unit_of(run, p, by_chromosome)).or_insert(next));
        }
        groups.push(of);
    }
    let ranking = |(seed, groups): (&OfSeed, &Vec<u32>)| {
        let labels: Vec<u8> = seed.iter().map(|(_, p)| p.label).collect();
        let scores: Vec<f64> = seed.iter().map(|(_, p)| p.score.into()).collect();
        let calls: Vec<bool> = seed.iter().map(|(_, p)| p.call == 1).collect();
        Ranking::new(&labels, &scores, &calls, groups)
    };
    let rankings: Vec<Ranking> = seeds.iter().zip(&groups).filter(|(s, _)| !s.is_empty()).map(ranking).collect();
    let units = numbers.len() as u32;
    let replicates = if intervals && rankings.iter().all(Ranking::resamples) { REPLICATES } else { 0 };
    let drawn = resample(units, replicates, SEED, |copies| means(rankings.iter().map(|r| r.resampled(copies))));
    let components = !by_chromosome && first[0].1.unit.starts_with("component");
    Some(Pooled {
        n: first.len(),
        positives: first.iter().filter(|(_, p)| p.label == 1).count(),
        unit: if components { "components" } else { "chromosomes" },
        units,
        values: means(rankings.iter().map(Ranking::scores)),
        intervals: std::array::from_fn(|i| interval(drawn.iter().map(|v| v[i]))),
    })
}

/// What a prediction is resampled with. Components are numbered within their run.
fn unit_of(run: usize, p: &Prediction, by_chromosome: bool) -> (usize, &str) {
    match &p.enh_chrom {
        Some(chromosome) if by_chromosome => (usize::MAX, chromosome),
        _ if p.unit.starts_with("component") => (run, &p.unit),
        _ => (usize::MAX, &p.unit),
    }
}

/// Mean of each score; `None` where any is undefined.
fn means(all: impl Iterator<Item = Scores>) -> [Option<f64>; 8] {
    let all: Vec<[Option<f64>; 8]> = all.map(|s| s.values()).collect();
    std::array::from_fn(|i| {
        let sum: Option<f64> = all.iter().map(|v| v[i]).sum();
        sum.map(|sum| sum / all.len() as f64)
    })
}

/// `a − b` of two scores of different pairs, with an interval from both of theirs: the distances to their ends added in
/// squares (Zou and Donner 2008, "Construction of confidence limits about effect measures"), as of independent scores.
pub fn difference(a: Estimate, b: Estimate) -> Estimate {
    let value = a.0.zip(b.0).map(|(a, b)| a - b);
    let both = value.zip(a.0.zip(b.0)).zip(a.1.zip(b.1));
    let interval = both.map(|((d, (a, b)), (of_a, of_b))| Interval {
        low: d - (a - of_a.low).hypot(of_b.high - b),
        high: d + (of_a.high - a).hypot(b - of_b.low),
    });
    (value, interval)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    fn predictions(n: usize, chromosomes: u32, seed: u64) -> Vec<Prediction> {
        let mut random = Stream::new(seed, 1, 0);
        let one = |row: usize| {
            let (label, chromosome) = (u8::from(random.below(4) == 0), random.below(chromosomes));
            let score = (1.0 / (1.0 + (-random.normal() - f64::from(label)).exp())) as f32;
            Prediction {
                row: row as u32,
                cell_line: "x".into(),
                enh_chrom: Some(format!("chr{chromosome}")),
                enh_start: None,
                enh_end: None,
                prom_chrom: None,
                prom_start: None,
                prom_end: None,
                label,
                score,
                call: u8::from(score > 0.6),
                fold: 0,
                unit: format!("component{}", random.below(30)),
                split: "chromosome".into(),
            }
        };
        (0..n).map(one).collect()
    }

    #[test]
    fn one_run_gives_what_the_evaluation_gives() {
        let all = predictions(400, 3, 1);
        let found = pool(&[all.iter().map(|p| (0, p)).collect()], true).unwrap();
        let labels: Vec<u8> = all.iter().map(|p| p.label).collect();
        let scores: Vec<f64> = all.iter().map(|p| p.score.into()).collect();
        let calls: Vec<bool> = all.iter().map(|p| p.call == 1).collect();
        let wanted = Ranking::new(&labels, &scores, &calls, &vec![0; all.len()]).scores();
        assert_eq!([found.score("aupr").0, found.score("f1").0], [wanted.aupr, wanted.f1]);
        let within = |name| {
            let (value, interval) = found.score(name);
            interval.is_some_and(|i| i.low < value.unwrap() && value.unwrap() < i.high)
        };
        assert!(within("aupr") && within("auroc") && within("f1"));
        assert_eq!((found.unit, found.n), ("components", 400));
        assert!(pool(&[], true).is_none() && pool(&[vec![]], true).is_none());
    }

    #[test]
    fn components_of_different_runs_are_different_units_and_chromosomes_the_same() {
        let (a, b) = (predictions(300, 3, 1), predictions(300, 3, 2));
        let of = |run, all: &'static [Prediction]| all.iter().map(move |p| (run, p)).collect::<Vec<_>>();
        let (a, b): (&'static [Prediction], &'static [Prediction]) = (a.leak(), b.leak());
        let both = pool(&[[of(0, a), of(1, b)].concat()], true).unwrap();
        assert_eq!((both.unit, both.units), ("components", 60));
        let (c, d) = (predictions(300, 12, 1).leak(), predictions(300, 12, 2).leak());
        let both = pool(&[[of(0, c), of(1, d)].concat()], true).unwrap();
        assert_eq!((both.unit, both.units, both.n), ("chromosomes", 12, 600));
        // Seeds are averaged, not joined.
        let (one, two) = (pool(&[of(0, a)], false).unwrap(), pool(&[of(0, b)], false).unwrap());
        let mean = pool(&[of(0, a), of(0, b)], true).unwrap();
        let wanted = (one.score("aupr").0.unwrap() + two.score("aupr").0.unwrap()) / 2.0;
        assert!((mean.score("aupr").0.unwrap() - wanted).abs() < 1e-12 && mean.n == 300);
    }

    #[test]
    fn intervals_of_differences_grow_with_both() {
        let estimate = |v: f64, r: f64| (Some(v), Some(Interval { low: v - r, high: v + r }));
        let (value, interval) = difference(estimate(0.9, 0.03), estimate(0.5, 0.04));
        let interval = interval.unwrap();
        assert!((value.unwrap() - 0.4).abs() < 1e-12 && (interval.low - 0.35).abs() < 1e-12);
        assert!((interval.high - 0.45).abs() < 1e-12);
        assert_eq!(difference((None, None), estimate(0.5, 0.1)), (None, None));
    }
}
