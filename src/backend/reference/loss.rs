//! Softmax and the losses on class logits.

use super::Real;
use super::memory::{Tensor, read, tensor};
use crate::backend::ClassLoss;
use crate::error::{Error, Result};

pub fn softmax<T: Real>(logits: &Tensor<T>) -> Result<Tensor<T>> {
    let (_, classes) = logits.matrix();
    if classes == 0 {
        return Err(Error::shape("softmax", format!("no classes in {:?}", logits.shape())));
    }
    let rows = read(logits);
    Ok(tensor(rows.chunks(classes).flat_map(|row| log_softmax(row).into_iter().map(T::exp)).collect(), logits.shape()))
}

fn log_softmax<T: Real>(row: &[T]) -> Vec<T> {
    let top = row.iter().copied().fold(row[0], T::or_larger);
    let log_sum = row.iter().map(|&x| (x - top).exp()).sum::<T>().ln();
    row.iter().map(|&x| x - top - log_sum).collect()
}

/// Labels as class numbers, and each sample's share of the total weight.
fn targets<T: Real>(
    op: &'static str,
    [batch, classes]: [usize; 2],
    labels: &Tensor<T>,
    weights: &Tensor<T>,
) -> Result<(Vec<usize>, Vec<T>)> {
    labels.expect_shape(op, "labels", &[batch])?;
    weights.expect_shape(op, "weights", &[batch])?;
    let class = |label: T| {
        (0..classes)
            .find(|&k| T::count(k) == label)
            .ok_or_else(|| Error::shape(op, format!("label {label:?} is none of the {classes} classes")))
    };
    let weights = read(weights);
    let total: T = weights.iter().copied().sum();
    Ok((read(labels).into_iter().map(class).collect::<Result<_>>()?, weights.iter().map(|&w| w / total).collect()))
}

pub fn class_loss<T: Real>(
    logits: &Tensor<T>,
    labels: &Tensor<T>,
    weights: &Tensor<T>,
    kind: ClassLoss,
) -> Result<(Tensor<T>, Tensor<T>)> {
    const OP: &str = "class_loss";
    let (classes, [batch, width]) = (kind.classes(OP, logits)?, logits.dims(OP)?);
    let (labels, shares) = targets(OP, [batch, classes], labels, weights)?;
    let (mut loss, mut probabilities) = (T::ZERO, Vec::new());
    for ((row, &label), &share) in read(logits).chunks(width).zip(&labels).zip(&shares) {
        let logs =
            if kind == ClassLoss::BinaryCrossEntropy { log_softmax(&[T::ZERO, row[0]]) } else { log_softmax(row) };
        let row: Vec<T> = logs.iter().map(|&x| x.exp()).collect();
        loss += share
            * match kind {
                ClassLoss::CrossEntropy | ClassLoss::BinaryCrossEntropy => -logs[label],
                ClassLoss::ExchangedCrossEntropy => {
                    let onehot: Vec<T> = (0..classes).map(|k| if k == label { T::ONE } else { T::ZERO }).collect();
                    -row.iter().zip(log_softmax(&onehot)).map(|(&p, log)| p * log).sum::<T>()
                }
            };
        probabilities.extend(row);
    }
    Ok((tensor(vec![loss], &[1]), tensor(probabilities, &[batch, classes])))
}

pub fn class_loss_backward<T: Real>(
    probabilities: &Tensor<T>,
    labels: &Tensor<T>,
    weights: &Tensor<T>,
    dloss: &Tensor<T>,
    kind: ClassLoss,
) -> Result<Tensor<T>> {
    const OP: &str = "class_loss_backward";
    let (width, [batch, classes]) = (kind.logits(OP, probabilities)?, probabilities.dims(OP)?);
    let (labels, shares) = targets(OP, [batch, classes], labels, weights)?;
    dloss.expect_shape(OP, "dloss", &[1])?;
    let dloss = read(dloss)[0];
    let mut dlogits = Vec::new();
    for ((row, &label), &share) in read(probabilities).chunks(classes).zip(&labels).zip(&shares) {
        // The last class has the only logit of two, so that one is skipped.
        dlogits.extend(row.iter().enumerate().skip(classes - width).map(|(k, &p)| {
            let own = if k == label { T::ONE } else { T::ZERO };
            let slope = match kind {
                ClassLoss::CrossEntropy => p - own,
                // As p - own, but exact where p rounds to 1.
                ClassLoss::BinaryCrossEntropy if k == label => -row[0],
                ClassLoss::BinaryCrossEntropy => p,
                // The loss is a constant less the probability of the label.
                ClassLoss::ExchangedCrossEntropy => row[label] * (p - own),
            };
            dloss * share * slope
        }));
    }
    Ok(tensor(dlogits, &[batch, width]))
}
