//! Element-wise operators and changes of layout (kernels/elementwise.cu, position_sum.cu).

use super::params::{CopyRows, PositionSum, Swap, dropout_params};
use super::{Cuda, Step, T, at, int};
use crate::backend::tensor::same_shapes;
use crate::error::{Error, Result};
use crate::rng::Dropout;

pub fn relu(cuda: &Cuda, inp: &T) -> Result<T> {
    let (out, count) = (cuda.empty(inp.shape())?, int("relu", inp.len())?);
    launch!(cuda, "relu_forward", Cuda::spread(inp.len()), 256, 0; count, at(inp), at(&out))?;
    Ok(out)
}

pub fn relu_backward(cuda: &Cuda, out: &T, dout: &T) -> Result<T> {
    const OP: &str = "relu_backward";
    dout.expect_shape(OP, "dout", out.shape())?;
    let (dinp, count) = (cuda.empty(out.shape())?, int(OP, out.len())?);
    launch!(cuda, "relu_backward", Cuda::spread(out.len()), 256, 0; count, at(out), at(dout), at(&dinp))?;
    Ok(dinp)
}

pub fn leaky_relu(cuda: &Cuda, inp: &T, slope: f32) -> Result<T> {
    let (out, count) = (cuda.empty(inp.shape())?, int("leaky_relu", inp.len())?);
    launch!(cuda, "leaky_relu_forward", Cuda::spread(inp.len()), 256, 0; count, slope, at(inp), at(&out))?;
    Ok(out)
}

pub fn leaky_relu_backward(cuda: &Cuda, out: &T, dout: &T, slope: f32) -> Result<T> {
    const OP: &str = "leaky_relu_backward";
    dout.expect_shape(OP, "dout", out.shape())?;
    let (dinp, count) = (cuda.empty(out.shape())?, int(OP, out.len())?);
    let grid = Cuda::spread(out.len());
    launch!(cuda, "leaky_relu_backward", grid, 256, 0; count, slope, at(out), at(dout), at(&dinp))?;
    Ok(dinp)
}

pub fn dropout(cuda: &Cuda, inp: &T, dropout: &Dropout, step: &Step) -> Result<T> {
    let (out, count) = (cuda.empty(inp.shape())?, int("dropout", inp.len())?);
    let p = dropout_params(Some(dropout));
    let grid = Cuda::spread(inp.len().div_ceil(8));
    launch!(cuda, "dropout_apply", grid, 256, 0; count, p, step.address(), at(inp), at(&out))?;
    Ok(out)
}

/// Slot `dst = 0`.
pub fn fill_zero(cuda: &Cuda, dst: &T) -> Result<()> {
    let count = int("fill_zero", dst.len())?;
    launch!(cuda, "fill_zero", Cuda::spread(dst.len()), 256, 0; count, at(dst))
}

/// Slot `dst = src` (`copy_elements`) or `dst += src` (`add_assign`).
pub fn combine(cuda: &Cuda, op: &'static str, kernel: &str, dst: &T, src: &T) -> Result<()> {
    if dst.len() != src.len() {
        return Err(Error::shape(op, format!("{:?} and {:?} differ in length", dst.shape(), src.shape())));
    }
    let count = int(op, dst.len())?;
    launch!(cuda, kernel, Cuda::spread(dst.len()), 256, 0; count, at(src), at(dst))
}

pub fn weighted_sum(cuda: &Cuda, terms: &[&T], factors: &[f32]) -> Result<T> {
    const OP: &str = "weighted_sum";
    let out = cuda.empty(same_shapes(OP, terms, factors)?)?;
    let count = int(OP, out.len())?;
    for (i, (term, &factor)) in terms.iter().zip(factors).enumerate() {
        let (grid, first) = (Cuda::spread(out.len()), i32::from(i == 0));
        launch!(cuda, "add_scaled", grid, 256, 0; count, factor, first, at(term), at(&out))?;
    }
    Ok(out)
}

fn copy_rows(
    cuda: &Cuda,
    op: &'static str,
    rows: usize,
    width: usize,
    src: (u64, usize),
    dst: (u64, usize),
) -> Result<()> {
    int(op, rows * width)?;
    let p = CopyRows {
        rows: int(op, rows)?,
        width: int(op, width)?,
        src_pitch: int(op, src.1)?,
        dst_pitch: int(op, dst.1)?,
    };
    launch!(cuda, "copy_rows", Cuda::spread(rows * width), 256, 0; p, src.0, dst.0)
}

pub fn concat_length(cuda: &Cuda, parts: &[&T]) -> Result<T> {
    const OP: &str = "concat_length";
    let first = parts.first().ok_or_else(|| Error::shape(OP, "nothing to join"))?;
    let [batch, _, channels] = first.dims(OP)?;
    let mut whole = 0;
    for (i, part) in parts.iter().enumerate() {
        let [_, length, _] = part.dims(OP)?;
        part.expect_shape(OP, &format!("part {i}"), &[batch, length, channels])?;
        whole += length;
    }
    let out = cuda.empty(&[batch, whole, channels])?;
    let mut start = 0;
    for part in parts {
        let width = part.shape()[1] * channels;
        let to = at(&out) + (start * 4) as u64;
        copy_rows(cuda, OP, batch, width, (at(part), width), (to, whole * channels))?;
        start += width;
    }
    Ok(out)
}

pub fn slice_length(cuda: &Cuda, inp: &T, start: usize, length: usize) -> Result<T> {
    const OP: &str = "slice_length";
    let [batch, whole, channels] = inp.dims(OP)?;
    if start + length > whole {
        return Err(Error::shape(OP, format!("positions {start}..{} of {whole}", start + length)));
    }
    let out = cuda.empty(&[batch, length, channels])?;
    let from = at(inp) + (start * channels * 4) as u64;
    copy_rows(cuda, OP, batch, length * channels, (from, whole * channels), (at(&out), length * channels))?;
    Ok(out)
}

pub fn swap_leading(cuda: &Cuda, inp: &T) -> Result<T> {
    const OP: &str = "swap_leading";
    let [a, b, c] = inp.dims(OP)?;
    let out = cuda.empty(&[b, a, c])?;
    int(OP, inp.len())?;
    let p = Swap { a: int(OP, a)?, b: int(OP, b)?, c: int(OP, c)? };
    launch!(cuda, "swap_leading", Cuda::spread(inp.len()), 256, 0; p, at(inp), at(&out))?;
    Ok(out)
}

pub fn swap_trailing(cuda: &Cuda, inp: &T) -> Result<T> {
    const OP: &str = "swap_trailing";
    let [a, b, c] = inp.dims(OP)?;
    let out = cuda.empty(&[a, c, b])?;
    int(OP, inp.len())?;
    let grid = [c.div_ceil(32), b.div_ceil(32), a];
    launch!(cuda, "transpose", grid, 256, 0; int(OP, b)?, int(OP, c)?, at(inp), at(&out))?;
    Ok(out)
}

fn position_sum_params(op: &'static str, batch: usize, length: usize, channels: usize) -> Result<PositionSum> {
    int(op, batch * length * channels)?;
    Ok(PositionSum { batch: int(op, batch)?, length: int(op, length)?, channels: int(op, channels)? })
}

pub fn position_sum(cuda: &Cuda, inp: &T) -> Result<T> {
    const OP: &str = "position_sum";
    let [batch, length, channels] = inp.dims(OP)?;
    let p = position_sum_params(OP, batch, length, channels)?;
    let out = cuda.empty(&[batch, channels])?;
    launch!(cuda, "position_sum_forward", [batch, channels.div_ceil(32), 1], 256, 0; p, at(inp), at(&out))?;
    Ok(out)
}

pub fn position_sum_backward(cuda: &Cuda, dout: &T, length: usize) -> Result<T> {
    const OP: &str = "position_sum_backward";
    let [batch, channels] = dout.dims(OP)?;
    let p = position_sum_params(OP, batch, length, channels)?;
    let dinp = cuda.empty(&[batch, length, channels])?;
    let grid = [dinp.len().div_ceil(256), 1, 1];
    launch!(cuda, "position_sum_backward_input", grid, 256, 0; p, at(dout), at(&dinp))?;
    Ok(dinp)
}
