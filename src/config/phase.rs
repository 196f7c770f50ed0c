//! `[[train.phases]]`: training in several acts, such as an autoencoder first and a head on its frozen code after.

use serde::{Deserialize, Serialize};

use super::{Balance, BestBy, Config};
use crate::error::{Error, Result};

/// Which terms of a model's loss are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// All of them.
    #[default]
    Full,
    /// The reconstruction of an autoencoder, without the classes.
    Reconstruction,
    /// The classes, without the reconstruction.
    Classification,
}

/// One phase as written; what it leaves out is as in `[train]` and `[data]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseConfig {
    /// Stands on every line that the phase logs.
    pub name: String,
    /// Passes over the phase's training list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u32>,
    /// End the phase after this many of its own steps; 0 = no limit (`train.max_steps` still limits the whole run).
    #[serde(default)]
    pub max_steps: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_by: Option<BestBy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<Balance>,
    /// Tensors whose names begin so are kept as they are.
    #[serde(default)]
    pub frozen: Vec<String>,
    /// Factor λ of an L2 term on every learned tensor, in place of the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l2: Option<f32>,
    #[serde(default)]
    pub objective: Objective,
}

/// One phase with nothing left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// `None` where a run has a single, unnamed phase.
    pub name: Option<String>,
    pub epochs: u32,
    /// 0 = no limit.
    pub max_steps: u32,
    pub lr: f32,
    pub patience: u32,
    pub best_by: BestBy,
    pub balance: Balance,
    pub frozen: Vec<String>,
    pub l2: Option<f32>,
    pub objective: Objective,
}

impl Config {
    /// The phases of training, at least one. Each begins with the best weights of the one before and with fresh moments.
    pub fn phases(&self) -> Vec<Phase> {
        let (t, data) = (&self.train, &self.data);
        let whole = Phase {
            name: None,
            epochs: t.epochs,
            max_steps: 0,
            lr: t.lr,
            patience: t.patience,
            best_by: t.best_by,
            balance: data.balance,
            frozen: Vec::new(),
            l2: None,
            objective: Objective::Full,
        };
        if t.phases.is_empty() {
            return vec![whole];
        }
        let phase = |p: &PhaseConfig| Phase {
            name: Some(p.name.clone()),
            epochs: p.epochs.unwrap_or(whole.epochs),
            max_steps: p.max_steps,
            lr: p.lr.unwrap_or(whole.lr),
            patience: p.patience.unwrap_or(whole.patience),
            best_by: p.best_by.unwrap_or(whole.best_by),
            balance: p.balance.unwrap_or(whole.balance),
            frozen: p.frozen.clone(),
            l2: p.l2,
            objective: p.objective,
        };
        t.phases.iter().map(phase).collect()
    }
}

/// Error for a phase that cannot work or cannot be told from another.
pub(super) fn validate(phases: &[PhaseConfig]) -> Result<()> {
    for (i, phase) in phases.iter().enumerate() {
        let wrong = |what: &str| Err(Error::config("train.phases", format!("phase `{}`: {what}", phase.name)));
        if phase.name.trim().is_empty() || phases[..i].iter().any(|p| p.name == phase.name) {
            return wrong("every phase needs a name of its own");
        }
        if phase.epochs == Some(0) {
            return wrong("epochs must be at least 1 (cap the work with max_steps)");
        }
        if phase.lr.is_some_and(|lr| !(lr.is_finite() && lr > 0.0)) {
            return wrong("lr must be a positive number");
        }
        if phase.l2.is_some_and(|l2| !(l2.is_finite() && l2 >= 0.0)) {
            return wrong("l2 must be a positive number, or 0 for none");
        }
    }
    Ok(())
}
