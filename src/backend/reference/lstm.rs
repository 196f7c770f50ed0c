//! One bidirectional LSTM layer, one sample, one direction and one step at a time.

use super::memory::{Tensor, accumulate, read, tensor};
use super::{Real, Reference};
use crate::backend::{Gate, LstmWeights};
use crate::error::{Error, Result};

type Weights<T> = [LstmWeights<Reference<T>>; 2];

pub struct Saved<T: Real> {
    /// Per direction: activated gates `[B,T,4H]` (i, f, g, o) and cell states `[B,T,H]`.
    directions: [(Vec<T>, Vec<T>); 2],
    /// `[B,T,2H]`, what the layer gave.
    out: Tensor<T>,
}

/// Sizes of a layer.
#[derive(Clone, Copy)]
struct Dims {
    batch: usize,
    time: usize,
    inputs: usize,
    hidden: usize,
}

impl Dims {
    fn of<T: Real>(op: &'static str, inp: &Tensor<T>, weights: &Weights<T>) -> Result<Self> {
        let [batch, time, inputs] = inp.dims(op)?;
        let [_, hidden] = weights[0].weight_hh.dims(op)?;
        if time == 0 || hidden == 0 {
            return Err(Error::shape(op, format!("{time} time steps of {hidden} hidden units")));
        }
        let dims = Dims { batch, time, inputs, hidden };
        dims.check(op, weights)?;
        Ok(dims)
    }
    fn check<T: Real>(&self, op: &'static str, weights: &Weights<T>) -> Result<()> {
        let rows = 4 * self.hidden;
        for w in weights {
            w.weight_ih.expect_shape(op, "weight_ih", &[rows, self.inputs])?;
            w.weight_hh.expect_shape(op, "weight_hh", &[rows, self.hidden])?;
            w.bias_ih.expect_shape(op, "bias_ih", &[rows])?;
            w.bias_hh.as_ref().map_or(Ok(()), |bias| bias.expect_shape(op, "bias_hh", &[rows]))?;
        }
        Ok(())
    }
    /// Time steps in the order in which direction `d` sees them.
    fn steps(&self, d: usize) -> Vec<usize> {
        if d == 0 { (0..self.time).collect() } else { (0..self.time).rev().collect() }
    }
}

fn squash<T: Real>(gate: Gate, x: T) -> T {
    match gate {
        Gate::Sigmoid => T::ONE / (T::ONE + (-x).exp()),
        Gate::HardSigmoid => {
            let y = T::of(0.2) * x + T::of(0.5);
            if y < T::ZERO {
                T::ZERO
            } else if y > T::ONE {
                T::ONE
            } else {
                y
            }
        }
    }
}

/// Derivative of [`squash`] where its value is `y`.
fn squash_slope<T: Real>(gate: Gate, y: T) -> T {
    match gate {
        Gate::Sigmoid => y * (T::ONE - y),
        Gate::HardSigmoid if y > T::ZERO && y < T::ONE => T::of(0.2),
        Gate::HardSigmoid => T::ZERO,
    }
}

pub fn forward<T: Real>(
    inp: &Tensor<T>,
    weights: &Weights<T>,
    gate: Gate,
    save: bool,
) -> Result<(Tensor<T>, Option<Saved<T>>)> {
    let dims = Dims::of("lstm", inp, weights)?;
    let Dims { batch, time, inputs, hidden } = dims;
    let x = read(inp);
    let mut out = vec![T::ZERO; batch * time * 2 * hidden];
    let directions = [0, 1].map(|d| {
        let w = &weights[d];
        let (w_ih, w_hh, b_ih, b_hh) =
            (read(&w.weight_ih), read(&w.weight_hh), read(&w.bias_ih), w.bias_hh.as_ref().map(read));
        let (mut gates, mut cells) = (vec![T::ZERO; batch * time * 4 * hidden], vec![T::ZERO; batch * time * hidden]);
        for b in 0..batch {
            let (mut h, mut c) = (vec![T::ZERO; hidden], vec![T::ZERO; hidden]);
            for t in dims.steps(d) {
                let row = b * time + t;
                let act = &mut gates[row * 4 * hidden..][..4 * hidden];
                for (r, act) in act.iter_mut().enumerate() {
                    let from_input: T = (0..inputs).map(|i| w_ih[r * inputs + i] * x[row * inputs + i]).sum();
                    let from_state: T = (0..hidden).map(|j| w_hh[r * hidden + j] * h[j]).sum();
                    let bias = b_hh.as_ref().map_or(b_ih[r], |b_hh| b_ih[r] + b_hh[r]);
                    let z = from_input + from_state + bias;
                    *act = if r / hidden == 2 { z.tanh() } else { squash(gate, z) };
                }
                for j in 0..hidden {
                    c[j] = act[hidden + j] * c[j] + act[j] * act[2 * hidden + j];
                    h[j] = act[3 * hidden + j] * c[j].tanh();
                    cells[row * hidden + j] = c[j];
                    out[(row * 2 + d) * hidden + j] = h[j];
                }
            }
        }
        (gates, cells)
    });
    let out = tensor(out, &[batch, time, 2 * hidden]);
    Ok((out.clone(), save.then_some(Saved { directions, out })))
}

pub fn backward<T: Real>(
    inp: &Tensor<T>,
    weights: &Weights<T>,
    gate: Gate,
    saved: Saved<T>,
    dout: &Tensor<T>,
    grads: Option<&Weights<T>>,
    need_input: bool,
) -> Result<Option<Tensor<T>>> {
    const OP: &str = "lstm_backward";
    let dims = Dims::of(OP, inp, weights)?;
    let Dims { batch, time, inputs, hidden } = dims;
    dout.expect_shape(OP, "dout", &[batch, time, 2 * hidden])?;
    grads.map_or(Ok(()), |grads| dims.check(OP, grads))?;
    let (x, y, dy) = (read(inp), read(&saved.out), read(dout));
    let mut dx = vec![T::ZERO; x.len()];
    for d in 0..2 {
        let (gates, cells) = &saved.directions[d];
        let (w_ih, w_hh) = (read(&weights[d].weight_ih), read(&weights[d].weight_hh));
        let (mut dw_ih, mut dw_hh) = (vec![T::ZERO; w_ih.len()], vec![T::ZERO; w_hh.len()]);
        let mut dbias = vec![T::ZERO; 4 * hidden];
        for b in 0..batch {
            let steps = dims.steps(d);
            let (mut dh, mut dc) = (vec![T::ZERO; hidden], vec![T::ZERO; hidden]);
            for n in (0..time).rev() {
                let row = b * time + steps[n];
                let before = n.checked_sub(1).map(|n| b * time + steps[n]);
                let act = &gates[row * 4 * hidden..][..4 * hidden];
                let mut dz = vec![T::ZERO; 4 * hidden];
                for j in 0..hidden {
                    let [i, f, g, o] = [0, 1, 2, 3].map(|k| act[k * hidden + j]);
                    let tanh_c = cells[row * hidden + j].tanh();
                    let c_before = before.map_or(T::ZERO, |row| cells[row * hidden + j]);
                    let dh = dh[j] + dy[(row * 2 + d) * hidden + j];
                    dc[j] += dh * o * (T::ONE - tanh_c * tanh_c);
                    dz[j] = dc[j] * g * squash_slope(gate, i);
                    dz[hidden + j] = dc[j] * c_before * squash_slope(gate, f);
                    dz[2 * hidden + j] = dc[j] * i * (T::ONE - g * g);
                    dz[3 * hidden + j] = dh * tanh_c * squash_slope(gate, o);
                    dc[j] = dc[j] * f;
                }
                dh.fill(T::ZERO);
                for (r, &dz) in dz.iter().enumerate() {
                    dbias[r] += dz;
                    for i in 0..inputs {
                        dw_ih[r * inputs + i] += dz * x[row * inputs + i];
                        dx[row * inputs + i] += dz * w_ih[r * inputs + i];
                    }
                    for j in 0..hidden {
                        let h_before = before.map_or(T::ZERO, |row| y[(row * 2 + d) * hidden + j]);
                        dw_hh[r * hidden + j] += dz * h_before;
                        dh[j] += dz * w_hh[r * hidden + j];
                    }
                }
            }
        }
        if let Some(slots) = grads.map(|grads| &grads[d]) {
            accumulate(&slots.weight_ih, &dw_ih);
            accumulate(&slots.weight_hh, &dw_hh);
            accumulate(&slots.bias_ih, &dbias);
            if let Some(slot) = &slots.bias_hh {
                accumulate(slot, &dbias);
            }
        }
    }
    Ok(need_input.then(|| tensor(dx, inp.shape())))
}
