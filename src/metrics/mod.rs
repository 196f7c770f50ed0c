//! AUROC, AUPR, F1, MCC, Brier, calibration and grouped bootstrap intervals: numbers in, numbers out.
//!
//! Definitions are scikit-learn's; where scikit-learn warns and returns 0 or NaN because the data do not define a score
//! (a single class, an empty set), the value here is `None`.

mod bootstrap;
mod calibration;
mod confusion;
mod ranking;

pub use bootstrap::{Interval, effective_groups, interval, resample};
pub use calibration::{Bin, Calibration, calibration};
pub use confusion::{Confusion, macro_f1_per_batch};
pub use ranking::{Ranking, Scores};
