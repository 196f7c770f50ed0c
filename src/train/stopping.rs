//! Which evaluation was the best, and when nothing better is to be expected.

use serde::{Deserialize, Serialize};

/// The best evaluation so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub step: u32,
    pub epoch: u32,
    /// What `train.best_by` (or the phase's) names, or minus the validation loss where validation has a single class.
    pub score: f64,
}

/// Follows the validation score.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stopping {
    /// The best so far.
    pub best: Option<Best>,
    /// Evaluations since then.
    pub since: u32,
}

impl Stopping {
    /// Takes note of an evaluation; true if it is the best so far. A later equal score is no improvement.
    pub fn observe(&mut self, step: u32, epoch: u32, score: f64) -> bool {
        if self.best.as_ref().is_none_or(|best| score > best.score) {
            self.best = Some(Best { step, epoch, score });
            self.since = 0;
            return true;
        }
        self.since += 1;
        false
    }
    /// Whether `patience` evaluations have passed without improvement (0 = never).
    pub fn exhausted(&self, patience: u32) -> bool {
        patience > 0 && self.since >= patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_counts_evaluations_without_improvement() {
        let mut stopping = Stopping::default();
        assert!(stopping.observe(10, 0, 0.3));
        assert!(!stopping.observe(20, 1, 0.3));
        assert!(stopping.observe(30, 2, 0.4));
        assert!(!stopping.observe(40, 3, 0.1));
        assert!(!stopping.exhausted(2) && !stopping.exhausted(0));
        assert!(!stopping.observe(50, 4, 0.2));
        assert!(stopping.exhausted(2) && !stopping.exhausted(0));
        assert_eq!(stopping.best.unwrap().step, 30);
    }
}
