//! `[model]`: which network, and every size of it.

use serde::{Deserialize, Serialize};

use super::SpeidConfig;
use crate::error::{Error, Result};

/// The network and its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum ModelConfig {
    Epsat(EpsatConfig),
    Speid(SpeidConfig),
}

impl ModelConfig {
    /// Name of the architecture.
    pub fn name(&self) -> &'static str {
        match self {
            ModelConfig::Epsat(_) => "epsat",
            ModelConfig::Speid(_) => "speid",
        }
    }
    /// Error for sizes that cannot work.
    pub fn validate(&self) -> Result<()> {
        match self {
            ModelConfig::Epsat(c) => c.validate(),
            ModelConfig::Speid(c) => c.validate(),
        }
    }
}

/// Which axis the LSTM walks along.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LstmAxis {
    /// Along the sequence.
    Position,
    /// Along the batch, as the released program does: a sample sees its batch mates.
    Batch,
}

/// What the readout is normalised over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NormKind {
    /// Each sample by its own mean and standard deviation.
    Sample,
    /// All samples of a batch by one mean and standard deviation (the released program).
    Batch,
}

/// Training loss on the two logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    CrossEntropy,
    /// Cross entropy with its arguments exchanged (the released program).
    ExchangedCrossEntropy,
}

/// EPSAT: convolution, bidirectional LSTM, multi-head attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EpsatConfig {
    /// Convolution filters per branch.
    pub kernels: usize,
    /// Bases a filter sees.
    pub kernel_size: usize,
    /// Width and stride of the max pooling.
    pub pool: usize,
    /// LSTM units per direction.
    pub hidden: usize,
    /// LSTM layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Size of a head.
    pub head_size: usize,
    /// Size of the readout vector.
    pub readout: usize,
    pub lstm_axis: LstmAxis,
    pub readout_norm: NormKind,
    pub loss: LossKind,
    /// Dropout behind the convolution.
    pub dropout_conv: f32,
    /// Dropout behind the LSTM.
    pub dropout_lstm: f32,
    /// Dropout of the attention weights.
    pub dropout_attention: f32,
}

impl Default for EpsatConfig {
    fn default() -> Self {
        EpsatConfig {
            kernels: 200,
            kernel_size: 13,
            pool: 6,
            hidden: 100,
            layers: 2,
            heads: 8,
            head_size: 32,
            readout: 100,
            lstm_axis: LstmAxis::Position,
            readout_norm: NormKind::Sample,
            loss: LossKind::CrossEntropy,
            dropout_conv: 0.2,
            dropout_lstm: 0.4,
            dropout_attention: 0.2,
        }
    }
}

impl EpsatConfig {
    fn validate(&self) -> Result<()> {
        at_least("model.kernels", self.kernels, 1, 4096)?;
        at_least("model.kernel_size", self.kernel_size, 1, 64)?;
        at_least("model.pool", self.pool, 1, 1024)?;
        at_least("model.hidden", self.hidden, 1, 1024)?;
        at_least("model.layers", self.layers, 1, 16)?;
        at_least("model.heads", self.heads, 1, 64)?;
        at_least("model.head_size", self.head_size, 1, 64)?;
        at_least("model.readout", self.readout, 2, 4096)?;
        probability("model.dropout_conv", self.dropout_conv)?;
        probability("model.dropout_lstm", self.dropout_lstm)?;
        probability("model.dropout_attention", self.dropout_attention)
    }
}

/// Error unless `low <= value <= high`.
pub(super) fn at_least(key: &str, value: usize, low: usize, high: usize) -> Result<()> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(Error::config(key, format!("{value} is outside {low}..={high}")))
}

/// Error unless `p` can be a dropout probability.
pub(super) fn probability(key: &str, p: f32) -> Result<()> {
    if (0.0..1.0).contains(&p) {
        return Ok(());
    }
    Err(Error::config(key, format!("{p} is not a probability in [0, 1)")))
}
