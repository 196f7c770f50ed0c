//! Training: from a configuration and a data set to a run folder that can be stopped and resumed bit for bit.

mod checkpoint;
mod events;
mod folder;
mod learner;
mod run;
pub mod session;
mod stopping;
mod together;

pub use checkpoint::State;
pub use folder::RunFolder;
pub use learner::{KEPT_LOSSES, Learner, Step};
pub use run::{Observer, Outcome, Progress, Silent, Training, training_plan};
pub use session::{Fold, Part};
pub use stopping::{Best, Stopping};
pub use together::together;
