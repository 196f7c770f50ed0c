//! Many runs from one file: models × data sets × protocols × folds × seeds, resumable, one run folder a cell.
//!
//! A study's folder holds `study.toml` (what was asked for, resolved), `study.json` (the [`Index`]: every cell and its
//! state) and `runs/<model>[-control]/<dataset>-<cell line>/<protocol>/fold<I>of<K>-seed<S>/`, ordinary run folders.

mod estimate;
mod file;
mod index;
mod plan;
mod run;
mod source;

pub use crate::config::Control;
pub use estimate::Estimate;
pub use file::{Folds, Group, ModelChoice, NamedModel, Planted, Source, SourceKind, Study};
pub use index::{CONFIG, Cell, CellState, INDEX, Index};
pub use plan::{Job, Task, tasks};
pub use run::{Observer, Plan, Silent, lock};
