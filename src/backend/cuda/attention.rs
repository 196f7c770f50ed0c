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
        reserved: 0,
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

/// Bytes of `tiles` bf16 tiles `[64, D]`.
fn shared_bf16(padded: usize, tiles: usize) -> usize {
    tiles * TILE * padded * 2
}

/// A bf16 copy of `inp` `[B,T,parts*heads*D]` as `[parts,B,heads,T,padded]`; zero where `mask`, if any, is not positive.
fn pack(cuda: &Cuda, p: AttentionParams, parts: usize, inp: u64, mask: u64) -> Result<Memory> {
    let size = padded(p.head_size as usize);
    let count = parts * p.batch as usize * p.heads as usize * p.time as usize * size;
    let packed = cuda.scratch::<half::bf16>(count)?;
    launch!(cuda, "attention_pack", Cuda::spread(count / 2), 256, 0;
        p, parts as i32, size as i32, inp, mask, packed.address())?;
    Ok(packed)
}

pub fn forward(cuda: &Cuda, qkv: &T, spec: &Attention, step: &Step) -> Result<(T, T)> {
    let p = params("attention", qkv, spec)?;
    let [batch, time, heads] = [p.batch, p.time, p.heads].map(|n| n as usize);
    let out = cuda.empty(&[batch, time, heads * spec.head_size])?;
    let lse = cuda.empty(&[batch, heads, time])?;
    let size = padded(spec.head_size);
    if cuda.precision() == Precision::Bf16 {
        let packed = pack(cuda, p, 3, at(qkv), 0)?;
        let kernel = format!("attention_bf16_forward_{size}");
        launch!(cuda, &kernel, grid(&p), 128, shared_bf16(size, 5); p, step.address(), packed.address(), at(&out), at(&lse))?;
    } else {
        let kernel = format!("attention_forward_{size}");
        launch!(cuda, &kernel, grid(&p), 256, shared(size, 2, 1); p, step.address(), at(qkv), at(&out), at(&lse))?;
    }
    Ok((out, lse))
}

pub fn backward(cuda: &Cuda, qkv: &T, out: &T, lse: &T, dout: &T, spec: &Attention, step: &Step) -> Result<T> {
    const OP: &str = "attention_backward";
    let p = params(OP, qkv, spec)?;
    let [batch, time, heads] = [p.batch, p.time, p.heads].map(|n| n as usize);
    out.expect_shape(OP, "out", &[batch, time, heads * spec.head_size])?;
    dout.expect_shape(OP, "dout", &[batch, time, heads * spec.head_size])?;
    lse.expect_shape(OP, "lse", &[batch, heads, time])?;
    let dqkv = cuda.empty(qkv.shape())?;
    let rows = batch * heads * time;
    let delta = cuda.scratch::<f32>(rows)?;
    launch!(cuda, "attention_delta", [rows.div_ceil(8), 1, 1], 256, 0; p, at(out), at(dout), delta.address())?;
    let size = padded(spec.head_size);
    if cuda.precision() == Precision::Bf16 {
        let packed = pack(cuda, p, 3, at(qkv), 0)?;
        let packed_dout = pack(cuda, p, 1, at(dout), if spec.relu { at(out) } else { 0 })?;
        for (part, vectors) in [("query", 0), ("key_value", 4 * TILE * 4)] {
            let kernel = format!("attention_bf16_backward_{part}_{size}");
            launch!(cuda, &kernel, grid(&p), 128, shared_bf16(size, 6) + vectors;
                p, step.address(), packed.address(), packed_dout.address(), at(lse), delta.address(), at(&dqkv))?;
        }
        return Ok(dqkv);
    }
    for part in ["query", "key_value"] {
        let kernel = format!("attention_backward_{part}_{size}");
        launch!(cuda, &kernel, grid(&p), 256, shared(size, 2, 2);
            p, step.address(), at(qkv), at(out), at(lse), delta.address(), at(dout), at(&dqkv))?;
    }
    Ok(dqkv)
}
