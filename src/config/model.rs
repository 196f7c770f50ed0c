//! `[model]`: which network, and every size of it.

use serde::{Deserialize, Serialize};

use super::SpeidConfig;
use crate::error::{Error, Result};

/// The network and its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum ModelConfig {
    Epsat(EpsatConfig),
    Eplae(EplaeConfig),
    Speid(SpeidConfig),
}

impl ModelConfig {
    /// Name of the architecture.
    pub fn name(&self) -> &'static str {
        match self {
            ModelConfig::Epsat(_) => "epsat",
            ModelConfig::Eplae(_) => "eplae",
            ModelConfig::Speid(_) => "speid",
        }
    }
    /// Error for sizes that cannot work.
    pub fn validate(&self) -> Result<()> {
        match self {
            ModelConfig::Epsat(c) => c.validate(),
            ModelConfig::Eplae(c) => c.validate(),
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

/// What the code of EPLAE is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Latent {
    /// A point: reconstruction and classes are trained together (in phases: one after the other).
    Joint,
    /// A normal distribution, kept near the standard one by β times the divergence.
    Vae,
}

/// How the squared errors of a reconstruction make a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReconstructionLoss {
    /// Mean over every channel of every base of both elements.
    Mean,
    /// Sum over a sample, mean over samples.
    Sum,
}

/// EPLAE: a convolutional autoencoder of three stages with a linear classifier on its code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EplaeConfig {
    /// Filters of every convolution but the last.
    pub filters: usize,
    /// Bases a filter sees; odd, so that stages halve and double lengths.
    pub kernel_size: usize,
    /// Units of the linear layers beside the code.
    pub units: usize,
    /// Size of the code.
    pub latent: usize,
    pub variant: Latent,
    /// Factor of the divergence of a variational code.
    pub beta: f32,
    pub reconstruction: ReconstructionLoss,
    /// Factor λ of the L2 term λ‖θ‖² over all parameters.
    pub l2: f32,
    /// Slope of LeakyReLU for negative values.
    pub slope: f32,
}

impl Default for EplaeConfig {
    fn default() -> Self {
        EplaeConfig {
            filters: 256,
            kernel_size: 13,
            units: 512,
            latent: 512,
            variant: Latent::Joint,
            beta: 1.0,
            reconstruction: ReconstructionLoss::Mean,
            l2: 1e-5,
            slope: 0.01,
        }
    }
}

impl EplaeConfig {
    fn validate(&self) -> Result<()> {
        at_least("model.filters", self.filters, 1, 4096)?;
        at_least("model.kernel_size", self.kernel_size, 1, 63)?;
        if self.kernel_size.is_multiple_of(2) {
            let message = format!("{} is even: stages halve and double lengths only with odd sizes", self.kernel_size);
            return Err(Error::config("model.kernel_size", message));
        }
        at_least("model.units", self.units, 1, 1 << 16)?;
        at_least("model.latent", self.latent, 1, 1 << 16)?;
        for (key, value) in [("model.beta", self.beta), ("model.l2", self.l2)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::config(key, format!("{value} must be a positive number, or 0 for none")));
            }
        }
        if !(self.slope > 0.0 && self.slope <= 1.0) {
            return Err(Error::config("model.slope", format!("{} is outside (0, 1]", self.slope)));
        }
        Ok(())
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
