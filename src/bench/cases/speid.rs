//! The primitives of a SPEID step at its shapes.

use super::lstm::{self, Layer};
use super::{
    Build, Case, Maker, Map, Outputs, adam, batch_norm, batch_norm_backward, finish_gradients, flat, linear,
    linear_backward_input, linear_backward_weight, parameters,
};
use crate::backend::cost;
use crate::backend::{Backend, ClassLoss, DnaAffine, DnaConv, DnaConvGrads, Gate, Tensor};
use crate::config::GateKind;
use crate::error::Result;
use crate::models::Speid;
use crate::rng::Dropout;

/// Cases by name, in the order of a step.
pub fn all<B: Backend>() -> Vec<(&'static str, Build<B>)> {
    vec![
        ("speid_dna_conv", dna_conv),
        ("speid_dna_conv_backward", dna_conv_backward),
        ("speid_batch_norm", |m| batch_norm(m, positions(m, m.size.speid.kernels))),
        ("speid_batch_norm_backward", |m| batch_norm_backward(m, positions(m, m.size.speid.kernels))),
        ("speid_dropout", dropout),
        ("speid_lstm", |m| lstm::forward(m, layer(m), true)),
        ("speid_lstm_evaluate", |m| lstm::forward(m, layer(m), false)),
        ("speid_lstm_backward", |m| lstm::backward(m, layer(m))),
        ("speid_linear_dense", |m| linear(m, dense(m))),
        ("speid_linear_dense_backward_input", |m| linear_backward_input(m, dense(m))),
        ("speid_linear_dense_backward_weight", |m| linear_backward_weight(m, dense(m))),
        ("speid_binary_cross_entropy", binary_cross_entropy),
        ("speid_weighted_sum", weighted_sum),
        ("speid_l2_penalty", l2_penalty),
        ("speid_finish_gradients", |m| finish_gradients(m, all_parameters(m))),
        ("speid_adam", |m| adam(m, all_parameters(m))),
    ]
}

/// `[B,T,channels]`: what pooling leaves of both windows.
fn positions<B: Backend>(m: &Maker<B>, channels: usize) -> [usize; 3] {
    let spec = conv(m);
    [m.size.batch, spec.pooled_length(m.size.enhancer_length) + spec.pooled_length(m.size.promoter_length), channels]
}
fn conv<B: Backend>(m: &Maker<B>) -> DnaConv {
    let c = &m.size.speid;
    let (channels, kernel) = (c.kernels, c.kernel_size);
    DnaConv { channels, kernel, pool: c.pool, train: true, eps: 0.0, momentum: 0.0, dropout: None }
}
fn layer<B: Backend>(m: &Maker<B>) -> Layer {
    let c = &m.size.speid;
    let gate = match c.gate {
        GateKind::Sigmoid => Gate::Sigmoid,
        GateKind::HardSigmoid => Gate::HardSigmoid,
    };
    Layer { shape: positions(m, c.kernels), hidden: c.hidden, gate }
}
fn dense<B: Backend>(m: &Maker<B>) -> Map {
    let [batch, time, width] = positions(m, 2 * m.size.speid.hidden);
    (batch, time * width, m.size.speid.dense, false)
}
fn all_parameters<B: Backend>(m: &Maker<B>) -> usize {
    parameters(m, &Speid::new(m.size.speid.clone()))
}

/// The enhancer's convolution: sequence, settings, weight and bias.
struct DnaInputs<B: Backend> {
    dna: B::Dna,
    spec: DnaConv,
    weight: Tensor<B>,
    bias: Tensor<B>,
    shape: [usize; 2],
}

impl<B: Backend> DnaInputs<B> {
    fn new(m: &Maker<B>) -> Result<Self> {
        let (spec, shape) = (conv(m), [m.size.batch, m.size.enhancer_length]);
        let dna = m.b.upload_dna(&crate::bench::step::random_dna(shape[0], shape[1], 5))?;
        let (channels, kernel) = (spec.channels, spec.kernel);
        let weight = m.weight(&[channels, 4, kernel], 4 * kernel)?;
        Ok(DnaInputs { dna, spec, weight, bias: m.normal(&[channels])?, shape })
    }
}

fn dna_conv<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let (i, step) = (DnaInputs::new(m)?, m.step.clone());
    m.case(i.shape, cost::dna_conv(i.shape[0], i.shape[1], &i.spec), move |b| {
        b.dna_conv(&i.dna, &i.spec, &i.weight, DnaAffine::Bias(&i.bias), &step).map(|(out, _)| vec![out])
    })
}
fn dna_conv_backward<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let (i, step) = (DnaInputs::new(m)?, m.step.clone());
    let (out, saved) = m.b.dna_conv(&i.dna, &i.spec, &i.weight, DnaAffine::Bias(&i.bias), &step)?;
    let dout = m.normal(out.shape())?;
    let slots = [m.b.zeros(i.weight.shape())?, m.b.zeros(i.bias.shape())?];
    m.case(i.shape, cost::dna_conv_backward(i.shape[0], i.shape[1], &i.spec), move |b| {
        let grads = DnaConvGrads { dweight: Some(&slots[0]), dgamma: None, dbeta: Some(&slots[1]) };
        let affine = DnaAffine::Bias(&i.bias);
        b.dna_conv_backward(&i.dna, &i.spec, &i.weight, affine, &saved, &dout, grads, &step)?;
        Ok(slots.to_vec())
    })
}

fn dropout<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let (inp, step) = (m.normal(&positions(m, m.size.speid.kernels))?, m.step.clone());
    let dropout = Dropout { probability: m.size.speid.dropout_conv, seed: 1, stream: 1 };
    m.case(inp.shape().to_vec(), cost::elementwise(inp.len(), 1, 2), move |b| {
        Ok(vec![b.dropout(&inp, &dropout, &step)?])
    })
}

/// Loss and gradient.
fn binary_cross_entropy<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let (logits, labels, weights) = (m.normal(&[m.size.batch, 1])?, m.labels()?, m.ones(m.size.batch)?);
    let (dloss, kind) = (m.ones(1)?, ClassLoss::BinaryCrossEntropy);
    m.case(logits.shape().to_vec(), cost::elementwise(logits.len(), 8, 6), move |b| -> Result<Outputs<B>> {
        let (loss, p) = b.class_loss(&logits, &labels, &weights, kind)?;
        Ok(vec![loss, b.class_loss_backward(&p, &labels, &weights, &dloss, kind)?, p])
    })
}
fn weighted_sum<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let terms = [m.normal(&[1])?, m.normal(&[1])?];
    m.case([1], cost::elementwise(1, 4, 3), move |b| Ok(vec![b.weighted_sum(&[&terms[0], &terms[1]], &[1.0, 0.5])?]))
}
fn l2_penalty<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let (shape, mut ranges) = flat(all_parameters(m));
    ranges[0].l2 = 1e-5;
    let params = m.normal(&shape)?;
    m.case(shape, cost::elementwise(shape[0], 2, 1), move |b| Ok(vec![b.l2_penalty(&params, &ranges)?]))
}
