//! Max pooling over positions; the winners are kept as offsets within their windows.

use super::parallel::shards;
use super::{Cpu, Tensor};
use crate::error::{Error, Result};

/// Offset of the winner within its window, `[B,P,C]`.
pub struct Winners(Vec<u16>);

fn check(op: &'static str, size: usize, length: usize) -> Result<()> {
    if size == 0 || length < size {
        return Err(Error::shape(op, format!("a window of {size} does not fit into {length} positions")));
    }
    if size > usize::from(u16::MAX) {
        return Err(Error::Unsupported { op, message: format!("windows of {size}; at most {}", u16::MAX) });
    }
    Ok(())
}

pub fn forward(cpu: &Cpu, inp: &Tensor, size: usize) -> Result<(Tensor, Winners)> {
    const OP: &str = "max_pool";
    let [batch, length, channels] = inp.dims(OP)?;
    check(OP, size, length)?;
    let pooled = length / size;
    let out = cpu.fresh(&[batch, pooled, channels])?;
    let mut winners = vec![0u16; out.len()];
    let (x, y) = (cpu.read(inp), cpu.ptr(&out));
    let places = Places(winners.as_mut_ptr());
    shards(batch, |b| {
        for p in 0..pooled {
            let row = (b * pooled + p) * channels;
            // SAFETY: each sample is one shard's.
            let (best, place) = unsafe { (y.slice(row, channels), places.slice(row, channels)) };
            let window = &x[(b * length + p * size) * channels..][..size * channels];
            best.copy_from_slice(&window[..channels]);
            place.fill(0);
            for (j, candidates) in window.chunks_exact(channels.max(1)).enumerate().skip(1) {
                for ((best, place), &x) in best.iter_mut().zip(place.iter_mut()).zip(candidates) {
                    if x > *best || x.is_nan() {
                        (*best, *place) = (x, j as u16);
                    }
                }
            }
        }
    });
    Ok((out, Winners(winners)))
}

#[derive(Clone, Copy)]
struct Places(*mut u16);

// SAFETY: a plain address; `slice` is unsafe and names its range.
unsafe impl Send for Places {}
unsafe impl Sync for Places {}

impl Places {
    /// # Safety
    /// In bounds, and nobody else's.
    unsafe fn slice<'a>(self, start: usize, len: usize) -> &'a mut [u16] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

pub fn backward(cpu: &Cpu, dout: &Tensor, saved: &Winners, size: usize, length: usize) -> Result<Tensor> {
    const OP: &str = "max_pool_backward";
    let [batch, pooled, channels] = dout.dims(OP)?;
    check(OP, size, length)?;
    if pooled != length / size || dout.len() != saved.0.len() {
        return Err(Error::shape(OP, format!("dout {:?} is not {length} positions pooled by {size}", dout.shape())));
    }
    let dinp = cpu.fresh(&[batch, length, channels])?;
    let (dy, dx) = (cpu.read(dout), cpu.ptr(&dinp));
    shards(batch, |b| {
        // SAFETY: each sample is one shard's.
        let sample = unsafe { dx.slice(b * length * channels, length * channels) };
        sample.fill(0.0);
        for p in 0..pooled {
            let row = (b * pooled + p) * channels;
            for c in 0..channels {
                sample[(p * size + usize::from(saved.0[row + c])) * channels + c] = dy[row + c];
            }
        }
    });
    Ok(dinp)
}
