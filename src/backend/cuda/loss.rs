//! Softmax and the losses on class logits (kernels/loss.cu).

use super::params::LossParams;
use super::{Cuda, T, at, int};
use crate::backend::ClassLoss;
use crate::error::{Error, Result};

fn params(op: &'static str, rows: usize, classes: usize, kind: ClassLoss) -> Result<LossParams> {
    int(op, rows * classes)?;
    let exchanged = (kind == ClassLoss::ExchangedCrossEntropy).into();
    Ok(LossParams { batch: int(op, rows)?, classes: int(op, classes)?, exchanged })
}

fn check(op: &'static str, logits: &T, labels: &T, weights: &T, kind: ClassLoss) -> Result<LossParams> {
    let [batch, classes] = logits.dims(op)?;
    if batch == 0 || classes == 0 {
        return Err(Error::shape(op, format!("no logits in {:?}", logits.shape())));
    }
    labels.expect_shape(op, "labels", &[batch])?;
    weights.expect_shape(op, "weights", &[batch])?;
    params(op, batch, classes, kind)
}

pub fn softmax(cuda: &Cuda, logits: &T) -> Result<T> {
    const OP: &str = "softmax";
    let (rows, classes) = logits.matrix();
    if classes == 0 {
        return Err(Error::shape(OP, format!("no classes in {:?}", logits.shape())));
    }
    let p = params(OP, rows, classes, ClassLoss::CrossEntropy)?;
    let out = cuda.empty(logits.shape())?;
    launch!(cuda, "softmax_rows", [rows.div_ceil(256), 1, 1], 256, 0; p, at(logits), at(&out))?;
    Ok(out)
}

pub fn forward(cuda: &Cuda, logits: &T, labels: &T, weights: &T, kind: ClassLoss) -> Result<(T, T)> {
    let p = check("class_loss", logits, labels, weights, kind)?;
    let (loss, probabilities) = (cuda.empty(&[1])?, cuda.empty(logits.shape())?);
    launch!(cuda, "class_loss_forward", [1, 1, 1], 256, 0;
        p, at(logits), at(labels), at(weights), at(&loss), at(&probabilities))?;
    Ok((loss, probabilities))
}

pub fn backward(cuda: &Cuda, probabilities: &T, labels: &T, weights: &T, dloss: &T, kind: ClassLoss) -> Result<T> {
    const OP: &str = "class_loss_backward";
    let p = check(OP, probabilities, labels, weights, kind)?;
    dloss.expect_shape(OP, "dloss", &[1])?;
    let dlogits = cuda.empty(probabilities.shape())?;
    launch!(cuda, "class_loss_backward", [1, 1, 1], 256, 0;
        p, at(probabilities), at(labels), at(weights), at(dloss), at(&dlogits))?;
    Ok(dlogits)
}
