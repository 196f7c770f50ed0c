//! Max pooling over positions (kernels/pool.cu).

use super::params::MaxPool;
use super::{Cuda, Memory, T, at, int};
use crate::error::{Error, Result};

/// `[B,P,C]` i32: place of each maximum in its window.
pub struct Winners {
    places: Memory,
    count: usize,
}

fn params(op: &'static str, [batch, length, channels]: [usize; 3], size: usize) -> Result<MaxPool> {
    int(op, batch * length * channels)?;
    Ok(MaxPool {
        batch: int(op, batch)?,
        length: int(op, length)?,
        channels: int(op, channels)?,
        size: int(op, size)?,
        pooled: int(op, length / size)?,
    })
}

pub fn forward(cuda: &Cuda, inp: &T, size: usize) -> Result<(T, Winners)> {
    const OP: &str = "max_pool";
    let dims @ [batch, length, channels] = inp.dims(OP)?;
    if size == 0 || length < size {
        return Err(Error::shape(OP, format!("a window of {size} does not fit into {length} positions")));
    }
    let p = params(OP, dims, size)?;
    let out = cuda.empty(&[batch, length / size, channels])?;
    let (places, count) = (cuda.scratch::<i32>(out.len())?, out.len());
    launch!(cuda, "max_pool_forward", [count.div_ceil(256), 1, 1], 256, 0; p, at(inp), at(&out), places.address())?;
    Ok((out, Winners { places, count }))
}

pub fn backward(cuda: &Cuda, dout: &T, saved: &Winners, size: usize, length: usize) -> Result<T> {
    const OP: &str = "max_pool_backward";
    let [batch, pooled, channels] = dout.dims(OP)?;
    if size == 0 || pooled != length / size || dout.len() != saved.count {
        return Err(Error::shape(OP, format!("dout {:?} is not {length} positions pooled by {size}", dout.shape())));
    }
    let p = params(OP, [batch, length, channels], size)?;
    let dinp = cuda.empty(&[batch, length, channels])?;
    let grid = [dinp.len().div_ceil(256), 1, 1];
    launch!(cuda, "max_pool_backward", grid, 256, 0; p, at(dout), saved.places.address(), at(&dinp))?;
    Ok(dinp)
}
