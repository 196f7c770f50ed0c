//! Softmax and the losses on class logits. A few hundred numbers: plain loops, in double precision.

use super::{Cpu, Tensor};
use crate::backend::ClassLoss;
use crate::error::{Error, Result};

pub fn softmax(cpu: &Cpu, logits: &Tensor) -> Result<Tensor> {
    let (_, classes) = logits.matrix();
    if classes == 0 {
        return Err(Error::shape("softmax", format!("no classes in {:?}", logits.shape())));
    }
    let rows = cpu.read(logits).chunks(classes);
    let values: Vec<f32> = rows.flat_map(|row| log_softmax(row).into_iter().map(|x| x.exp() as f32)).collect();
    cpu.filled(&values, logits.shape())
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let top = row.iter().map(|&x| f64::from(x)).fold(f64::NEG_INFINITY, f64::max);
    let log_sum = row.iter().map(|&x| (f64::from(x) - top).exp()).sum::<f64>().ln();
    row.iter().map(|&x| f64::from(x) - top - log_sum).collect()
}

/// Labels as class numbers, and each sample's share of the total weight.
fn targets(
    cpu: &Cpu,
    op: &'static str,
    [batch, classes]: [usize; 2],
    labels: &Tensor,
    weights: &Tensor,
) -> Result<(Vec<usize>, Vec<f64>)> {
    labels.expect_shape(op, "labels", &[batch])?;
    weights.expect_shape(op, "weights", &[batch])?;
    let class = |&label: &f32| {
        (0..classes)
            .find(|&k| k as f32 == label)
            .ok_or_else(|| Error::shape(op, format!("label {label:?} is none of the {classes} classes")))
    };
    let weights = cpu.read(weights);
    let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
    let shares = weights.iter().map(|&w| f64::from(w) / total).collect();
    Ok((cpu.read(labels).iter().map(class).collect::<Result<_>>()?, shares))
}

pub fn class_loss(
    cpu: &Cpu,
    logits: &Tensor,
    labels: &Tensor,
    weights: &Tensor,
    kind: ClassLoss,
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "class_loss";
    let (classes, [batch, width]) = (kind.classes(OP, logits)?, logits.dims(OP)?);
    let (labels, shares) = targets(cpu, OP, [batch, classes], labels, weights)?;
    let (mut loss, mut probabilities) = (0.0, Vec::with_capacity(batch * classes));
    // -log_softmax of a one-hot vector: at its one, and elsewhere one more.
    let base = ((classes - 1) as f64 + 1f64.exp()).ln() - 1.0;
    for ((row, &label), &share) in cpu.read(logits).chunks(width).zip(&labels).zip(&shares) {
        let logs = if kind == ClassLoss::BinaryCrossEntropy { log_softmax(&[0.0, row[0]]) } else { log_softmax(row) };
        loss += share
            * match kind {
                ClassLoss::CrossEntropy | ClassLoss::BinaryCrossEntropy => -logs[label],
                ClassLoss::ExchangedCrossEntropy => base + 1.0 - logs[label].exp(),
            };
        probabilities.extend(logs.into_iter().map(|x| x.exp() as f32));
    }
    Ok((cpu.filled(&[loss as f32], &[1])?, cpu.filled(&probabilities, &[batch, classes])?))
}

pub fn class_loss_backward(
    cpu: &Cpu,
    probabilities: &Tensor,
    labels: &Tensor,
    weights: &Tensor,
    dloss: &Tensor,
    kind: ClassLoss,
) -> Result<Tensor> {
    const OP: &str = "class_loss_backward";
    let (width, [batch, classes]) = (kind.logits(OP, probabilities)?, probabilities.dims(OP)?);
    let (labels, shares) = targets(cpu, OP, [batch, classes], labels, weights)?;
    dloss.expect_shape(OP, "dloss", &[1])?;
    let dloss = f64::from(cpu.read(dloss)[0]);
    let mut dlogits = Vec::with_capacity(batch * width);
    for ((row, &label), &share) in cpu.read(probabilities).chunks(classes).zip(&labels).zip(&shares) {
        // The exchanged loss is a constant less the probability of the label.
        let slope = match kind {
            ClassLoss::ExchangedCrossEntropy => f64::from(row[label]),
            ClassLoss::CrossEntropy => 1.0,
            ClassLoss::BinaryCrossEntropy => {
                // As p - own, but exact where p rounds to 1.
                let slope = if label == 1 { -row[0] } else { row[1] };
                dlogits.push((dloss * share * f64::from(slope)) as f32);
                continue;
            }
        };
        dlogits.extend(row.iter().enumerate().map(|(k, &p)| {
            let own = if k == label { 1.0 } else { 0.0 };
            (dloss * share * slope * (f64::from(p) - own)) as f32
        }));
    }
    cpu.filled(&dlogits, &[batch, width])
}
