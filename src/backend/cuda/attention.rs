//! Fused multi-head attention (kernels/attention.cu, attention_bf16.cu).

use super::params::{AttentionParams, dropout_params};
use super::{Cuda, Memory, Precision, Step, T, at, int};
use crate::backend::Attention;
use crate::error::{Error, Result};

const TILE: usize = 64;

fn params(op: &'static str, qkv: &T, spec: &Attention) -> Result<AttentionParams> {
    let [batch, time, width] = qkv.dims(op)?;
    let Attention { heads, head_size, .. } = *spec;
    if heads == 0 || head_size == 0 || width != 3 * heads * head_size {
        return Err(Error::shape(op, format!("qkv {:?} is not 3 x {heads} heads of {head_size}", qkv.shape())));
    }
    if head_size > 64 {
        return Err(Error::Unsupported { op, message: format!("heads of {head_size}; at most 64") });
    }
    int(op, batch * heads * time)?;
    Ok(AttentionParams {
        dropout: dropout_params(spec.dropout.as_ref()),
        batch: int(op, batch)?,
        time: int(op, time)?,
        heads: int(op, heads)?,
        head_size: int(op, head_size)?,
        relu: spec.relu.into(),
        pitch: int(op, Attention::pitch(time))?,
        scale: (1.0 / (head_size as f64).sqrt()) as f32,
        head_pitch: int(op, head_size)?,
    })
}

/// Head size as the kernels pad it.
fn padded(head_size: usize) -> usize {
    if head_size <= 32 { 32 } else { 64 }
}

/// Blocks of tiles, heads and samples.
fn grid(p: &AttentionParams) -> [usize; 3] {
    [(p.time as usize).div_ceil(TILE), p.heads as usize, p.batch as usize]
}

/// Bytes of `rows` tiles `[64, D+1]`, `columns` tiles `[D, 68]` and one tile of scores.
fn shared(padded: usize, rows: usize, columns: usize) -> usize {
    let piece = |floats: usize| (floats * 4).next_multiple_of(16);
    rows * piece(TILE * (padded + 1)) + columns * piece(padded * (TILE + 4)) + piece(TILE * (TILE + 1))
}

/// Rows of a block of the tensor-core kernels.
const ROWS_BF16: usize = 128;

fn grid_bf16(p: &AttentionParams) -> [usize; 3] {
    [(p.time as usize).div_ceil(ROWS_BF16), p.heads as usize, p.batch as usize]
}

/// Bytes of `own` bf16 tiles `[128, D]` of a block, and of two stages of two tiles `[64, D]` that stream past them.
fn shared_bf16(padded: usize, own: usize) -> usize {
    (own * ROWS_BF16 + 2 * 2 * TILE) * padded * 2
}

/// qkv as the tensor-core kernels can read it, and whose heads are `head_pitch` apart: itself, or a copy with padded heads.
fn readable(cuda: &Cuda, p: &mut AttentionParams, qkv: &T) -> Result<(u64, Option<Memory>)> {
    if p.head_size % 4 == 0 && at(qkv).is_multiple_of(16) {
        return Ok((at(qkv), None));
    }
    const OP: &str = "attention";
    let size = padded(p.head_size as usize);
    let rows = qkv.len() / p.head_size as usize;
    int(OP, rows * size)?;
    let copy = cuda.scratch::<f32>(rows * size)?;
    launch!(cuda, "attention_pad", Cuda::spread(rows * size), 256, 0;
        int(OP, rows)?, p.head_size, size as i32, at(qkv), copy.address())?;
    p.head_pitch = size as i32;
    Ok((copy.address(), Some(copy)))
}

pub fn forward(cuda: &Cuda, qkv: &T, spec: &Attention, step: &Step) -> Result<(T, T)> {
    let mut p = params("attention", qkv, spec)?;
    let [batch, time, heads] = [p.batch, p.time, p.heads].map(|n| n as usize);
    let out = cuda.empty(&[batch, time, heads * spec.head_size])?;
    let lse = cuda.empty(&[batch, heads, time])?;
    let size = padded(spec.head_size);
    if cuda.precision() == Precision::Bf16 {
        let (inp, _copy) = readable(cuda, &mut p, qkv)?;
        let kernel = format!("attention_bf16_forward_{size}");
        launch!(cuda, &kernel, grid_bf16(&p), 256, shared_bf16(size, 1); p, step.address(), inp, at(&out), at(&lse))?;
    } else {
        let kernel = format!("attention_forward_{size}");
        launch!(cuda, &kernel, grid(&p), 256, shared(size, 2, 1); p, step.address(), at(qkv), at(&out), at(&lse))?;
    }
    Ok((out, lse))
}

pub fn backward(cuda: &Cuda, qkv: &T, out: &T, lse: &T, dout: &T, spec: &Attention, step: &Step) -> Result<T> {
    const OP: &str = "attention_backward";
    let mut p = params(OP, qkv, spec)?;
    let [batch, time, heads] = [p.batch, p.time, p.heads].map(|n| n as usize);
    out.expect_shape(OP, "out", &[batch, time, heads * spec.head_size])?;
    dout.expect_shape(OP, "dout", &[batch, time, heads * spec.head_size])?;
    lse.expect_shape(OP, "lse", &[batch, heads, time])?;
    let dqkv = cuda.empty(qkv.shape())?;
    let rows = batch * heads * time;
    let delta = cuda.scratch::<f32>(rows)?;
    let size = padded(spec.head_size);
    if cuda.precision() == Precision::Bf16 {
        let (inp, _copy) = readable(cuda, &mut p, qkv)?;
        let packed = cuda.scratch::<half::bf16>(rows * size)?;
        launch!(cuda, "attention_prepare", [rows.div_ceil(512 / size), 1, 1], 256, 0;
            p, size as i32, at(out), at(dout), delta.address(), packed.address())?;
        // The dropout bits that the first kernel computes and the second reads.
        let words =
            if spec.dropout.is_some() { batch * heads * time.div_ceil(16) * time.div_ceil(TILE) * 32 } else { 1 };
        let keep = cuda.scratch::<u32>(words)?;
        let (query, key_value) =
            (format!("attention_bf16_backward_query_{size}"), format!("attention_bf16_backward_key_value_{size}"));
        let (grid, shared, vectors) = (grid_bf16(&p), shared_bf16(size, 2), 4 * TILE * 4);
        launch!(cuda, &query, grid, 256, shared;
            p, step.address(), inp, packed.address(), at(lse), delta.address(), at(&dqkv), keep.address())?;
        launch!(cuda, &key_value, grid, 256, shared + vectors;
            p, inp, packed.address(), at(lse), delta.address(), at(&dqkv), keep.address())?;
        return Ok(dqkv);
    }
    launch!(cuda, "attention_delta", [rows.div_ceil(8), 1, 1], 256, 0; p, at(out), at(dout), delta.address())?;
    for part in ["query", "key_value"] {
        let kernel = format!("attention_backward_{part}_{size}");
        launch!(cuda, &kernel, grid(&p), 256, shared(size, 2, 2);
            p, step.address(), at(qkv), at(out), at(lse), delta.address(), at(dout), at(&dqkv))?;
    }
    Ok(dqkv)
}
