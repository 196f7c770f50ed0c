//! The DNA block written out the naive way, as five ordinary operators on a one-hot tensor: it shares nothing with the
//! closed forms of the fast backends, which is what makes it worth comparing them with.

use super::memory::{Step, Tensor, tensor};
use super::pool::Winners;
use super::{Real, Reference, batch_norm, conv1d, elementwise, pool};
use crate::backend::{BatchNorm, Conv1d, DnaAffine, DnaBatch, DnaConv, DnaConvGrads};
use crate::error::{Error, Result};

const PLAIN: Conv1d = Conv1d { stride: 1, padding: 0 };

/// Every intermediate tensor.
pub struct Saved<T: Real> {
    onehot: Tensor<T>,
    /// Before batch norm, and batch norm's statistics; `None` with a bias.
    normalised: Option<(Tensor<T>, Tensor<T>)>,
    active: Tensor<T>,
    winners: Winners,
}

/// `[B,L,4]`; N is all zeros.
pub fn onehot<T: Real>(dna: &DnaBatch) -> Tensor<T> {
    let mut values = vec![T::ZERO; dna.batch() * dna.length() * 4];
    for b in 0..dna.batch() {
        for (i, code) in dna.codes(b).into_iter().enumerate() {
            if code < 4 {
                values[(b * dna.length() + i) * 4 + usize::from(code)] = T::ONE;
            }
        }
    }
    tensor(values, &[dna.batch(), dna.length(), 4])
}

fn norm(spec: &DnaConv) -> BatchNorm {
    BatchNorm { train: spec.train, eps: spec.eps, momentum: spec.momentum }
}

fn check<T: Real>(
    op: &'static str,
    dna: &DnaBatch,
    spec: &DnaConv,
    weight: &Tensor<T>,
    affine: &DnaAffine<'_, Reference<T>>,
) -> Result<()> {
    if !(1..=64).contains(&spec.kernel) || spec.pool == 0 {
        return Err(Error::shape(op, format!("kernel {} must be 1 to 64, pool {} at least 1", spec.kernel, spec.pool)));
    }
    if spec.pooled_length(dna.length()) == 0 {
        return Err(Error::shape(
            op,
            format!("{} bases leave nothing after {} taps and pooling by {}", dna.length(), spec.kernel, spec.pool),
        ));
    }
    weight.expect_shape(op, "weight", &[spec.channels, 4, spec.kernel])?;
    let channels = [spec.channels];
    match affine {
        DnaAffine::Bias(bias) => bias.expect_shape(op, "bias", &channels),
        DnaAffine::BatchNorm { gamma, beta, running_mean, running_var } => {
            gamma.expect_shape(op, "gamma", &channels)?;
            beta.expect_shape(op, "beta", &channels)?;
            running_mean.expect_shape(op, "running_mean", &channels)?;
            running_var.expect_shape(op, "running_var", &channels)?;
            if spec.train && dna.batch() * spec.conv_length(dna.length()) < 2 {
                return Err(Error::shape(op, "training needs at least 2 convolution outputs per channel"));
            }
            Ok(())
        }
    }
}

pub fn forward<T: Real>(
    dna: &DnaBatch,
    spec: &DnaConv,
    weight: &Tensor<T>,
    affine: DnaAffine<'_, Reference<T>>,
    step: &Step,
) -> Result<(Tensor<T>, Saved<T>)> {
    check("dna_conv", dna, spec, weight, &affine)?;
    let onehot = onehot(dna);
    let (before_relu, normalised) = match affine {
        DnaAffine::Bias(bias) => (conv1d::forward(&onehot, weight, Some(bias), None, PLAIN)?, None),
        DnaAffine::BatchNorm { gamma, beta, running_mean, running_var } => {
            let conv = conv1d::forward(&onehot, weight, None, None, PLAIN)?;
            let (out, statistics) = batch_norm::forward(&conv, gamma, beta, running_mean, running_var, norm(spec))?;
            (out, Some((conv, statistics)))
        }
    };
    let active = elementwise::relu(&before_relu)?;
    let (pooled, winners) = pool::forward(&active, spec.pool)?;
    let out = match &spec.dropout {
        Some(dropout) => elementwise::dropout(&pooled, dropout, step)?,
        None => pooled,
    };
    Ok((out, Saved { onehot, normalised, active, winners }))
}

pub fn backward<T: Real>(
    dna: &DnaBatch,
    spec: &DnaConv,
    weight: &Tensor<T>,
    affine: DnaAffine<'_, Reference<T>>,
    saved: &Saved<T>,
    dout: &Tensor<T>,
    grads: DnaConvGrads<'_, Reference<T>>,
    step: &Step,
) -> Result<()> {
    const OP: &str = "dna_conv_backward";
    check(OP, dna, spec, weight, &affine)?;
    let length = dna.length();
    dout.expect_shape(OP, "dout", &[dna.batch(), spec.pooled_length(length), spec.channels])?;
    let dpooled = match &spec.dropout {
        Some(dropout) => elementwise::dropout(dout, dropout, step)?,
        None => dout.clone(),
    };
    let dactive = pool::backward(&dpooled, &saved.winners, spec.pool, spec.conv_length(length))?;
    let dbefore = elementwise::relu_backward(&saved.active, &dactive)?;
    match (affine, &saved.normalised) {
        (DnaAffine::BatchNorm { gamma, .. }, Some((conv, statistics))) => {
            let dconv = batch_norm::backward(conv, gamma, statistics, &dbefore, norm(spec), grads.dgamma, grads.dbeta)?;
            conv1d::backward_weight(&saved.onehot, &dconv, PLAIN, grads.dweight, None)
        }
        (DnaAffine::Bias(_), None) => {
            conv1d::backward_weight(&saved.onehot, &dbefore, PLAIN, grads.dweight, grads.dbeta)
        }
        _ => Err(Error::shape(OP, "the affine map is not the one of the forward pass")),
    }
}
