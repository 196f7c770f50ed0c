//! Normalisation of the readout vector, per sample or over the whole batch; sums in double precision.

use super::{Cpu, Tensor};
use crate::backend::ReadoutNorm;
use crate::error::{Error, Result};

/// Added to the standard deviation of a sample.
const EPS: f64 = 1e-5;

/// Number of groups that share statistics, and their size.
fn groups(op: &'static str, inp: &Tensor, mode: ReadoutNorm) -> Result<(usize, usize)> {
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
fn divisor(std: f64, mode: ReadoutNorm) -> f64 {
    match mode {
        ReadoutNorm::Sample => std + EPS,
        ReadoutNorm::Batch => std,
    }
}

pub fn forward(cpu: &Cpu, inp: &Tensor, mode: ReadoutNorm) -> Result<(Tensor, Tensor)> {
    let (count, size) = groups("readout_norm", inp, mode)?;
    let (mut out, mut saved) = (Vec::with_capacity(inp.len()), Vec::with_capacity(2 * count));
    for group in cpu.read(inp).chunks(size) {
        let mean = group.iter().map(|&x| f64::from(x)).sum::<f64>() / size as f64;
        let squares: f64 = group.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
        let std = (squares / (size - 1) as f64).sqrt();
        out.extend(group.iter().map(|&x| ((f64::from(x) - mean) / divisor(std, mode)) as f32));
        saved.extend([mean as f32, std as f32]);
    }
    Ok((cpu.filled(&out, inp.shape())?, cpu.filled(&saved, &[count, 2])?))
}

pub fn backward(cpu: &Cpu, out: &Tensor, saved: &Tensor, dout: &Tensor, mode: ReadoutNorm) -> Result<Tensor> {
    const OP: &str = "readout_norm_backward";
    let (count, size) = groups(OP, out, mode)?;
    saved.expect_shape(OP, "saved", &[count, 2])?;
    dout.expect_shape(OP, "dout", out.shape())?;
    let mut dinp = Vec::with_capacity(out.len());
    let groups = cpu.read(out).chunks(size).zip(cpu.read(dout).chunks(size));
    for ((y, dy), saved) in groups.zip(cpu.read(saved).chunks(2)) {
        let std = f64::from(saved[1]);
        let pairs = || y.iter().zip(dy).map(|(&y, &dy)| (f64::from(y), f64::from(dy)));
        let mean = pairs().map(|(_, dy)| dy).sum::<f64>() / size as f64;
        let along: f64 = pairs().map(|(y, dy)| y * dy).sum();
        // A constant sample has no direction in which its deviation would shrink: only its mean moves.
        let pull = if std > 0.0 { along / ((size - 1) as f64 * std) } else { 0.0 };
        dinp.extend(pairs().map(|(y, dy)| ((dy - mean) / divisor(std, mode) - y * pull) as f32));
    }
    cpu.filled(&dinp, out.shape())
}
