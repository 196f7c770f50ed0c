//! Counts of calls against labels and the scores made of them.

/// Calls against labels. Counts are `f64` because bootstrap replicates weight them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Confusion {
    pub true_positives: f64,
    pub false_positives: f64,
    pub true_negatives: f64,
    pub false_negatives: f64,
}

impl Confusion {
    /// Counts calls (`true` = called positive) against labels (1 = positive).
    pub fn of_calls(labels: &[u8], calls: impl IntoIterator<Item = bool>) -> Self {
        let mut counts = Self::default();
        for (&label, call) in labels.iter().zip(calls) {
            *match (label == 1, call) {
                (true, true) => &mut counts.true_positives,
                (false, true) => &mut counts.false_positives,
                (false, false) => &mut counts.true_negatives,
                (true, false) => &mut counts.false_negatives,
            } += 1.0;
        }
        counts
    }
    /// Counts `score >= threshold` as a positive call.
    pub fn at(labels: &[u8], scores: &[f64], threshold: f64) -> Self {
        Self::of_calls(labels, scores.iter().map(|&s| s >= threshold))
    }
    /// F1 of the positive class; `None` when nothing is positive and nothing is called.
    pub fn f1(&self) -> Option<f64> {
        ratio(2.0 * self.true_positives, 2.0 * self.true_positives + self.false_positives + self.false_negatives)
    }
    /// The same counts with the classes exchanged.
    pub fn swapped(&self) -> Self {
        Confusion {
            true_positives: self.true_negatives,
            false_positives: self.false_negatives,
            true_negatives: self.true_positives,
            false_negatives: self.false_positives,
        }
    }
    /// Mean of both classes' F1; a class that is neither present nor called counts 0, as in scikit-learn. `None` when empty.
    pub fn macro_f1(&self) -> Option<f64> {
        let total = self.true_positives + self.false_positives + self.true_negatives + self.false_negatives;
        let class = |c: &Self| c.f1().unwrap_or(0.0);
        (total > 0.0).then(|| (class(self) + class(&self.swapped())) / 2.0)
    }
    /// Matthews correlation: 0 when all calls are equal, `None` when all labels are.
    pub fn mcc(&self) -> Option<f64> {
        let (tp, fp, tn, fn_) = (self.true_positives, self.false_positives, self.true_negatives, self.false_negatives);
        let (positives, negatives) = (tp + fn_, tn + fp);
        if positives == 0.0 || negatives == 0.0 {
            return None;
        }
        let denominator = (tp + fp).sqrt() * (tn + fn_).sqrt() * positives.sqrt() * negatives.sqrt();
        Some(ratio(tp * tn - fp * fn_, denominator).unwrap_or(0.0))
    }
}

/// Macro F1 of each batch of `batch` consecutive samples, averaged: the figure that EPSAT's released program prints.
pub fn macro_f1_per_batch(labels: &[u8], scores: &[f64], threshold: f64, batch: usize) -> Option<f64> {
    let batches = labels.chunks(batch.max(1)).zip(scores.chunks(batch.max(1)));
    let each: Vec<f64> = batches.filter_map(|(l, s)| Confusion::at(l, s, threshold).macro_f1()).collect();
    ratio(each.iter().sum(), each.len() as f64)
}

/// A quotient, or `None` where it has no value.
pub(super) fn ratio(numerator: f64, denominator: f64) -> Option<f64> {
    let value = numerator / denominator;
    value.is_finite().then_some(value)
}
