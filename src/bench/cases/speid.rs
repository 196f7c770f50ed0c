//! What SPEID adds: the convolution with a bias at its shape, its loss, and the terms of it.

use super::{Case, Maker, Outputs, flat};
use crate::backend::cost;
use crate::backend::{Backend, ClassLoss, DnaAffine, DnaConv, DnaConvGrads, Tensor};
use crate::config::SpeidConfig;
use crate::error::Result;

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
        let (c, shape) = (SpeidConfig::default(), [m.size.batch, m.size.enhancer_length]);
        let dna = m.b.upload_dna(&crate::bench::step::random_dna(shape[0], shape[1], 5))?;
        let (channels, kernel) = (c.kernels, c.kernel_size);
        let spec = DnaConv { channels, kernel, pool: c.pool, train: true, eps: 0.0, momentum: 0.0, dropout: None };
        let weight = m.weight(&[channels, 4, kernel], 4 * kernel)?;
        Ok(DnaInputs { dna, spec, weight, bias: m.normal(&[channels])?, shape })
    }
}

pub fn dna_conv_bias<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let (i, step) = (DnaInputs::new(m)?, m.step.clone());
    m.case(i.shape, cost::dna_conv(i.shape[0], i.shape[1], &i.spec), move |b| {
        b.dna_conv(&i.dna, &i.spec, &i.weight, DnaAffine::Bias(&i.bias), &step).map(|(out, _)| vec![out])
    })
}
pub fn dna_conv_bias_backward<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
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

/// Loss and gradient.
pub fn binary_cross_entropy<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let (logits, labels, weights) = (m.normal(&[m.size.batch, 1])?, m.labels()?, m.ones(m.size.batch)?);
    let (dloss, kind) = (m.ones(1)?, ClassLoss::BinaryCrossEntropy);
    m.case(logits.shape().to_vec(), cost::elementwise(logits.len(), 8, 6), move |b| -> Result<Outputs<B>> {
        let (loss, p) = b.class_loss(&logits, &labels, &weights, kind)?;
        Ok(vec![loss, b.class_loss_backward(&p, &labels, &weights, &dloss, kind)?, p])
    })
}
pub fn weighted_sum<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let terms = [m.normal(&[1])?, m.normal(&[1])?];
    m.case([1], cost::elementwise(1, 4, 3), move |b| Ok(vec![b.weighted_sum(&[&terms[0], &terms[1]], &[1.0, 0.5])?]))
}
pub fn l2_penalty<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let (shape, mut ranges) = flat(m);
    ranges[0].l2 = 1e-5;
    let params = m.normal(&shape)?;
    m.case(shape, cost::elementwise(shape[0], 2, 1), move |b| Ok(vec![b.l2_penalty(&params, &ranges)?]))
}
