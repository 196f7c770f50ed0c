//! Gradient norm and Adam on the flat buffers.

use super::Real;
use super::memory::{Step, Tensor, read, tensor, update};
use crate::backend::{Adam, Range};
use crate::error::{Error, Result};

fn check<T: Real>(op: &'static str, params: &Tensor<T>, others: &[(&str, &Tensor<T>)], ranges: &[Range]) -> Result<()> {
    for (what, other) in others {
        other.expect_shape(op, what, params.shape())?;
    }
    match ranges.iter().find(|range| range.offset + range.len > params.len()) {
        Some(r) => Err(Error::shape(op, format!("range {}+{} exceeds {} parameters", r.offset, r.len, params.len()))),
        None => Ok(()),
    }
}

pub fn finish_gradients<T: Real>(params: &Tensor<T>, grads: &Tensor<T>, ranges: &[Range]) -> Result<Tensor<T>> {
    check("finish_gradients", params, &[("grads", grads)], ranges)?;
    let theta = read(params);
    let mut squares = T::ZERO;
    update(grads, |grads| {
        for range in ranges {
            for n in range.offset..range.offset + range.len {
                grads[n] += T::of(2.0 * f64::from(range.l2)) * theta[n];
                if !range.frozen {
                    squares += grads[n] * grads[n];
                }
            }
        }
    });
    Ok(tensor(vec![squares.sqrt()], &[1]))
}

pub fn l2_penalty<T: Real>(params: &Tensor<T>, ranges: &[Range]) -> Result<Tensor<T>> {
    check("l2_penalty", params, &[], ranges)?;
    let theta = read(params);
    let one = |range: &Range| {
        let squares: T = theta[range.offset..range.offset + range.len].iter().map(|&x| x * x).sum();
        T::of(range.l2.into()) * squares
    };
    Ok(tensor(vec![ranges.iter().map(one).sum()], &[1]))
}

pub fn adam<T: Real>(
    params: &Tensor<T>,
    grads: &Tensor<T>,
    m: &Tensor<T>,
    v: &Tensor<T>,
    norm: &Tensor<T>,
    ranges: &[Range],
    adam: &Adam,
    step: &Step,
) -> Result<()> {
    const OP: &str = "adam";
    check(OP, params, &[("grads", grads), ("m", m), ("v", v)], ranges)?;
    norm.expect_shape(OP, "norm", &[1])?;
    let norm = read(norm)[0];
    if !norm.is_finite() {
        return Ok(());
    }
    let [beta1, beta2, eps] = [adam.beta1, adam.beta2, adam.eps].map(|x| T::of(x.into()));
    let step = step.read();
    let [lr, correction1, correction2] =
        [step.lr, step.bias_correction1, step.bias_correction2].map(|x| T::of(x.into()));
    let factor = adam.clip.map_or(T::ONE, |clip| {
        let factor = T::of(clip.into()) / (norm + T::of(1e-6));
        if factor < T::ONE { factor } else { T::ONE }
    });
    let (mut theta, g, mut first, mut second) = (read(params), read(grads), read(m), read(v));
    for range in ranges.iter().filter(|range| !range.frozen) {
        for n in range.offset..range.offset + range.len {
            let g = g[n] * factor;
            first[n] = beta1 * first[n] + (T::ONE - beta1) * g;
            second[n] = beta2 * second[n] + (T::ONE - beta2) * g * g;
            theta[n] -= lr * (first[n] / correction1) / ((second[n] / correction2).sqrt() + eps);
        }
    }
    for (slot, values) in [(params, theta), (m, first), (v, second)] {
        update(slot, |slot| slot.copy_from_slice(&values));
    }
    Ok(())
}
