//! Max pooling over positions.

use super::Real;
use super::memory::{Tensor, read, tensor};
use crate::error::{Error, Result};

/// Input position of every winner.
pub struct Winners(Vec<usize>);

pub fn forward<T: Real>(inp: &Tensor<T>, size: usize) -> Result<(Tensor<T>, Winners)> {
    const OP: &str = "max_pool";
    let [batch, length, channels] = inp.dims(OP)?;
    if size == 0 || length < size {
        return Err(Error::shape(OP, format!("a window of {size} does not fit into {length} positions")));
    }
    let (pooled, x) = (length / size, read(inp));
    let (mut out, mut winners) = (Vec::new(), Vec::new());
    for b in 0..batch {
        for p in 0..pooled {
            for c in 0..channels {
                let at = |l: usize| x[(b * length + l) * channels + c];
                let mut winner = p * size;
                for l in p * size..(p + 1) * size {
                    if at(l) > at(winner) || at(l).f64().is_nan() {
                        winner = l;
                    }
                }
                out.push(at(winner));
                winners.push(winner);
            }
        }
    }
    Ok((tensor(out, &[batch, pooled, channels]), Winners(winners)))
}

pub fn backward<T: Real>(dout: &Tensor<T>, saved: &Winners, size: usize, length: usize) -> Result<Tensor<T>> {
    const OP: &str = "max_pool_backward";
    let [batch, pooled, channels] = dout.dims(OP)?;
    if size == 0 || pooled != length / size || dout.len() != saved.0.len() {
        return Err(Error::shape(OP, format!("dout {:?} is not {length} positions pooled by {size}", dout.shape())));
    }
    let mut dinp = vec![T::ZERO; batch * length * channels];
    for (n, (dy, &winner)) in read(dout).into_iter().zip(&saved.0).enumerate() {
        let (b, c) = (n / (pooled * channels), n % channels);
        dinp[(b * length + winner) * channels + c] = dy;
    }
    Ok(tensor(dinp, &[batch, length, channels]))
}
