//! What can be scored without a model and without sequence: element identities and distance.

use super::{PairTable, Sample, Side};

/// Element lookup: how often each element was positive in training, and nothing else.
///
/// Score: Σ over sides of logit((k+p)/(n+1)) − logit(p), with k positives among the n training rows of that element and
/// the training prior p. An element that training has not seen adds 0.
#[derive(Clone, Debug)]
pub struct Lookup {
    prior: f64,
    /// `logit((k+p)/(n+1)) − logit(p)` per element, by side.
    evidence: [Vec<f64>; 2],
}

impl Lookup {
    /// Counts the training samples of each element of `sides`.
    pub fn fit(table: &PairTable, train: &[Sample], sides: &[Side]) -> Self {
        let positives = train.iter().filter(|s| s.label == 1).count() as f64;
        let prior = positives / train.len().max(1) as f64;
        let evidence = [Side::Enhancer, Side::Promoter].map(|side| {
            let mut counts = vec![(0.0, 0.0); table.elements(side).len()];
            if sides.contains(&side) && prior > 0.0 && prior < 1.0 {
                for sample in train {
                    let count = &mut counts[sample.element(side) as usize];
                    *count = (count.0 + f64::from(sample.label), count.1 + 1.0);
                }
            }
            let score = |(k, n): (f64, f64)| if n == 0.0 { 0.0 } else { logit((k + prior) / (n + 1.0)) - logit(prior) };
            counts.into_iter().map(score).collect()
        });
        Lookup { prior, evidence }
    }
    /// Log odds beyond the prior; above 0 means "rather positive".
    pub fn score(&self, sample: &Sample) -> f64 {
        self.evidence[0][sample.enhancer as usize] + self.evidence[1][sample.promoter as usize]
    }
    /// The same as a probability.
    pub fn probability(&self, sample: &Sample) -> f64 {
        if self.prior > 0.0 && self.prior < 1.0 { sigmoid(self.score(sample) + logit(self.prior)) } else { self.prior }
    }
}

fn logit(p: f64) -> f64 {
    (p / (1.0 - p)).ln()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Logistic regression on the logarithm of the distance (and, where samples join two contigs, on that fact).
#[derive(Clone, Debug)]
pub struct Distance {
    mean: f64,
    scale: f64,
    weights: [f64; 3],
}

impl Distance {
    /// Fits by Newton's method with a ridge of 1 on the slopes (scikit-learn's default strength).
    ///
    /// `None` when no training sample has a distance.
    pub fn fit(table: &PairTable, train: &[Sample]) -> Option<Self> {
        let logs: Vec<f64> = train.iter().filter_map(|s| log_distance(table, s)).collect();
        if logs.is_empty() {
            return None;
        }
        let mean = logs.iter().sum::<f64>() / logs.len() as f64;
        let variance = logs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / logs.len() as f64;
        let scale = if variance > 0.0 { variance.sqrt() } else { 1.0 };
        let mut model = Distance { mean, scale, weights: [0.0; 3] };
        let rows: Vec<([f64; 3], f64)> = train.iter().map(|s| (model.features(table, s), f64::from(s.label))).collect();
        for _ in 0..50 {
            let mut gradient = [0.0, model.weights[1], model.weights[2]];
            let mut hessian = [[1e-9, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
            for (x, label) in &rows {
                let p = sigmoid(dot(&model.weights, x));
                for i in 0..3 {
                    gradient[i] += (p - label) * x[i];
                    for j in 0..3 {
                        hessian[i][j] += p * (1.0 - p) * x[i] * x[j];
                    }
                }
            }
            let step = solve(hessian, gradient);
            // A class of one label sends the intercept to infinity; it need not go all the way.
            (0..3).for_each(|i| model.weights[i] = (model.weights[i] - step[i]).clamp(-30.0, 30.0));
            if step.iter().all(|s| s.abs() < 1e-9) {
                break;
            }
        }
        Some(model)
    }
    /// Probability of interaction.
    pub fn probability(&self, table: &PairTable, sample: &Sample) -> f64 {
        sigmoid(dot(&self.weights, &self.features(table, sample)))
    }
    fn features(&self, table: &PairTable, sample: &Sample) -> [f64; 3] {
        match log_distance(table, sample) {
            Some(log) => [1.0, (log - self.mean) / self.scale, 0.0],
            None => [1.0, 0.0, 1.0],
        }
    }
}

fn log_distance(table: &PairTable, sample: &Sample) -> Option<f64> {
    table.sample_distance(sample).map(|d| (d as f64 + 1.0).ln())
}

fn dot(a: &[f64; 3], b: &[f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

/// Solves a positive definite 3×3 system by elimination.
fn solve(mut m: [[f64; 3]; 3], mut v: [f64; 3]) -> [f64; 3] {
    for i in 0..3 {
        for k in i + 1..3 {
            let factor = m[k][i] / m[i][i];
            (i..3).for_each(|j| m[k][j] -= factor * m[i][j]);
            v[k] -= factor * v[i];
        }
    }
    for i in (0..3).rev() {
        let known: f64 = (i + 1..3).map(|j| m[i][j] * v[j]).sum();
        v[i] = (v[i] - known) / m[i][i];
    }
    v
}
