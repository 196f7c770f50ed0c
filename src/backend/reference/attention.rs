//! Multi-head attention, one query at a time.

use super::Real;
use super::memory::{Step, Tensor, read, tensor};
use crate::backend::Attention;
use crate::error::{Error, Result};

/// One head of one sample inside `qkv`, with the scaled scores and the dropout of a row.
struct Head<'a, T> {
    qkv: &'a [T],
    spec: &'a Attention,
    philox_step: u32,
    time: usize,
    batch: usize,
    head: usize,
}

impl<T: Real> Head<'_, T> {
    /// Where element `d` of the query (`part` 0), key (1) or value (2) at `t` lives.
    fn index(&self, part: usize, t: usize, d: usize) -> usize {
        let Attention { heads, head_size, .. } = *self.spec;
        ((self.batch * self.time + t) * 3 + part) * heads * head_size + self.head * head_size + d
    }
    fn at(&self, part: usize, t: usize, d: usize) -> T {
        self.qkv[self.index(part, t, d)]
    }
    /// Where element `d` of this head's output at `t` lives.
    fn out_index(&self, t: usize, d: usize) -> usize {
        let Attention { heads, head_size, .. } = *self.spec;
        ((self.batch * self.time + t) * heads + self.head) * head_size + d
    }
    fn row(&self, query: usize) -> usize {
        (self.batch * self.spec.heads + self.head) * self.time + query
    }
    fn scale(&self) -> T {
        T::ONE / T::count(self.spec.head_size).sqrt()
    }
    /// `q · k / √D` for every key.
    fn scores(&self, query: usize) -> Vec<T> {
        let dot = |key| (0..self.spec.head_size).map(|d| self.at(0, query, d) * self.at(1, key, d)).sum::<T>();
        (0..self.time).map(|key| dot(key) * self.scale()).collect()
    }
    /// What dropout multiplies each attention weight with.
    fn mask(&self, query: usize) -> Vec<T> {
        let first = (self.row(query) * Attention::pitch(self.time)) as u64;
        let factor = |key| match &self.spec.dropout {
            Some(dropout) if dropout.keeps(self.philox_step, first + key) => T::of(dropout.scale().into()),
            Some(_) => T::ZERO,
            None => T::ONE,
        };
        (0..self.time as u64).map(factor).collect()
    }
}

/// Batch and positions of `qkv`, and every head of every sample.
fn dims<T: Real>(op: &'static str, qkv: &Tensor<T>, spec: &Attention) -> Result<[usize; 2]> {
    let [batch, time, width] = qkv.dims(op)?;
    let Attention { heads, head_size, .. } = *spec;
    if heads == 0 || head_size == 0 || width != 3 * heads * head_size {
        return Err(Error::shape(op, format!("qkv {:?} is not 3 x {heads} heads of {head_size}", qkv.shape())));
    }
    if head_size > 64 {
        return Err(Error::Unsupported { op, message: format!("heads of {head_size}; at most 64") });
    }
    Ok([batch, time])
}

pub fn forward<T: Real>(qkv: &Tensor<T>, spec: &Attention, step: &Step) -> Result<(Tensor<T>, Tensor<T>)> {
    let [batch, time] = dims("attention", qkv, spec)?;
    let Attention { heads, head_size, .. } = *spec;
    let (values, philox_step) = (read(qkv), step.read().philox_step);
    let mut out = vec![T::ZERO; batch * time * heads * head_size];
    let mut lse = Vec::new();
    for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
        let head = Head { qkv: &values, spec, philox_step, time, batch: b, head: h };
        for query in 0..time {
            let scores = head.scores(query);
            let top = scores.iter().copied().fold(scores[0], T::or_larger);
            let sum: T = scores.iter().map(|&s| (s - top).exp()).sum();
            lse.push(top + sum.ln());
            let masked = scores.iter().zip(head.mask(query)).map(|(&s, mask)| (s - top).exp() / sum * mask);
            let weight: Vec<T> = masked.collect();
            for d in 0..head_size {
                let y: T = (0..time).map(|key| weight[key] * head.at(2, key, d)).sum();
                out[head.out_index(query, d)] = if spec.relu { y.relu() } else { y };
            }
        }
    }
    Ok((tensor(out, &[batch, time, heads * head_size]), tensor(lse, &[batch, heads, time])))
}

pub fn backward<T: Real>(
    qkv: &Tensor<T>,
    out: &Tensor<T>,
    lse: &Tensor<T>,
    dout: &Tensor<T>,
    spec: &Attention,
    step: &Step,
) -> Result<Tensor<T>> {
    const OP: &str = "attention_backward";
    let [batch, time] = dims(OP, qkv, spec)?;
    let Attention { heads, head_size, .. } = *spec;
    out.expect_shape(OP, "out", &[batch, time, heads * head_size])?;
    dout.expect_shape(OP, "dout", &[batch, time, heads * head_size])?;
    lse.expect_shape(OP, "lse", &[batch, heads, time])?;
    let (values, y, dy, lse, philox_step) = (read(qkv), read(out), read(dout), read(lse), step.read().philox_step);
    let mut dqkv = vec![T::ZERO; values.len()];
    for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
        let head = Head { qkv: &values, spec, philox_step, time, batch: b, head: h };
        for query in 0..time {
            let dy: Vec<T> = (0..head_size)
                .map(|d| head.out_index(query, d))
                .map(|n| if spec.relu && y[n] <= T::ZERO { T::ZERO } else { dy[n] })
                .collect();
            let weight: Vec<T> = head.scores(query).into_iter().map(|s| (s - lse[head.row(query)]).exp()).collect();
            let mask = head.mask(query);
            let dweight: Vec<T> = (0..time)
                .map(|key| mask[key] * (0..head_size).map(|d| dy[d] * head.at(2, key, d)).sum::<T>())
                .collect();
            let mean: T = weight.iter().zip(&dweight).map(|(&w, &dw)| w * dw).sum();
            for key in 0..time {
                let dscore = weight[key] * (dweight[key] - mean) * head.scale();
                for d in 0..head_size {
                    dqkv[head.index(0, query, d)] += dscore * head.at(1, key, d);
                    dqkv[head.index(1, key, d)] += dscore * head.at(0, query, d);
                    dqkv[head.index(2, key, d)] += weight[key] * mask[key] * dy[d];
                }
            }
        }
    }
    Ok(tensor(dqkv, qkv.shape()))
}
