//! Many runs from one file: models × data sets × protocols × folds × seeds, resumable, one run folder a cell.
//!
//! A study's folder holds `study.toml` (what was asked for, resolved), `study.json` (the [`Index`]: every cell and its
//! state) and `runs/<model>[-control]/<dataset>-<cell line>/<protocol>/fold<I>of<K>-seed<S>/`, ordinary run folders.

mod index;

pub use index::{CONFIG, Cell, CellState, Control, INDEX, Index, now};
