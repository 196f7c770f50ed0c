//! Readout normalisation (kernels/readout.cu).

use super::params::ReadoutParams;
use super::{Cuda, T, at, int};
use crate::backend::ReadoutNorm;
use crate::error::{Error, Result};

/// Launch parameters, grid, block, and the number of groups that share statistics.
fn plan(op: &'static str, inp: &T, mode: ReadoutNorm) -> Result<(ReadoutParams, [usize; 3], usize, usize)> {
    let [batch, channels] = inp.dims(op)?;
    let (groups, size) = match mode {
        ReadoutNorm::Sample => (batch, channels),
        ReadoutNorm::Batch => (1, batch * channels),
    };
    if size < 2 {
        return Err(Error::shape(op, format!("an unbiased deviation needs 2 values or more, got {size}")));
    }
    int(op, batch * channels)?;
    let p = ReadoutParams { batch: int(op, batch)?, channels: int(op, channels)? };
    let (blocks, threads) = match mode {
        ReadoutNorm::Sample => (batch.div_ceil(4), 128),
        ReadoutNorm::Batch => (1, 256),
    };
    Ok((p, [blocks, 1, 1], threads, groups))
}

pub fn forward(cuda: &Cuda, inp: &T, mode: ReadoutNorm) -> Result<(T, T)> {
    let (p, grid, threads, groups) = plan("readout_norm", inp, mode)?;
    let (out, saved) = (cuda.empty(inp.shape())?, cuda.empty(&[groups, 2])?);
    let kernel = match mode {
        ReadoutNorm::Sample => "readout_sample_forward",
        ReadoutNorm::Batch => "readout_batch_forward",
    };
    launch!(cuda, kernel, grid, threads, 0; p, at(inp), at(&out), at(&saved))?;
    Ok((out, saved))
}

pub fn backward(cuda: &Cuda, out: &T, saved: &T, dout: &T, mode: ReadoutNorm) -> Result<T> {
    const OP: &str = "readout_norm_backward";
    let (p, grid, threads, groups) = plan(OP, out, mode)?;
    saved.expect_shape(OP, "saved", &[groups, 2])?;
    dout.expect_shape(OP, "dout", out.shape())?;
    let dinp = cuda.empty(out.shape())?;
    let kernel = match mode {
        ReadoutNorm::Sample => "readout_sample_backward",
        ReadoutNorm::Batch => "readout_batch_backward",
    };
    launch!(cuda, kernel, grid, threads, 0; p, at(out), at(saved), at(dout), at(&dinp))?;
    Ok(dinp)
}
