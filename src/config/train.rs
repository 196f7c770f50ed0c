//! `[train]`: how long, how fast, on what.

use serde::{Deserialize, Serialize};

use super::{PhaseConfig, phase};
use crate::error::{Error, Result};

/// What makes one evaluation of the validation part better than another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BestBy {
    /// The highest AUPR.
    Aupr,
    /// The lowest loss.
    Loss,
    /// The highest macro F1 per batch, averaged over batches: what the released EPSAT program reports.
    MacroF1PerBatch,
}

/// The training loop's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Passes over the training list.
    pub epochs: u32,
    /// Stop after this many optimiser steps, and score at most this many batches of a part; 0 = no limit.
    pub max_steps: u32,
    /// Train on no more samples than this, counted in whole batches; 0 = no limit. Parts are scored whole.
    pub max_samples: u64,
    /// Samples per step.
    pub batch: usize,
    /// Adam's learning rate.
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    /// Largest gradient norm; 0 = no clipping.
    pub clip: f32,
    /// Stop when validation has not improved for this many evaluations; 0 = never.
    pub patience: u32,
    /// Which evaluation's weights are kept as the best (the lowest loss where validation has a single class).
    pub best_by: BestBy,
    /// Steps between evaluations of the validation part; 0 = once an epoch.
    pub evaluate_every: u32,
    /// Steps between checkpoints; 0 = only with evaluations and at the end.
    pub checkpoint_every: u32,
    /// Steps between lines of the log.
    pub log_every: u32,
    /// Keep the data set on the device and replay a recorded step, where the device can; the bits are the same without.
    pub graph: bool,
    /// Seed of weights, order, augmentation and dropout.
    pub seed: u64,
    /// `f32` or `bf16`.
    pub precision: String,
    /// `auto`, `cpu`, `cuda[:N]`, `emulator` or `reference`.
    pub device: String,
    /// Phases one after another; without any, the settings above are the only one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<PhaseConfig>,
}

impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig {
            epochs: 50,
            max_steps: 0,
            max_samples: 0,
            batch: 64,
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            clip: 0.0,
            patience: 10,
            best_by: BestBy::Aupr,
            evaluate_every: 0,
            checkpoint_every: 200,
            log_every: 10,
            graph: true,
            seed: 1,
            precision: "f32".into(),
            device: "auto".into(),
            phases: Vec::new(),
        }
    }
}

impl TrainConfig {
    /// Steps that `max_steps` and `max_samples` leave; 0 = no limit.
    pub fn step_limit(&self) -> u32 {
        let of_samples = u32::try_from(self.max_samples / self.batch.max(1) as u64).unwrap_or(u32::MAX);
        match (self.max_steps, of_samples) {
            (0, steps) | (steps, 0) => steps,
            (a, b) => a.min(b),
        }
    }
    pub(super) fn validate(&self) -> Result<()> {
        let positive = |key: &str, value: f32| {
            if value.is_finite() && value > 0.0 {
                return Ok(());
            }
            Err(Error::config(key, format!("{value} must be a positive number")))
        };
        positive("train.lr", self.lr)?;
        positive("train.eps", self.eps)?;
        for (key, value) in [("train.beta1", self.beta1), ("train.beta2", self.beta2)] {
            if !(0.0..1.0).contains(&value) {
                return Err(Error::config(key, format!("{value} is outside [0, 1)")));
            }
        }
        if !(self.clip >= 0.0 && self.clip.is_finite()) {
            return Err(Error::config("train.clip", "give a positive norm, or 0 for no clipping"));
        }
        if self.batch < 2 {
            return Err(Error::config("train.batch", "batch norm needs at least 2 samples in a batch"));
        }
        if self.max_samples > 0 && self.max_samples < self.batch as u64 {
            let message = format!("{} samples are less than a batch of {}", self.max_samples, self.batch);
            return Err(Error::config("train.max_samples", message));
        }
        if self.epochs == 0 {
            return Err(Error::config("train.epochs", "at least 1 (cap the work with train.max_steps)"));
        }
        if !["f32", "bf16"].contains(&self.precision.as_str()) {
            return Err(Error::config("train.precision", format!("`{}`: choose f32 or bf16", self.precision)));
        }
        phase::validate(&self.phases)
    }
}
