//! Everything that is computed along the samples in order of falling score.

use super::Confusion;
use super::bootstrap::effective_groups;
use super::confusion::ratio;

/// The scores of a test part. `None` where the data do not define one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scores {
    /// Area under the ROC curve; tied scores count one half.
    pub auroc: Option<f64>,
    /// Average precision, as scikit-learn's `average_precision_score`.
    pub aupr: Option<f64>,
    /// Share of positives: what AUPR is by chance.
    pub base_rate: Option<f64>,
    /// F1 of the positive class at the given threshold.
    pub f1: Option<f64>,
    /// The highest F1 over all thresholds: an upper bound, chosen with the test labels in hand.
    pub f1_best: Option<f64>,
    /// Matthews correlation at the given threshold.
    pub mcc: Option<f64>,
    /// Mean squared error of the probabilities.
    pub brier: Option<f64>,
    /// Mean cross entropy of the probabilities, in nats.
    pub log_loss: Option<f64>,
}

impl Scores {
    /// Names of the scores, in the order of [`Scores::values`]: the JSON keys of every report.
    pub const NAMES: [&str; 8] = ["auroc", "aupr", "base_rate", "f1", "f1_best", "mcc", "brier", "log_loss"];
    /// All scores, in the order of [`Scores::NAMES`].
    pub fn values(&self) -> [Option<f64>; 8] {
        [self.auroc, self.aupr, self.base_rate, self.f1, self.f1_best, self.mcc, self.brier, self.log_loss]
    }
}

/// The samples of one group within one tie, on the walk from the highest score to the lowest. Small: replicates stream it.
struct Step {
    group: u32,
    /// Counts are exact in `f32` up to 2²⁴.
    positives: f32,
    negatives: f32,
    /// The next step has a lower score.
    ends_tie: bool,
}

/// Sums over one group: what needs no order.
#[derive(Clone, Copy, Default)]
struct Sums {
    positives: f64,
    negatives: f64,
    true_positives: f64,
    false_positives: f64,
    squared_error: f64,
    cross_entropy: f64,
}

/// Samples sorted by falling score, with the group (chromosome, component) that each is resampled with.
///
/// Sorting happens once; each bootstrap replicate is one walk over the sorted samples.
pub struct Ranking {
    steps: Vec<Step>,
    /// Score of each step.
    sorted: Vec<f64>,
    sums: Vec<Sums>,
}

impl Ranking {
    /// Ranks `scores` (probabilities, for Brier and log loss) of samples with `labels` (1 = positive), positive `calls`
    /// (for F1 and MCC) and `groups` (dense numbers from 0).
    ///
    /// # Panics
    /// When the four slices differ in length.
    pub fn new(labels: &[u8], scores: &[f64], calls: &[bool], groups: &[u32]) -> Self {
        let n = labels.len();
        assert!([scores.len(), calls.len(), groups.len()] == [n; 3], "one label, score, call and group per sample");
        let mut order: Vec<u32> = (0..n as u32).collect();
        order.sort_by(|&a, &b| {
            let (a, b) = (a as usize, b as usize);
            scores[b].total_cmp(&scores[a]).then(groups[a].cmp(&groups[b]))
        });
        let mut sums = vec![Sums::default(); groups.iter().max().map_or(0, |&g| g as usize + 1)];
        for (((&label, &score), &call), &group) in labels.iter().zip(scores).zip(calls).zip(groups) {
            let (sum, y, call) = (&mut sums[group as usize], f64::from(label), f64::from(u8::from(call)));
            let p = score.clamp(f64::EPSILON, 1.0 - f64::EPSILON);
            sum.positives += y;
            sum.negatives += 1.0 - y;
            sum.true_positives += call * y;
            sum.false_positives += call * (1.0 - y);
            sum.squared_error += (score - y).powi(2);
            sum.cross_entropy -= if label == 1 { p.ln() } else { (1.0 - p).ln() };
        }
        let (mut steps, mut sorted): (Vec<Step>, Vec<f64>) = (Vec::new(), Vec::new());
        for &i in &order {
            let (score, group, y) = (scores[i as usize], groups[i as usize], f32::from(labels[i as usize]));
            let tied = sorted.last() == Some(&score);
            match steps.last_mut() {
                Some(last) if tied && last.group == group => {
                    last.positives += y;
                    last.negatives += 1.0 - y;
                    continue;
                }
                Some(last) => last.ends_tie = !tied,
                None => {}
            }
            steps.push(Step { group, positives: y, negatives: 1.0 - y, ends_tie: true });
            sorted.push(score);
        }
        Ranking { steps, sorted, sums }
    }
    /// Ranks samples that are never resampled; `score >= threshold` is a positive call.
    pub fn ungrouped(labels: &[u8], scores: &[f64], threshold: f64) -> Self {
        let calls: Vec<bool> = scores.iter().map(|&s| s >= threshold).collect();
        Self::new(labels, scores, &calls, &vec![0; labels.len()])
    }
    /// Number of groups.
    pub fn groups(&self) -> u32 {
        self.sums.len() as u32
    }
    /// Number of samples of each group.
    pub fn sizes(&self) -> impl Iterator<Item = f64> {
        self.sums.iter().map(|s| s.positives + s.negatives)
    }
    /// Whether resampling groups says how far a score may be off. Where nearly all samples share a group every replicate is
    /// nearly the whole, and its interval would promise a certainty that nobody has.
    pub fn resamples(&self) -> bool {
        effective_groups(self.sizes()) >= 2.0
    }
    /// Number of samples in a replicate that holds group `g` `copies[g]` times.
    pub fn size(&self, copies: &[u32]) -> f64 {
        self.sums.iter().zip(copies).map(|(s, &c)| f64::from(c) * (s.positives + s.negatives)).sum()
    }
    /// The scores of all samples, each once.
    pub fn scores(&self) -> Scores {
        self.walk(|_| 1.0).0
    }
    /// The scores of a replicate that holds group `g` `copies[g]` times.
    pub fn resampled(&self, copies: &[u32]) -> Scores {
        self.walk(|group| f64::from(copies[group as usize])).0
    }
    /// The threshold that gives the highest F1 (the highest such), when there is a positive.
    pub fn best_threshold(&self) -> Option<f64> {
        self.walk(|_| 1.0).1
    }

    /// One walk from the highest score to the lowest; also the score at which F1 is best.
    fn walk(&self, weight: impl Fn(u32) -> f64) -> (Scores, Option<f64>) {
        let mut sums = Sums::default();
        for (group, s) in self.sums.iter().enumerate() {
            let w = weight(group as u32);
            sums.positives += w * s.positives;
            sums.negatives += w * s.negatives;
            sums.true_positives += w * s.true_positives;
            sums.false_positives += w * s.false_positives;
            sums.squared_error += w * s.squared_error;
            sums.cross_entropy += w * s.cross_entropy;
        }
        let (mut area, mut precision_sum, mut best, mut best_at) = (0.0, 0.0, 0.0, None);
        let (mut tp, mut fp, mut tie_tp, mut tie_fp) = (0.0, 0.0, 0.0, 0.0);
        for (at, step) in self.steps.iter().enumerate() {
            let w = weight(step.group);
            tie_tp += w * f64::from(step.positives);
            tie_fp += w * f64::from(step.negatives);
            if step.ends_tie {
                area += tie_fp * (tp + tie_tp / 2.0);
                (tp, fp) = (tp + tie_tp, fp + tie_fp);
                // Only a positive adds to average precision or raises F1.
                if tie_tp > 0.0 {
                    precision_sum += tie_tp * (tp / (tp + fp));
                    let f1 = 2.0 * tp / (tp + fp + sums.positives);
                    if f1 > best {
                        (best, best_at) = (f1, Some(self.sorted[at]));
                    }
                }
                (tie_tp, tie_fp) = (0.0, 0.0);
            }
        }
        let total = sums.positives + sums.negatives;
        let calls = Confusion {
            true_positives: sums.true_positives,
            false_positives: sums.false_positives,
            true_negatives: sums.negatives - sums.false_positives,
            false_negatives: sums.positives - sums.true_positives,
        };
        let scores = Scores {
            auroc: ratio(area, sums.positives * sums.negatives),
            aupr: ratio(precision_sum, sums.positives),
            base_rate: ratio(sums.positives, total),
            f1: calls.f1(),
            f1_best: (sums.positives > 0.0).then_some(best),
            mcc: calls.mcc(),
            brier: ratio(sums.squared_error, total),
            log_loss: ratio(sums.cross_entropy, total),
        };
        (scores, best_at)
    }
}
