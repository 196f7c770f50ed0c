//! Batch norm over all but the last dimension; two passes, because a mean far from zero eats a one-pass variance.

use super::Real;
use super::conv1d::column_sums;
use super::memory::{Tensor, accumulate, read, tensor, update};
use crate::backend::BatchNorm;
use crate::error::{Error, Result};

pub fn forward<T: Real>(
    inp: &Tensor<T>,
    gamma: &Tensor<T>,
    beta: &Tensor<T>,
    running_mean: &Tensor<T>,
    running_var: &Tensor<T>,
    spec: BatchNorm,
) -> Result<(Tensor<T>, Tensor<T>)> {
    const OP: &str = "batch_norm";
    let (rows, channels) = inp.matrix();
    for (what, vector) in
        [("gamma", gamma), ("beta", beta), ("running_mean", running_mean), ("running_var", running_var)]
    {
        vector.expect_shape(OP, what, &[channels])?;
    }
    let x = read(inp);
    let (mean, var) = if spec.train {
        let (mean, var) = statistics(&x, rows, channels)?;
        let momentum = T::of(spec.momentum.into());
        let unbiased: Vec<_> = var.iter().map(|&v| v * T::count(rows) / T::count(rows - 1)).collect();
        for (slot, batch) in [(running_mean, &mean), (running_var, &unbiased)] {
            update(slot, |slot| {
                slot.iter_mut().zip(batch).for_each(|(r, &b)| *r = (T::ONE - momentum) * *r + momentum * b);
            });
        }
        (mean, var)
    } else {
        (read(running_mean), read(running_var))
    };
    let inv_std: Vec<_> = var.iter().map(|&v| T::ONE / (v + T::of(spec.eps.into())).sqrt()).collect();
    let (gamma, beta) = (read(gamma), read(beta));
    let out = x.iter().enumerate().map(|(n, &x)| {
        let c = n % channels;
        (x - mean[c]) * inv_std[c] * gamma[c] + beta[c]
    });
    Ok((tensor(out.collect(), inp.shape()), tensor([mean, inv_std].concat(), &[2, channels])))
}

/// Mean and biased variance of each column.
fn statistics<T: Real>(x: &[T], rows: usize, channels: usize) -> Result<(Vec<T>, Vec<T>)> {
    if rows < 2 {
        return Err(Error::shape(
            "batch_norm",
            format!("training needs at least 2 values per channel, got {rows}: use a larger batch or evaluation mode"),
        ));
    }
    let average = |values: &[T]| -> Vec<T> {
        column_sums(values, channels).into_iter().map(|sum| sum / T::count(rows)).collect()
    };
    let mean = average(x);
    let squares: Vec<_> = x.iter().enumerate().map(|(n, &x)| x - mean[n % channels]).map(|d| d * d).collect();
    let var = average(&squares);
    Ok((mean, var))
}

pub fn backward<T: Real>(
    inp: &Tensor<T>,
    gamma: &Tensor<T>,
    saved: &Tensor<T>,
    dout: &Tensor<T>,
    spec: BatchNorm,
    dgamma: Option<&Tensor<T>>,
    dbeta: Option<&Tensor<T>>,
) -> Result<Tensor<T>> {
    const OP: &str = "batch_norm_backward";
    let (rows, channels) = inp.matrix();
    gamma.expect_shape(OP, "gamma", &[channels])?;
    saved.expect_shape(OP, "saved", &[2, channels])?;
    dout.expect_shape(OP, "dout", inp.shape())?;
    let (saved, gamma, dy) = (read(saved), read(gamma), read(dout));
    let (mean, inv_std) = saved.split_at(channels);
    let normal: Vec<_> =
        read(inp).into_iter().enumerate().map(|(n, x)| (x - mean[n % channels]) * inv_std[n % channels]).collect();
    let products: Vec<_> = dy.iter().zip(&normal).map(|(&dy, &y)| dy * y).collect();
    let (sum_dy, sum_dy_normal) = (column_sums(&dy, channels), column_sums(&products, channels));
    for (what, slot, sums) in [("dgamma", dgamma, &sum_dy_normal), ("dbeta", dbeta, &sum_dy)] {
        if let Some(slot) = slot {
            slot.expect_shape(OP, what, &[channels])?;
            accumulate(slot, sums);
        }
    }
    let dinp = dy.iter().zip(&normal).enumerate().map(|(n, (&dy, &y))| {
        let (c, count) = (n % channels, T::count(rows));
        // In training the batch's mean and deviation move with every input.
        let centred = if spec.train { dy - sum_dy[c] / count - y * sum_dy_normal[c] / count } else { dy };
        gamma[c] * inv_std[c] * centred
    });
    Ok(tensor(dinp.collect(), inp.shape()))
}
