//! Percentile intervals from resampling whole groups: rows that share a locus are not independent, groups are.

use crate::rng::{Stream, stream};
use rayon::prelude::*;

/// A 95 % percentile interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

/// Draws `groups` groups with replacement, `replicates` times, and hands each replicate's number of copies of every group
/// to `score`. Replicate `i` depends on `(seed, i)` alone and results come in order, whatever the number of threads.
pub fn resample<T: Send>(groups: u32, replicates: u32, seed: u64, score: impl Fn(&[u32]) -> T + Sync) -> Vec<T> {
    let replicate = |copies: &mut Vec<u32>, i: u32| {
        let mut numbers = Stream::new(seed, stream::BOOTSTRAP, i);
        copies.clear();
        copies.resize(groups as usize, 0);
        for _ in 0..groups {
            copies[numbers.below(groups) as usize] += 1;
        }
        score(copies)
    };
    (0..replicates).into_par_iter().map_init(Vec::new, replicate).collect()
}

/// The central 95 % of the replicates (linear between order statistics, as numpy's `percentile`).
///
/// `None` when fewer than half of the replicates define the score: an interval of the lucky ones would mislead.
pub fn interval(replicates: impl IntoIterator<Item = Option<f64>>) -> Option<Interval> {
    let mut drawn = 0;
    let mut values: Vec<f64> = replicates.into_iter().inspect(|_| drawn += 1).flatten().collect();
    if values.is_empty() || 2 * values.len() < drawn {
        return None;
    }
    values.sort_unstable_by(f64::total_cmp);
    let percentile = |q: f64| {
        let at = q * (values.len() - 1) as f64;
        let (below, above) = (values[at.floor() as usize], values[at.ceil() as usize]);
        below + (above - below) * at.fract()
    };
    Some(Interval { low: percentile(0.025), high: percentile(0.975) })
}

/// How many groups of equal size would tell as much as groups of these sizes: (Σn)² / Σn² (Kish's effective number).
pub fn effective_groups(sizes: impl Iterator<Item = f64>) -> f64 {
    let (sum, squares) = sizes.fold((0.0, 0.0), |(sum, squares), n| (sum + n, squares + n * n));
    if squares > 0.0 { sum * sum / squares } else { 0.0 }
}
