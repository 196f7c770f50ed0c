//! Element-wise operators and changes of layout.

use super::parallel::{Ptr, shards};
use super::simd::kernel;
use super::{Cpu, Step, Tensor, linear};
use crate::backend::Backend;
use crate::backend::tensor::same_shapes;
use crate::error::{Error, Result};
use crate::rng::Dropout;

/// Elements of a shard; a multiple of 64, so that dropout's words do not straddle shards.
const CHUNK: usize = 1 << 14;

/// Calls `f(first, len)` for every chunk of `n` elements.
pub fn chunks(n: usize, f: impl Fn(usize, usize) + Sync + Send) {
    shards(n.div_ceil(CHUNK), |i| f(i * CHUNK, CHUNK.min(n - i * CHUNK)));
}

pub fn relu(cpu: &Cpu, inp: &Tensor) -> Result<Tensor> {
    let out = cpu.fresh(inp.shape())?;
    let (x, y, isa) = (cpu.read(inp), cpu.ptr(&out), cpu.isa());
    // SAFETY: chunks of a fresh tensor are disjoint.
    chunks(inp.len(), |i, n| relu_chunk(isa, &x[i..i + n], unsafe { y.slice(i, n) }));
    Ok(out)
}

kernel! {
    fn relu_chunk<S>(s, inp: &[f32], out: &mut [f32]) {
        let _ = s;
        for (y, &x) in out.iter_mut().zip(inp) {
            // NaN stays.
            *y = if x < 0.0 { 0.0 } else { x };
        }
    }
}

pub fn relu_backward(cpu: &Cpu, out: &Tensor, dout: &Tensor) -> Result<Tensor> {
    dout.expect_shape("relu_backward", "dout", out.shape())?;
    let dinp = cpu.fresh(out.shape())?;
    let (y, dy, dx, isa) = (cpu.read(out), cpu.read(dout), cpu.ptr(&dinp), cpu.isa());
    chunks(out.len(), |i, n| {
        // SAFETY: chunks of a fresh tensor are disjoint.
        relu_backward_chunk(isa, &y[i..i + n], &dy[i..i + n], unsafe { dx.slice(i, n) });
    });
    Ok(dinp)
}

kernel! {
    fn relu_backward_chunk<S>(s, out: &[f32], dout: &[f32], dinp: &mut [f32]) {
        let _ = s;
        for ((dx, &y), &dy) in dinp.iter_mut().zip(out).zip(dout) {
            *dx = if y > 0.0 { dy } else { 0.0 };
        }
    }
}

pub fn leaky_relu(cpu: &Cpu, inp: &Tensor, slope: f32) -> Result<Tensor> {
    let out = cpu.fresh(inp.shape())?;
    let (x, y, isa) = (cpu.read(inp), cpu.ptr(&out), cpu.isa());
    // SAFETY: chunks of a fresh tensor are disjoint.
    chunks(inp.len(), |i, n| leaky_relu_chunk(isa, slope, &x[i..i + n], &x[i..i + n], unsafe { y.slice(i, n) }));
    Ok(out)
}

pub fn leaky_relu_backward(cpu: &Cpu, out: &Tensor, dout: &Tensor, slope: f32) -> Result<Tensor> {
    dout.expect_shape("leaky_relu_backward", "dout", out.shape())?;
    let dinp = cpu.fresh(out.shape())?;
    let (y, dy, dx, isa) = (cpu.read(out), cpu.read(dout), cpu.ptr(&dinp), cpu.isa());
    chunks(out.len(), |i, n| {
        // SAFETY: chunks of a fresh tensor are disjoint.
        leaky_relu_chunk(isa, slope, &y[i..i + n], &dy[i..i + n], unsafe { dx.slice(i, n) });
    });
    Ok(dinp)
}

kernel! {
    /// `values` where `signs` is positive, else `slope` times that; NaN stays.
    fn leaky_relu_chunk<S>(s, slope: f32, signs: &[f32], values: &[f32], out: &mut [f32]) {
        let _ = s;
        for ((y, &x), &v) in out.iter_mut().zip(signs).zip(values) {
            *y = if x > 0.0 { v } else { slope * v };
        }
    }
}

pub fn dropout(cpu: &Cpu, inp: &Tensor, dropout: &Dropout, step: &Step) -> Result<Tensor> {
    let out = cpu.fresh(inp.shape())?;
    let (x, y, isa, step) = (cpu.read(inp), cpu.ptr(&out), cpu.isa(), step.read().philox_step);
    chunks(inp.len(), |i, n| {
        // SAFETY: chunks of a fresh tensor are disjoint.
        dropout_chunk(isa, dropout, step, i as u64, &x[i..i + n], unsafe { y.slice(i, n) });
    });
    Ok(out)
}

kernel! {
    /// `first` is a multiple of 64, `inp` at most [`CHUNK`] long.
    fn dropout_chunk<S>(s, dropout: &Dropout, step: u32, first: u64, inp: &[f32], out: &mut [f32]) {
        let mut words = [0u64; CHUNK / 64];
        let words = &mut words[..inp.len().div_ceil(64)];
        s.keep_bits(dropout.seed, dropout.stream, step, first / 8, dropout.threshold(), words);
        let scale = s.splat(dropout.scale());
        for i in (0..inp.len()).step_by(S::N) {
            let (n, bits) = (S::N.min(inp.len() - i), (words[i / 64] >> (i % 64)) as u32);
            // SAFETY: `n` elements are left.
            unsafe {
                let x = s.keep(s.mul(s.load_n(inp.as_ptr().add(i), n), scale), bits);
                s.store_n(out.as_mut_ptr().add(i), x, n);
            }
        }
    }
}

pub fn concat_length(cpu: &Cpu, parts: &[&Tensor]) -> Result<Tensor> {
    const OP: &str = "concat_length";
    let first = parts.first().ok_or_else(|| Error::shape(OP, "nothing to join"))?;
    let [batch, _, channels] = first.dims(OP)?;
    let mut total = 0;
    for (i, part) in parts.iter().enumerate() {
        let [_, length, _] = part.dims(OP)?;
        part.expect_shape(OP, &format!("part {i}"), &[batch, length, channels])?;
        total += length;
    }
    let out = cpu.fresh(&[batch, total, channels])?;
    let y = cpu.ptr(&out);
    shards(batch, |b| {
        let mut at = b * total * channels;
        for part in parts {
            let n = part.len() / batch;
            // SAFETY: each sample is one shard's.
            unsafe { y.slice(at, n) }.copy_from_slice(&cpu.read(part)[b * n..(b + 1) * n]);
            at += n;
        }
    });
    Ok(out)
}

pub fn slice_length(cpu: &Cpu, inp: &Tensor, start: usize, length: usize) -> Result<Tensor> {
    const OP: &str = "slice_length";
    let [batch, whole, channels] = inp.dims(OP)?;
    if start + length > whole {
        return Err(Error::shape(OP, format!("positions {start}..{} of {whole}", start + length)));
    }
    let out = cpu.fresh(&[batch, length, channels])?;
    let (x, y, n) = (cpu.read(inp), cpu.ptr(&out), length * channels);
    shards(batch, |b| {
        // SAFETY: each sample is one shard's.
        unsafe { y.slice(b * n, n) }.copy_from_slice(&x[(b * whole + start) * channels..][..n]);
    });
    Ok(out)
}

pub fn swap_leading(cpu: &Cpu, inp: &Tensor) -> Result<Tensor> {
    let [a, b, channels] = inp.dims("swap_leading")?;
    let out = cpu.fresh(&[b, a, channels])?;
    let (x, y) = (cpu.read(inp), cpu.ptr(&out));
    shards(b, |j| {
        for i in 0..a {
            // SAFETY: each row of the result is one shard's.
            let row = unsafe { y.slice((j * a + i) * channels, channels) };
            row.copy_from_slice(&x[(i * b + j) * channels..][..channels]);
        }
    });
    Ok(out)
}

pub fn swap_trailing(cpu: &Cpu, inp: &Tensor) -> Result<Tensor> {
    /// Side of the squares that are turned one by one: their lines stay in the first-level cache.
    const TILE: usize = 32;
    let [a, b, c] = inp.dims("swap_trailing")?;
    let out = cpu.fresh(&[a, c, b])?;
    let (x, y, isa) = (cpu.read(inp), cpu.ptr(&out), cpu.isa());
    let stripes = c.div_ceil(TILE);
    shards(a * stripes, |shard| {
        let (i, first) = (shard / stripes, shard % stripes * TILE);
        let count = TILE.min(c - first);
        // SAFETY: each shard has its own rows of the result.
        let rows = unsafe { y.slice((i * c + first) * b, count * b) };
        for start in (0..b).step_by(TILE) {
            let end = b.min(start + TILE);
            turn(isa, &x[(i * b + start) * c + first..], c, end - start, &mut rows[start..], b, count);
        }
    });
    Ok(out)
}

kernel! {
    /// `out[k * to + j] = inp[j * from + k]` for `j < height`, `k < width`.
    fn turn<S>(s, inp: &[f32], from: usize, height: usize, out: &mut [f32], to: usize, width: usize) {
        let _ = s;
        for k in 0..width {
            for j in 0..height {
                out[k * to + j] = inp[j * from + k];
            }
        }
    }
}

pub fn position_sum(cpu: &Cpu, inp: &Tensor) -> Result<Tensor> {
    let [batch, length, channels] = inp.dims("position_sum")?;
    let out = cpu.fresh(&[batch, channels])?;
    let (x, y, isa, n) = (cpu.read(inp), cpu.ptr(&out), cpu.isa(), length * channels);
    shards(batch, |b| {
        // SAFETY: each sample is one shard's.
        let sums = unsafe { y.slice(b * channels, channels) };
        sums.fill(0.0);
        linear::add_rows(isa, &x[b * n..(b + 1) * n], sums);
    });
    Ok(out)
}

pub fn position_sum_backward(cpu: &Cpu, dout: &Tensor, length: usize) -> Result<Tensor> {
    let [batch, channels] = dout.dims("position_sum_backward")?;
    let dinp = cpu.fresh(&[batch, length, channels])?;
    let (dy, dx) = (cpu.read(dout), cpu.ptr(&dinp));
    shards(batch, |b| {
        let row = &dy[b * channels..(b + 1) * channels];
        for l in 0..length {
            // SAFETY: each sample is one shard's.
            unsafe { dx.slice((b * length + l) * channels, channels) }.copy_from_slice(row);
        }
    });
    Ok(dinp)
}

pub fn weighted_sum(cpu: &Cpu, terms: &[&Tensor], factors: &[f32]) -> Result<Tensor> {
    let out = cpu.zeros(same_shapes("weighted_sum", terms, factors)?)?;
    let (y, isa) = (cpu.ptr(&out), cpu.isa());
    chunks(out.len(), |i, n| {
        for (term, &factor) in terms.iter().zip(factors) {
            // SAFETY: chunks of a fresh tensor are disjoint.
            add_scaled_chunk(isa, unsafe { y.slice(i, n) }, &cpu.read(term)[i..i + n], factor);
        }
    });
    Ok(out)
}

kernel! {
    fn add_scaled_chunk<S>(s, dst: &mut [f32], src: &[f32], factor: f32) {
        let _ = s;
        for (d, x) in dst.iter_mut().zip(src) {
            *d += factor * *x;
        }
    }
}

/// `dst += src`
pub fn add(cpu: &Cpu, dst: Ptr, src: &[f32]) {
    let isa = cpu.isa();
    chunks(src.len(), |i, n| {
        // SAFETY: the slot is the caller's, and chunks are disjoint.
        add_chunk(isa, unsafe { dst.slice(i, n) }, &src[i..i + n]);
    });
}

kernel! {
    fn add_chunk<S>(s, dst: &mut [f32], src: &[f32]) {
        let _ = s;
        for (d, x) in dst.iter_mut().zip(src) {
            *d += *x;
        }
    }
}
