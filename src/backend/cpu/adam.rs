//! Gradient norm and Adam on the flat buffers, fused over all moments.

use rayon::prelude::*;

use super::parallel::shards;
use super::simd::kernel;
use super::{Cpu, Step, Tensor};
use crate::backend::{Adam, Range};
use crate::error::{Error, Result};

/// Elements of a shard.
const CHUNK: usize = 1 << 15;

fn check(op: &'static str, params: &Tensor, others: &[(&str, &Tensor)], ranges: &[Range]) -> Result<()> {
    for (what, other) in others {
        other.expect_shape(op, what, params.shape())?;
    }
    match ranges.iter().find(|range| range.offset + range.len > params.len()) {
        Some(r) => Err(Error::shape(op, format!("range {}+{} exceeds {} parameters", r.offset, r.len, params.len()))),
        None => Ok(()),
    }
}

/// Pieces of the ranges of at most [`CHUNK`] elements: range, offset, length.
fn pieces(ranges: &[Range]) -> Vec<(&Range, usize, usize)> {
    let mut list = Vec::new();
    for range in ranges {
        list.extend((0..range.len).step_by(CHUNK).map(|i| (range, range.offset + i, CHUNK.min(range.len - i))));
    }
    list
}

pub fn finish_gradients(cpu: &Cpu, params: &Tensor, grads: &Tensor, ranges: &[Range]) -> Result<Tensor> {
    check("finish_gradients", params, &[("grads", grads)], ranges)?;
    let (theta, grads, pieces) = (cpu.read(params), cpu.ptr(grads), pieces(ranges));
    let mut squares = vec![0.0f64; pieces.len()];
    let isa = cpu.isa();
    pieces.par_iter().zip(&mut squares).for_each(|(&(range, start, len), square)| {
        // SAFETY: the slot is ours; ranges do not overlap.
        let g = unsafe { grads.slice(start, len) };
        let sum = finish_piece(isa, &theta[start..start + len], g, 2.0 * range.l2);
        *square = if range.frozen { 0.0 } else { sum };
    });
    cpu.filled(&[squares.iter().sum::<f64>().sqrt() as f32], &[1])
}

kernel! {
    fn finish_piece<S>(s, theta: &[f32], grads: &mut [f32], factor: f32) -> f64 {
        let _ = s;
        if factor != 0.0 {
            for (g, &t) in grads.iter_mut().zip(theta) {
                *g += factor * t;
            }
        }
        squares(grads)
    }
}

pub fn l2_penalty(cpu: &Cpu, params: &Tensor, ranges: &[Range]) -> Result<Tensor> {
    check("l2_penalty", params, &[], ranges)?;
    let (theta, isa) = (cpu.read(params), cpu.isa());
    let pieces: Vec<_> = pieces(ranges).into_iter().filter(|(range, ..)| range.l2 != 0.0).collect();
    let mut squares = vec![0.0f64; pieces.len()];
    pieces.par_iter().zip(&mut squares).for_each(|(&(range, start, len), square)| {
        *square = f64::from(range.l2) * sum_of_squares(isa, &theta[start..start + len]);
    });
    cpu.filled(&[squares.iter().sum::<f64>() as f32], &[1])
}

kernel! {
    fn sum_of_squares<S>(s, values: &[f32]) -> f64 {
        let _ = s;
        squares(values)
    }
}

/// Σ x² in eight sums that are added in order.
#[inline(always)]
fn squares(values: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    let groups = values.chunks_exact(8);
    let rest = groups.remainder();
    for group in groups {
        for (sum, &x) in sums.iter_mut().zip(group) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum += f64::from(x) * f64::from(x);
    }
    let mut total = 0.0;
    for sum in sums {
        total += sum;
    }
    total
}

pub fn step(
    cpu: &Cpu,
    params: &Tensor,
    grads: &Tensor,
    m: &Tensor,
    v: &Tensor,
    norm: &Tensor,
    ranges: &[Range],
    adam: &Adam,
    step: &Step,
) -> Result<()> {
    const OP: &str = "adam";
    check(OP, params, &[("grads", grads), ("m", m), ("v", v)], ranges)?;
    norm.expect_shape(OP, "norm", &[1])?;
    let norm = cpu.read(norm)[0];
    if !norm.is_finite() {
        return Ok(());
    }
    let factor = adam.clip.map_or(1.0, |clip| (clip / (norm + 1e-6)).min(1.0));
    let (state, pieces, isa) = (step.read(), pieces(ranges), cpu.isa());
    let (theta, g, m, v) = (cpu.ptr(params), cpu.read(grads), cpu.ptr(m), cpu.ptr(v));
    shards(pieces.len(), |i| {
        let (range, start, len) = pieces[i];
        if !range.frozen {
            // SAFETY: the slots are ours; ranges do not overlap.
            let (theta, m, v) = unsafe { (theta.slice(start, len), m.slice(start, len), v.slice(start, len)) };
            let constants = [adam.beta1, adam.beta2, adam.eps, factor];
            let late = [state.lr, state.bias_correction1, state.bias_correction2];
            step_piece(isa, theta, &g[start..start + len], m, v, constants, late);
        }
    });
    Ok(())
}

kernel! {
    fn step_piece<S>(s, theta: &mut [f32], grads: &[f32], m: &mut [f32], v: &mut [f32], constants: [f32; 4], late: [f32; 3]) {
        let _ = s;
        let [beta1, beta2, eps, factor] = constants;
        let [lr, correction1, correction2] = late;
        for (((theta, &g), m), v) in theta.iter_mut().zip(grads).zip(m.iter_mut()).zip(v.iter_mut()) {
            let g = g * factor;
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            *theta -= lr * (*m / correction1) / ((*v / correction2).sqrt() + eps);
        }
    }
}
