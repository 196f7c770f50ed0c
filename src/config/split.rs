//! `[split]`: who trains, who chooses, who is scored.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The evaluation protocol; `docs/protocols.md` says what each kind means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SplitConfig {
    /// `chromosome`, `column:NAME`, `component`, `cross-cell`, `promoter`, `enhancer`, `random`, `paper-text`, `paper-code`.
    pub kind: String,
    /// Number of folds K; by default 5, and 10 for the leaky protocols.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folds: Option<u32>,
    /// Which fold is the test part, from 0; the next one is validation.
    pub fold: u32,
    /// Groups held out for testing by name (chromosomes, column values, cell lines); overrides the folds.
    pub test: Vec<String>,
    /// Groups held out for validation by name.
    pub validation: Vec<String>,
    pub seed: u64,
}

impl Default for SplitConfig {
    fn default() -> Self {
        let kind = "chromosome".to_string();
        SplitConfig { kind, folds: None, fold: 0, test: Vec::new(), validation: Vec::new(), seed: 0 }
    }
}

impl SplitConfig {
    pub(super) fn validate(&self) -> Result<()> {
        if self.folds.is_some_and(|k| k < 2) {
            return Err(Error::config("split.folds", "at least 2 folds are needed: one trains while one is scored"));
        }
        if let Some(folds) = self.folds
            && self.fold >= folds
        {
            let message = format!("fold {} of {folds}: folds are counted from 0", self.fold);
            return Err(Error::config("split.fold", message));
        }
        Ok(())
    }
}
