//! Softmax and the losses on class logits (kernels/loss.cu).

use super::params::LossParams;
use super::{Cuda, T, at, int};
use crate::backend::ClassLoss;
use crate::error::{Error, Result};

fn params(op: &'static str, rows: usize, logits: usize, classes: usize, kind: ClassLoss) -> Result<LossParams> {
    int(op, rows * classes)?;
    let kind = match kind {
        ClassLoss::CrossEntropy => 0,
        ClassLoss::ExchangedCrossEntropy => 1,
        ClassLoss::BinaryCrossEntropy => 2,
    };
    Ok(LossParams { batch: int(op, rows)?, logits: int(op, logits)?, classes: int(op, classes)?, kind })
}

fn expect_samples(op: &'static str, batch: usize, labels: &T, weights: &T) -> Result<()> {
    labels.expect_shape(op, "labels", &[batch])?;
    weights.expect_shape(op, "weights", &[batch])
}

pub fn softmax(cuda: &Cuda, logits: &T) -> Result<T> {
    const OP: &str = "softmax";
    let (rows, classes) = logits.matrix();
    if classes == 0 {
        return Err(Error::shape(OP, format!("no classes in {:?}", logits.shape())));
    }
    let p = params(OP, rows, classes, classes, ClassLoss::CrossEntropy)?;
    let out = cuda.empty(logits.shape())?;
    launch!(cuda, "softmax_rows", [rows.div_ceil(256), 1, 1], 256, 0; p, at(logits), at(&out))?;
    Ok(out)
}

pub fn forward(cuda: &Cuda, logits: &T, labels: &T, weights: &T, kind: ClassLoss) -> Result<(T, T)> {
    const OP: &str = "class_loss";
    let (classes, [batch, width]) = (kind.classes(OP, logits)?, logits.dims(OP)?);
    expect_samples(OP, batch, labels, weights)?;
    let p = params(OP, batch, width, classes, kind)?;
    let (loss, probabilities) = (cuda.empty(&[1])?, cuda.empty(&[batch, classes])?);
    launch!(cuda, "class_loss_forward", [1, 1, 1], 256, 0;
        p, at(logits), at(labels), at(weights), at(&loss), at(&probabilities))?;
    Ok((loss, probabilities))
}

pub fn backward(cuda: &Cuda, probabilities: &T, labels: &T, weights: &T, dloss: &T, kind: ClassLoss) -> Result<T> {
    const OP: &str = "class_loss_backward";
    let (width, [batch, classes]) = (kind.logits(OP, probabilities)?, probabilities.dims(OP)?);
    expect_samples(OP, batch, labels, weights)?;
    dloss.expect_shape(OP, "dloss", &[1])?;
    let p = params(OP, batch, width, classes, kind)?;
    let dlogits = cuda.empty(&[batch, width])?;
    launch!(cuda, "class_loss_backward", [1, 1, 1], 256, 0;
        p, at(probabilities), at(labels), at(weights), at(dloss), at(&dlogits))?;
    Ok(dlogits)
}
