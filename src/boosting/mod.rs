//! TargetFinder: gradient-boosted trees on genomic features, with the semantics of scikit-learn's
//! `GradientBoostingClassifier`.

mod columns;
mod ensemble;
mod features;
mod file;
mod grow;
mod leaks;
mod peaks;
pub mod session;
mod tree;

pub use columns::Columns;
pub use ensemble::{Ensemble, Growth, fit};
pub use features::FeatureTable;
pub use leaks::refusal;
pub use peaks::{Peaks, measure};
pub use session::{Observer, Outcome, Silent};
pub use tree::{Node, Tree};
