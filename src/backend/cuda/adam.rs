//! Gradient norm and Adam on the flat buffers (kernels/adam.cu).

use super::params::{AdamParams, ParamRange};
use super::{Cuda, Memory, Step, T, at, int};
use crate::backend::{Adam, Range};
use crate::error::{Error, Result};
use std::sync::{Arc, Mutex, PoisonError};

/// Elements per block.
const CHUNK: usize = 4096;
/// Range tables kept on the device; a training run has one.
const KEPT: usize = 4;

/// Range tables that are on the device already, latest last.
#[derive(Default)]
pub struct Tables(Mutex<Vec<(Vec<Range>, Arc<Memory>)>>);

impl Tables {
    /// The table of `ranges`, uploaded once.
    fn get(&self, cuda: &Cuda, op: &'static str, ranges: &[Range]) -> Result<Arc<Memory>> {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, table)) = tables.iter().find(|(known, _)| known == ranges) {
            return Ok(table.clone());
        }
        let entry = |r: &Range| {
            Ok(ParamRange { offset: int(op, r.offset)?, len: int(op, r.len)?, l2: r.l2, frozen: r.frozen.into() })
        };
        let mut entries = ranges.iter().filter(|r| r.len > 0).map(entry).collect::<Result<Vec<_>>>()?;
        entries.sort_by_key(|r| r.offset);
        if let Some(w) = entries.windows(2).find(|w| w[0].offset + w[0].len > w[1].offset) {
            return Err(Error::shape(op, format!("ranges at {} and {} overlap", w[0].offset, w[1].offset)));
        }
        entries.push(ParamRange { offset: i32::MAX, len: 0, l2: 0.0, frozen: 1 }); // never empty
        let table = Arc::new(cuda.upload(&entries)?);
        if tables.len() == KEPT {
            tables.remove(0);
        }
        tables.push((ranges.to_vec(), table.clone()));
        Ok(table)
    }
}

fn check(op: &'static str, params: &T, others: &[(&str, &T)], ranges: &[Range]) -> Result<AdamParams> {
    for (what, other) in others {
        other.expect_shape(op, what, params.shape())?;
    }
    if let Some(r) = ranges.iter().find(|r| r.offset + r.len > params.len()) {
        let message = format!("range {}+{} exceeds {} parameters", r.offset, r.len, params.len());
        return Err(Error::shape(op, message));
    }
    Ok(AdamParams {
        count: int(op, params.len())?,
        ranges: int(op, ranges.iter().filter(|r| r.len > 0).count() + 1)?,
        chunk: int(op, CHUNK)?,
        chunks: int(op, params.len().div_ceil(CHUNK))?,
        beta1: 0.0,
        beta2: 0.0,
        eps: 0.0,
        clip: 0.0,
    })
}

pub fn finish_gradients(cuda: &Cuda, params: &T, grads: &T, ranges: &[Range]) -> Result<T> {
    const OP: &str = "finish_gradients";
    let p = check(OP, params, &[("grads", grads)], ranges)?;
    let table = cuda.tables.get(cuda, OP, ranges)?;
    let (norm, partial) = (cuda.empty(&[1])?, cuda.scratch::<f64>(p.chunks as usize)?);
    let grid = [p.chunks as usize, 1, 1];
    launch!(cuda, "finish_gradients", grid, 256, 0; p, table.address(), at(params), at(grads), partial.address())?;
    launch!(cuda, "gradient_norm", [1, 1, 1], 256, 0; p, partial.address(), at(&norm))?;
    Ok(norm)
}

pub fn l2_penalty(cuda: &Cuda, params: &T, ranges: &[Range]) -> Result<T> {
    const OP: &str = "l2_penalty";
    let p = check(OP, params, &[], ranges)?;
    let table = cuda.tables.get(cuda, OP, ranges)?;
    let (penalty, partial) = (cuda.empty(&[1])?, cuda.scratch::<f64>(p.chunks as usize)?);
    let grid = [p.chunks as usize, 1, 1];
    launch!(cuda, "l2_partial", grid, 256, 0; p, table.address(), at(params), partial.address())?;
    launch!(cuda, "l2_finish", [1, 1, 1], 256, 0; p, partial.address(), at(&penalty))?;
    Ok(penalty)
}

pub fn adam(
    cuda: &Cuda,
    params: &T,
    grads: &T,
    m: &T,
    v: &T,
    norm: &T,
    ranges: &[Range],
    adam: &Adam,
    step: &Step,
) -> Result<()> {
    const OP: &str = "adam";
    let p = check(OP, params, &[("grads", grads), ("m", m), ("v", v)], ranges)?;
    norm.expect_shape(OP, "norm", &[1])?;
    let Adam { beta1, beta2, eps, clip } = *adam;
    let p = AdamParams { beta1, beta2, eps, clip: clip.unwrap_or(0.0), ..p };
    let table = cuda.tables.get(cuda, OP, ranges)?;
    launch!(cuda, "adam_step", [p.chunks as usize, 1, 1], 256, 0;
        p, table.address(), step.address(), at(norm), at(grads), at(params), at(m), at(v))
}
