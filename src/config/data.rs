//! `[data]`: which pairs, which windows, and how training sees them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How training makes up for rare positives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// Every pair as it is.
    None,
    /// Class weights in the loss: both classes weigh the same in total.
    Weights,
    /// Each positive `data.positives_times` times, the copies augmented.
    Oversample,
}

/// Where the pairs come from and how training sees them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// The `.epi` file; without one, the bundled demonstration set.
    pub path: Option<PathBuf>,
    /// Cell lines (data set names) to use; empty = all.
    pub cell_lines: Vec<String>,
    /// Expected length of the enhancer window in bases (checked against the file); 0 = whatever the file holds.
    pub enhancer_length: usize,
    /// Expected length of the promoter window in bases; 0 = whatever the file holds.
    pub promoter_length: usize,
    pub balance: Balance,
    /// Copies of each positive with `balance = "oversample"`.
    pub positives_times: usize,
    /// Training windows are shifted by up to this many bases, both elements independently.
    pub shift: u32,
    /// Training pairs are reverse-complemented with probability one half, both elements together.
    pub reverse_complement: bool,
}

impl Default for DataConfig {
    fn default() -> Self {
        DataConfig {
            path: None,
            cell_lines: Vec::new(),
            enhancer_length: 0,
            promoter_length: 0,
            balance: Balance::Weights,
            positives_times: 20,
            shift: 0,
            reverse_complement: false,
        }
    }
}

impl DataConfig {
    pub(super) fn validate(&self) -> Result<()> {
        if self.balance == Balance::Oversample && self.positives_times == 0 {
            return Err(Error::config("data.positives_times", "0 copies would drop every positive; use 1 or more"));
        }
        if self.shift > 100_000 {
            return Err(Error::config("data.shift", "more than 100,000 bases; the usual value is 100"));
        }
        Ok(())
    }
}
