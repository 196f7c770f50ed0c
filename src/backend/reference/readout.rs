//! Normalisation of the readout vector, per sample or over the whole batch.

use super::Real;
use super::memory::{Tensor, read, tensor};
use crate::backend::ReadoutNorm;
use crate::error::{Error, Result};

/// Added to the standard deviation of a sample.
const EPS: f64 = 1e-5;

/// Number of groups that share statistics, and their size.
fn groups<T: Real>(op: &'static str, inp: &Tensor<T>, mode: ReadoutNorm) -> Result<(usize, usize)> {
    let [batch, channels] = inp.dims(op)?;
    let (count, size) = match mode {
        ReadoutNorm::Sample => (batch, channels),
        ReadoutNorm::Batch => (1, batch * channels),
    };
    if size < 2 {
        return Err(Error::shape(op, format!("an unbiased deviation needs 2 values or more, got {size}")));
    }
    Ok((count, size))
}

/// What the centred values are divided by.
fn divisor<T: Real>(std: T, mode: ReadoutNorm) -> T {
    match mode {
        ReadoutNorm::Sample => std + T::of(EPS),
        ReadoutNorm::Batch => std,
    }
}

pub fn forward<T: Real>(inp: &Tensor<T>, mode: ReadoutNorm) -> Result<(Tensor<T>, Tensor<T>)> {
    let (count, size) = groups("readout_norm", inp, mode)?;
    let (mut out, mut saved) = (Vec::new(), Vec::new());
    for group in read(inp).chunks(size) {
        let mean = group.iter().copied().sum::<T>() / T::count(size);
        let squares: T = group.iter().map(|&x| (x - mean) * (x - mean)).sum();
        let std = (squares / T::count(size - 1)).sqrt();
        out.extend(group.iter().map(|&x| (x - mean) / divisor(std, mode)));
        saved.extend([mean, std]);
    }
    Ok((tensor(out, inp.shape()), tensor(saved, &[count, 2])))
}

pub fn backward<T: Real>(out: &Tensor<T>, saved: &Tensor<T>, dout: &Tensor<T>, mode: ReadoutNorm) -> Result<Tensor<T>> {
    const OP: &str = "readout_norm_backward";
    let (count, size) = groups(OP, out, mode)?;
    saved.expect_shape(OP, "saved", &[count, 2])?;
    dout.expect_shape(OP, "dout", out.shape())?;
    let (y, dy, saved) = (read(out), read(dout), read(saved));
    let mut dinp = Vec::new();
    for ((y, dy), saved) in y.chunks(size).zip(dy.chunks(size)).zip(saved.chunks(2)) {
        let std = saved[1];
        let mean = dy.iter().copied().sum::<T>() / T::count(size);
        let along: T = y.iter().zip(dy).map(|(&y, &dy)| y * dy).sum();
        // A constant sample has no direction in which its deviation would shrink: only its mean moves.
        let pull = if std > T::ZERO { along / (T::count(size - 1) * std) } else { T::ZERO };
        dinp.extend(y.iter().zip(dy).map(|(&y, &dy)| (dy - mean) / divisor(std, mode) - y * pull));
    }
    Ok(tensor(dinp, out.shape()))
}
