//! Batch norm over rows (kernels/batch_norm.cu).

use super::params::BatchNormParams;
use super::{Cuda, T, at, chunks, int, optional};
use crate::backend::BatchNorm;
use crate::error::{Error, Result};

fn params(op: &'static str, rows: usize, columns: usize, spec: BatchNorm) -> Result<BatchNormParams> {
    let (chunk, pieces) = chunks(rows, 128usize.div_ceil(columns.div_ceil(32).max(1)), 64, 8);
    int(op, rows * columns)?;
    Ok(BatchNormParams {
        rows: int(op, rows)?,
        columns: int(op, columns)?,
        chunk: int(op, chunk)?,
        chunks: int(op, pieces)?,
        eps: spec.eps,
        momentum: spec.momentum,
        train: spec.train.into(),
    })
}

pub fn forward(
    cuda: &Cuda,
    inp: &T,
    gamma: &T,
    beta: &T,
    running_mean: &T,
    running_var: &T,
    spec: BatchNorm,
) -> Result<(T, T)> {
    const OP: &str = "batch_norm";
    let (rows, columns) = inp.matrix();
    for (what, vector) in
        [("gamma", gamma), ("beta", beta), ("running_mean", running_mean), ("running_var", running_var)]
    {
        vector.expect_shape(OP, what, &[columns])?;
    }
    if spec.train && rows < 2 {
        return Err(Error::shape(
            OP,
            format!("training needs at least 2 values per channel, got {rows}: use a larger batch or evaluation mode"),
        ));
    }
    let p = params(OP, rows, columns, spec)?;
    let (out, saved) = (cuda.empty(inp.shape())?, cuda.empty(&[2, columns])?);
    let partial = cuda.scratch::<f32>(p.chunks as usize * 2 * columns)?;
    if spec.train {
        let grid = [columns.div_ceil(32), p.chunks as usize, 1];
        launch!(cuda, "batch_norm_partial", grid, 256, 0; p, at(inp), partial.address())?;
    }
    launch!(cuda, "batch_norm_finish", [columns.div_ceil(256), 1, 1], 256, 0;
        p, partial.address(), at(running_mean), at(running_var), at(&saved))?;
    launch!(cuda, "batch_norm_forward", Cuda::spread(rows * columns), 256, 0;
        p, at(inp), at(gamma), at(beta), at(&saved), at(&out))?;
    Ok((out, saved))
}

pub fn backward(
    cuda: &Cuda,
    inp: &T,
    gamma: &T,
    saved: &T,
    dout: &T,
    spec: BatchNorm,
    dgamma: Option<&T>,
    dbeta: Option<&T>,
) -> Result<T> {
    const OP: &str = "batch_norm_backward";
    let (rows, columns) = inp.matrix();
    gamma.expect_shape(OP, "gamma", &[columns])?;
    saved.expect_shape(OP, "saved", &[2, columns])?;
    dout.expect_shape(OP, "dout", inp.shape())?;
    for (what, slot) in [("dgamma", dgamma), ("dbeta", dbeta)] {
        slot.map_or(Ok(()), |slot| slot.expect_shape(OP, what, &[columns]))?;
    }
    let p = params(OP, rows, columns, spec)?;
    let dinp = cuda.empty(inp.shape())?;
    let (partial, sums) = (cuda.scratch::<f32>(p.chunks as usize * 2 * columns)?, cuda.scratch::<f32>(2 * columns)?);
    let grid = [columns.div_ceil(32), p.chunks as usize, 1];
    launch!(cuda, "batch_norm_backward_partial", grid, 256, 0; p, at(inp), at(saved), at(dout), partial.address())?;
    launch!(cuda, "batch_norm_backward_finish", [columns.div_ceil(256), 1, 1], 256, 0;
        p, partial.address(), sums.address(), optional(dgamma), optional(dbeta))?;
    launch!(cuda, "batch_norm_backward_input", Cuda::spread(rows * columns), 256, 0;
        p, at(inp), at(gamma), at(saved), sums.address(), at(dout), at(&dinp))?;
    Ok(dinp)
}
