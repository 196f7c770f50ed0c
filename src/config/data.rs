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

/// What is done to the sequences before a model sees them, in training and in scoring alike. Pairs, labels, split and
/// baselines stay as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    /// Nothing.
    #[default]
    None,
    /// Every enhancer shows the same random bases: what the promoter alone tells.
    PromoterOnly,
    /// Every promoter shows the same random bases.
    EnhancerOnly,
    /// Every window is replaced by random bases of its own: identity stays, biology goes.
    RandomDna,
}

impl Control {
    /// As configurations and run folders call it.
    pub fn name(self) -> &'static str {
        match self {
            Control::None => "none",
            Control::PromoterOnly => "promoter-only",
            Control::EnhancerOnly => "enhancer-only",
            Control::RandomDna => "random-dna",
        }
    }
    fn is_none(&self) -> bool {
        *self == Control::None
    }
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
    /// A control experiment: sequences taken away or replaced.
    #[serde(skip_serializing_if = "Control::is_none")]
    pub control: Control,
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
            control: Control::None,
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
