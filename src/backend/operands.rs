//! What primitives are told beside their tensors: sizes and choices of each operator, the record of a step, Adam's constants.

use super::{Backend, Tensor};
use crate::error::{Error, Result};
use crate::rng::Dropout;

/// What changes from step to step, in one record on the device: kernels read it through a pointer, so that a recorded
/// step can be replayed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct StepState {
    /// Optimiser step, counted from 1 during the first step with fresh moments.
    pub step: u32,
    /// Step counter of the dropout streams.
    pub philox_step: u32,
    /// Learning rate.
    pub lr: f32,
    /// `1 - beta1^step`.
    pub bias_correction1: f32,
    /// `1 - beta2^step`.
    pub bias_correction2: f32,
    /// First sample of this batch in the epoch's order.
    pub batch_cursor: u32,
    /// Epoch that the order and the draws of the batch's samples are keyed by.
    pub epoch: u32,
}

/// One-hot convolution, normalisation, ReLU, max pooling and dropout of DNA, as one operator.
#[derive(Clone, Copy, Debug)]
pub struct DnaConv {
    /// Output channels `C`.
    pub channels: usize,
    /// Taps `K` (1 to 64).
    pub kernel: usize,
    /// Width and stride of the max pooling; the remainder is dropped.
    pub pool: usize,
    /// Use batch statistics (and update the running ones) instead of the running statistics.
    pub train: bool,
    /// Batch norm's epsilon.
    pub eps: f32,
    /// Batch norm's momentum in PyTorch's sense.
    pub momentum: f32,
    /// Dropout of the pooled output; element index is that of the output `[B,P,C]`.
    pub dropout: Option<Dropout>,
}

impl DnaConv {
    /// Convolution outputs of a window of `length` bases.
    pub fn conv_length(&self, length: usize) -> usize {
        (length + 1).saturating_sub(self.kernel)
    }
    /// Pooled positions of a window of `length` bases.
    pub fn pooled_length(&self, length: usize) -> usize {
        self.conv_length(length) / self.pool
    }
}

/// What follows the convolution of [`DnaConv`] before ReLU.
pub enum DnaAffine<'a, B: Backend> {
    /// Batch norm over batch and positions: `gamma`, `beta` `[C]`, slots `running_mean`, `running_var` `[C]`.
    BatchNorm { gamma: &'a Tensor<B>, beta: &'a Tensor<B>, running_mean: &'a Tensor<B>, running_var: &'a Tensor<B> },
    /// A bias `[C]` and nothing else.
    Bias(&'a Tensor<B>),
}

/// Gradient slots of [`DnaConv`]; `dgamma` is unused with [`DnaAffine::Bias`], whose gradient goes to `dbeta`.
pub struct DnaConvGrads<'a, B: Backend> {
    pub dweight: Option<&'a Tensor<B>>,
    pub dgamma: Option<&'a Tensor<B>>,
    pub dbeta: Option<&'a Tensor<B>>,
}

/// Strided, zero-padded cross-correlation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv1d {
    pub stride: usize,
    pub padding: usize,
}

impl Conv1d {
    /// Output positions for `length` inputs and `kernel` taps; 0 when the kernel does not fit.
    pub fn output_length(&self, length: usize, kernel: usize) -> usize {
        (length + 2 * self.padding).checked_sub(kernel).map_or(0, |room| room / self.stride + 1)
    }
}

/// Batch norm over all but the last dimension.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm {
    pub train: bool,
    pub eps: f32,
    /// PyTorch's sense: `running = (1 - momentum) * running + momentum * batch`, variance unbiased.
    pub momentum: f32,
}

/// Squashing function of the i, f and o gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Gate {
    #[default]
    Sigmoid,
    /// Keras 1: `clip(0.2 x + 0.5, 0, 1)`.
    HardSigmoid,
}

/// Weights of one direction of an LSTM layer; gates in the order i, f, g, o.
#[derive(Clone)]
pub struct LstmWeights<B: Backend> {
    /// `[4H, I]`
    pub weight_ih: Tensor<B>,
    /// `[4H, H]`
    pub weight_hh: Tensor<B>,
    /// `[4H]`
    pub bias_ih: Tensor<B>,
    /// `[4H]`; `None` = one bias per gate, as Keras.
    pub bias_hh: Option<Tensor<B>>,
}

/// Multi-head attention over projected queries, keys and values.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    pub heads: usize,
    /// Size `D` of a head, at most 64.
    pub head_size: usize,
    /// Apply ReLU to each head's output.
    pub relu: bool,
    /// Dropout of the attention weights. Element `((b*heads + h)*T + query) * pitch + key` with
    /// `pitch = T` rounded up to a multiple of 64 ([`Attention::pitch`]).
    pub dropout: Option<Dropout>,
}

impl Attention {
    /// Row pitch of the dropout mask for `t` positions.
    pub fn pitch(t: usize) -> usize {
        t.next_multiple_of(64)
    }
    /// Error unless these are the operands of [`Backend::attention_of_copies`].
    pub(crate) fn check_copies<B: Backend>(&self, kept: &Tensor<B>, changed: &Tensor<B>, from: usize) -> Result<()> {
        const OP: &str = "attention_of_copies";
        let ([time, width], [_, rows, new]) = (kept.dims(OP)?, changed.dims(OP)?);
        if width != 3 * self.heads * self.head_size || new != width || rows == 0 || from + rows > time {
            let message = format!("rows {from}.. {:?} of {:?}", changed.shape(), kept.shape());
            return Err(Error::shape(OP, message));
        }
        if self.dropout.is_some() || self.head_size > 64 {
            let message = format!("heads of {} with dropout {:?}; at most 64, and none", self.head_size, self.dropout);
            return Err(Error::Unsupported { op: OP, message });
        }
        Ok(())
    }
}

/// How the readout vector `[B,C]` is normalised; the standard deviation is unbiased.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadoutNorm {
    /// Per sample: `(x - mean) / (std + 1e-5)`.
    Sample,
    /// One mean and one standard deviation of the whole `[B,C]` tensor, no epsilon (the released program).
    Batch,
}

/// Loss on two logits per sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClassLoss {
    /// Softmax cross entropy, mean weighted by the samples' weights.
    CrossEntropy,
    /// The released program: arguments exchanged, `-Σ_k softmax(logits)_k log_softmax(onehot(y))_k`.
    ExchangedCrossEntropy,
    /// One logit a sample, that of class 1 where class 0 has the logit 0: probabilities `[B,2]`.
    BinaryCrossEntropy,
}

impl ClassLoss {
    /// Number of classes behind `logits` `[B,K]`; error unless this loss takes that many.
    pub(crate) fn classes<B: Backend>(self, op: &'static str, logits: &Tensor<B>) -> Result<usize> {
        let [batch, logits] = logits.dims(op)?;
        match self {
            _ if batch == 0 || logits == 0 => Err(Error::shape(op, format!("no logits in {:?}", [batch, logits]))),
            ClassLoss::BinaryCrossEntropy if logits != 1 => {
                Err(Error::shape(op, format!("binary cross entropy wants one logit a sample, not {logits}")))
            }
            ClassLoss::BinaryCrossEntropy => Ok(2),
            _ => Ok(logits),
        }
    }
    /// Number of logits behind `probabilities` `[B,K]`; error unless this loss makes that many.
    pub(crate) fn logits<B: Backend>(self, op: &'static str, probabilities: &Tensor<B>) -> Result<usize> {
        let [batch, classes] = probabilities.dims(op)?;
        match self {
            _ if batch == 0 || classes == 0 => Err(Error::shape(op, format!("no classes in {:?}", [batch, classes]))),
            ClassLoss::BinaryCrossEntropy if classes != 2 => {
                Err(Error::shape(op, format!("binary cross entropy has two classes, not {classes}")))
            }
            ClassLoss::BinaryCrossEntropy => Ok(1),
            _ => Ok(classes),
        }
    }
}

/// One named range of the flat parameter buffer, as the optimiser sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Range {
    pub offset: usize,
    pub len: usize,
    /// Factor λ of an L2 term λ‖θ‖², whose gradient 2λθ is added before clipping.
    pub l2: f32,
    /// Neither updated nor counted in the gradient norm.
    pub frozen: bool,
}

/// Adam's constants; learning rate and bias corrections come from the [`StepState`].
#[derive(Clone, Copy, Debug)]
pub struct Adam {
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    /// Largest allowed gradient norm, if any (PyTorch's `clip_grad_norm_`: factor `min(1, clip / (norm + 1e-6))`).
    pub clip: Option<f32>,
}
