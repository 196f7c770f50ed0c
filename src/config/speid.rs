//! `[model]` of SPEID.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::model::{at_least, probability};
use crate::error::{Error, Result};

/// Squashing function of an LSTM's input, forget and output gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateKind {
    Sigmoid,
    /// Keras 1's default, `clip(0.2 x + 0.5, 0, 1)`.
    HardSigmoid,
}

/// SPEID: convolution, bidirectional LSTM, two dense layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpeidConfig {
    /// Convolution filters per branch.
    pub kernels: usize,
    /// Bases a filter sees.
    pub kernel_size: usize,
    /// Width and stride of the max pooling.
    pub pool: usize,
    /// LSTM units per direction.
    pub hidden: usize,
    /// Units of the dense layer.
    pub dense: usize,
    pub gate: GateKind,
    /// Dropout behind the convolution.
    pub dropout_conv: f32,
    /// Dropout behind the LSTM.
    pub dropout_lstm: f32,
    /// Dropout behind the dense layer.
    pub dropout_dense: f32,
    /// Factor λ of the L2 term of the convolutions' weights.
    pub l2_conv: f32,
    /// Factor λ of the L2 term of the dense layer's weight.
    pub l2_dense: f32,
    /// A MEME file whose motifs, in its order, the filters of both branches start with; filters beyond the last motif
    /// start at random.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub motifs: Option<PathBuf>,
}

impl Default for SpeidConfig {
    fn default() -> Self {
        SpeidConfig {
            kernels: 200,
            kernel_size: 40,
            pool: 20,
            hidden: 50,
            dense: 800,
            gate: GateKind::Sigmoid,
            dropout_conv: 0.25,
            dropout_lstm: 0.5,
            dropout_dense: 0.5,
            l2_conv: 1e-5,
            l2_dense: 1e-6,
            motifs: None,
        }
    }
}

impl SpeidConfig {
    pub(super) fn validate(&self) -> Result<()> {
        at_least("model.kernels", self.kernels, 1, 4096)?;
        at_least("model.kernel_size", self.kernel_size, 1, 64)?;
        at_least("model.pool", self.pool, 1, 255)?;
        at_least("model.hidden", self.hidden, 1, 1024)?;
        at_least("model.dense", self.dense, 1, 65_536)?;
        probability("model.dropout_conv", self.dropout_conv)?;
        probability("model.dropout_lstm", self.dropout_lstm)?;
        probability("model.dropout_dense", self.dropout_dense)?;
        for (key, factor) in [("model.l2_conv", self.l2_conv), ("model.l2_dense", self.l2_dense)] {
            if !(factor.is_finite() && factor >= 0.0) {
                return Err(Error::config(key, format!("{factor} must be a positive number, or 0 for none")));
            }
        }
        Ok(())
    }
}
