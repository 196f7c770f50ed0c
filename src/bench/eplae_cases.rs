//! The primitives of an EPLAE step at its shapes.

use super::cases::{Build, Case, Maker, Outputs};
use crate::backend::cost::{self, Cost};
use crate::backend::{Backend, Conv1d, Tensor};
use crate::error::Result;

/// Cases by name, in the order of a step.
pub fn all<B: Backend>() -> Vec<(&'static str, Build<B>)> {
    vec![
        ("eplae_dna_conv1d", |m| dna_conv(m, false)),
        ("eplae_dna_conv1d_backward_weight", |m| dna_conv(m, true)),
        ("eplae_conv1d", |m| Conv::second(m)?.case(m, Conv::forward, false)),
        ("eplae_conv1d_backward_input", |m| Conv::second(m)?.case(m, Conv::backward_input, false)),
        ("eplae_conv1d_backward_weight", |m| Conv::second(m)?.case(m, Conv::backward_weight, true)),
        ("eplae_conv_transpose1d_last", |m| Conv::last(m)?.case(m, Conv::transposed, false)),
        ("eplae_conv_transpose1d_last_backward_input", |m| {
            Conv::last(m)?.case(m, Conv::transposed_backward_input, false)
        }),
        ("eplae_conv_transpose1d_last_backward_weight", |m| Conv::last(m)?.case(m, Conv::backward_weight, true)),
        ("eplae_linear_encode", |m| linear(m, code(m), Pass::Forward)),
        ("eplae_linear_encode_backward_input", |m| linear(m, code(m), Pass::Transposed)),
        ("eplae_linear_encode_backward_weight", |m| linear(m, code(m), Pass::Weight)),
        ("eplae_linear_decode", |m| linear(m, reversed(code(m)), Pass::Forward)),
        ("eplae_linear_decode_backward_input", |m| linear(m, reversed(code(m)), Pass::Transposed)),
        ("eplae_linear_decode_backward_weight", |m| linear(m, reversed(code(m)), Pass::Weight)),
        ("eplae_leaky_relu_backward", leaky_relu_backward),
        ("eplae_swap_trailing", swap_trailing),
        ("eplae_reconstruction", reconstruction),
        ("eplae_reconstruction_backward", reconstruction_backward),
    ]
}

/// Which of the three products of a linear map.
#[derive(Clone, Copy)]
enum Pass {
    Forward,
    Transposed,
    Weight,
}

/// Length of the enhancer's window after `stages` stages.
fn length<B: Backend>(m: &Maker<B>, stages: u32) -> usize {
    (0..stages).fold(m.size.enhancer_length, |length, _| length.div_ceil(2))
}

fn spec<B: Backend>(m: &Maker<B>) -> Conv1d {
    Conv1d { stride: 2, padding: m.size.autoencoder.kernel_size / 2 }
}

/// A convolution from `[B,length,I]`, or its adjoint back to that.
struct Conv<B: Backend> {
    inp: Tensor<B>,
    weight: Tensor<B>,
    dout: Tensor<B>,
    slot: Tensor<B>,
    spec: Conv1d,
    slope: f32,
}

impl<B: Backend> Conv<B> {
    fn new(m: &Maker<B>, length: usize, [o, i]: [usize; 2]) -> Result<Self> {
        let (c, spec) = (&m.size.autoencoder, spec(m));
        let shape = [o, i, c.kernel_size];
        Ok(Conv {
            inp: m.normal(&[m.size.batch, length, i])?,
            weight: m.weight(&shape, i * c.kernel_size)?,
            dout: m.normal(&[m.size.batch, spec.output_length(length, c.kernel_size), o])?,
            slot: m.b.zeros(&shape)?,
            spec,
            slope: c.slope,
        })
    }
    /// The encoder's second stage; backwards, the decoder's second.
    fn second(m: &Maker<B>) -> Result<Self> {
        let f = m.size.autoencoder.filters;
        Self::new(m, length(m, 1), [f, f])
    }
    /// The decoder's last stage is the adjoint of this.
    fn last(m: &Maker<B>) -> Result<Self> {
        Self::new(m, m.size.enhancer_length, [m.size.autoencoder.filters, 4])
    }
    fn forward(&self, b: &B) -> Result<Tensor<B>> {
        b.conv1d(&self.inp, &self.weight, None, Some(self.slope), self.spec)
    }
    fn backward_input(&self, b: &B) -> Result<Tensor<B>> {
        b.conv1d_backward_leaky(&self.dout, &self.weight, self.spec, &self.inp, self.slope)
    }
    fn transposed(&self, b: &B) -> Result<Tensor<B>> {
        let length = self.inp.shape()[1];
        b.conv_transpose1d(&self.dout, &self.weight, None, None, self.spec, length)
    }
    fn transposed_backward_input(&self, b: &B) -> Result<Tensor<B>> {
        b.conv_transpose1d_backward_leaky(&self.inp, &self.weight, self.spec, &self.dout, self.slope)
    }
    fn backward_weight(&self, b: &B) -> Result<Tensor<B>> {
        b.conv1d_backward_weight(&self.inp, &self.dout, self.spec, Some(&self.slot), None)?;
        Ok(self.slot.clone())
    }
    fn case(self, m: &Maker<B>, run: fn(&Self, &B) -> Result<Tensor<B>>, accumulates: bool) -> Result<Case<B>> {
        let [_, length, _] = self.inp.dims("conv1d")?;
        let sizes = self.weight.dims("conv1d")?;
        let cost = cost::conv1d(m.size.batch, length, sizes, self.spec, accumulates);
        m.case((self.inp.shape().to_vec(), sizes), cost, move |b| Ok(vec![run(&self, b)?]))
    }
}

fn dna_conv<B: Backend>(m: &Maker<B>, backward: bool) -> Result<Case<B>> {
    let (c, spec, batch, length) = (&m.size.autoencoder, spec(m), m.size.batch, m.size.enhancer_length);
    let dna = m.b.upload_dna(&super::step::random_dna(batch, length, 3))?;
    let shape = [c.filters, 4, c.kernel_size];
    let (weight, bias, slope) = (m.weight(&shape, c.kernel_size)?, m.normal(&[c.filters])?, c.slope);
    let dout = m.normal(&[batch, spec.output_length(length, c.kernel_size), c.filters])?;
    let slots = [m.b.zeros(&shape)?, m.b.zeros(&[c.filters])?];
    let cost = cost::dna_conv1d(batch, length, [c.filters, c.kernel_size], spec, backward);
    m.case(([batch, length], shape), cost, move |b| {
        if backward {
            b.dna_conv1d_backward_weight(&dna, &dout, spec, Some(&slots[0]), Some(&slots[1]))?;
            return Ok(slots.to_vec());
        }
        Ok(vec![b.dna_conv1d(&dna, &weight, Some(&bias), Some(slope), spec)?])
    })
}

/// Inputs and outputs of the linear map that makes the code.
fn code<B: Backend>(m: &Maker<B>) -> [usize; 2] {
    let columns = |length: usize| (0..3).fold(length, |length, _| length.div_ceil(2));
    let c = &m.size.autoencoder;
    [c.filters * (columns(m.size.enhancer_length) + columns(m.size.promoter_length)), c.units]
}
fn reversed([i, o]: [usize; 2]) -> [usize; 2] {
    [o, i]
}

fn linear<B: Backend>(m: &Maker<B>, [i, o]: [usize; 2], pass: Pass) -> Result<Case<B>> {
    let rows = m.size.batch;
    let (inp, weight, dout) = (m.normal(&[rows, i])?, m.weight(&[o, i], i)?, m.normal(&[rows, o])?);
    let bias = m.normal(&[o])?;
    let cost = match pass {
        Pass::Weight => cost::linear_backward_weight(rows, i, o),
        _ => cost::linear(rows, i, o),
    };
    // The weight takes the gradient: a second one of this size would not tell more.
    m.case([rows, i, o], cost, move |b| {
        Ok(vec![match pass {
            Pass::Forward => b.linear(&inp, &weight, Some(&bias), false)?,
            Pass::Transposed => b.linear_backward_input(&dout, &weight)?,
            Pass::Weight => {
                b.linear_backward_weight(&inp, &dout, Some(&weight), Some(&bias))?;
                weight.clone()
            }
        }])
    })
}

fn leaky_relu_backward<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let shape = [m.size.batch, length(m, 1), m.size.autoencoder.filters];
    let (out, dout, slope) = (m.normal(&shape)?, m.normal(&shape)?, m.size.autoencoder.slope);
    m.case(shape, cost::elementwise(out.len(), 1, 3), move |b| Ok(vec![b.leaky_relu_backward(&out, &dout, slope)?]))
}

fn swap_trailing<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let shape = [m.size.batch, length(m, 3), m.size.autoencoder.filters];
    let inp = m.normal(&shape)?;
    m.case(shape, cost::elementwise(inp.len(), 0, 2), move |b| Ok(vec![b.swap_trailing(&inp)?]))
}

/// DNA and a guess of it.
fn guess<B: Backend>(m: &Maker<B>) -> Result<(B::Dna, Tensor<B>)> {
    let (batch, length) = (m.size.batch, m.size.enhancer_length);
    Ok((m.b.upload_dna(&super::step::random_dna(batch, length, 3))?, m.normal(&[batch, length, 4])?))
}
fn reconstruction<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let (dna, recon) = guess(m)?;
    let cost: Cost = cost::reduction(recon.len(), 3);
    m.case(recon.shape().to_vec(), cost, move |b| -> Result<Outputs<B>> { Ok(vec![b.reconstruction(&recon, &dna)?]) })
}
fn reconstruction_backward<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let ((dna, recon), dsquares) = (guess(m)?, m.normal(&[1])?);
    let cost = cost::elementwise(recon.len(), 2, 2);
    m.case(recon.shape().to_vec(), cost, move |b| Ok(vec![b.reconstruction_backward(&recon, &dna, &dsquares)?]))
}
