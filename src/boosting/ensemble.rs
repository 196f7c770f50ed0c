//! Boosting: each tree fits what the ones before it leave over.

use super::columns::Columns;
use super::grow::{Grower, Row};
use super::tree::Tree;
use crate::rng::{Stream, stream};

/// How to grow an ensemble.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    pub trees: usize,
    /// Factor of every leaf.
    pub learning_rate: f64,
    /// Splits between root and leaf, at most.
    pub depth: usize,
    /// Features drawn for each split; all of them = no randomness.
    pub tried: usize,
    /// Whether the classes weigh the same, as by `sample_weight = compute_sample_weight("balanced")`; otherwise the rows do.
    pub balanced: bool,
    pub seed: u64,
}

/// A sum of trees that gives the log odds of the positive class.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ensemble {
    /// Log odds of the training rows, before any tree.
    pub prior: f64,
    pub learning_rate: f64,
    pub trees: Vec<Tree>,
    /// Share of each feature in the reduction of squared error by all splits; they add up to 1, or are all 0.
    pub importances: Vec<f64>,
}

impl Ensemble {
    /// Log odds of a row with these features.
    pub fn log_odds(&self, value: impl Fn(usize) -> f32) -> f64 {
        self.trees.iter().fold(self.prior, |sum, tree| sum + self.learning_rate * tree.score(&value))
    }
    /// Probability of the positive class.
    pub fn probability(&self, value: impl Fn(usize) -> f32) -> f64 {
        expit(self.log_odds(value))
    }
}

/// Grows an ensemble on `rows` of `columns`; `labels` (0 or 1, both among the rows) belong to the whole table. `tick` is
/// called after every tree; when it gives false, growing ends and there is no ensemble.
///
/// Each tree fits the residuals `y − p`; a leaf then takes a Newton step, `Σ w(y − p) / Σ w·p(1 − p)`.
pub fn fit(
    columns: &Columns,
    labels: &[u8],
    rows: &[u32],
    growth: &Growth,
    mut tick: impl FnMut() -> bool,
) -> Option<Ensemble> {
    let positives = rows.iter().filter(|&&r| labels[r as usize] == 1).count() as f64;
    let odds = positives / (rows.len() as f64 - positives);
    let (prior, positive) = if growth.balanced { (0.0, 1.0 / odds) } else { (odds.ln(), 1.0) };
    let mut grower = Grower::new(columns, rows, labels, positive, growth);
    let mut log_odds = vec![prior; columns.rows()];
    let mut residuals = vec![0.0; columns.rows()];
    let mut ensemble = Ensemble { prior, learning_rate: growth.learning_rate, ..Ensemble::default() };
    for number in 0..growth.trees {
        for &row in rows {
            residuals[row as usize] = f64::from(labels[row as usize]) - expit(log_odds[row as usize]);
        }
        let mut random = Stream::new(growth.seed, stream::TREES, number as u32);
        let mut grown = grower.grow(&residuals, &mut random);
        for (node, range) in &grown.leaves {
            let rows = grower.order(range);
            let value = newton(rows, positive);
            grown.tree.nodes[*node].value = value;
            for row in rows {
                log_odds[row.row as usize] += growth.learning_rate * value;
            }
        }
        ensemble.trees.push(grown.tree);
        if !tick() {
            return None;
        }
    }
    let total: f64 = grower.importances.iter().sum();
    ensemble.importances = grower.importances.iter().map(|i| if total > 0.0 { i / total } else { 0.0 }).collect();
    Some(ensemble)
}

/// The Newton step of a leaf with these rows and residuals; 0 where its rows are certain already.
fn newton(rows: &[Row], positive: f64) -> f64 {
    let (mut gradient, mut curvature) = (0.0, 0.0);
    for row in rows {
        let (weight, y) = if row.positive { (positive, 1.0) } else { (1.0, 0.0) };
        let p = y - row.target;
        gradient += row.weighted(positive);
        curvature += weight * (p * (1.0 - p));
    }
    if curvature.abs() < 1e-150 * rows.len() as f64 { 0.0 } else { gradient / curvature }
}

fn expit(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
