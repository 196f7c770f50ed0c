//! The oracle: plain loops, generic over f32 and f64, never optimised.

mod adam;
mod attention;
mod autoencoder;
mod batch_norm;
mod conv1d;
mod dna_conv;
mod elementwise;
mod gather;
mod linear;
mod loss;
mod lstm;
mod memory;
mod pool;
mod readout;
mod real;

pub use memory::{Buffer, Step};
pub use real::Real;

use super::*;
use crate::error::Error;
use memory::{accumulate, read, tensor, update, upload};
use std::marker::PhantomData;
use std::sync::Arc;

/// The reference backend in arithmetic `T`.
pub struct Reference<T: Real>(PhantomData<T>);

impl<T: Real> Reference<T> {
    /// The backend; it has no state.
    pub fn new() -> Self {
        Reference(PhantomData)
    }
}

impl<T: Real> Default for Reference<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Real> Clone for Reference<T> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

fn same_length<T: Real>(op: &'static str, dst: &Tensor<Reference<T>>, src: &Tensor<Reference<T>>) -> Result<()> {
    if dst.len() == src.len() {
        return Ok(());
    }
    Err(Error::shape(op, format!("{:?} and {:?} differ in length", dst.shape(), src.shape())))
}

impl<T: Real> Backend for Reference<T> {
    type Buffer = Buffer<T>;
    type Dna = Arc<DnaBatch>;
    type Step = Step;
    type DnaConvSaved = dna_conv::Saved<T>;
    type MaxPoolSaved = pool::Winners;
    type LstmSaved = lstm::Saved<T>;
    type Resident = gather::Resident;
    type Graph = std::convert::Infallible;

    fn name(&self) -> String {
        format!("reference {}", T::NAME)
    }
    fn dtype(&self) -> DType {
        T::DTYPE
    }
    fn zeros(&self, shape: &[usize]) -> Result<Tensor<Self>> {
        Ok(tensor(vec![T::ZERO; shape.iter().product()], shape))
    }
    fn from_f64(&self, values: &[f64], shape: &[usize]) -> Result<Tensor<Self>> {
        upload(values.iter().map(|&x| T::of(x)), shape)
    }
    fn from_f32(&self, values: &[f32], shape: &[usize]) -> Result<Tensor<Self>> {
        upload(values.iter().map(|&x| T::of(x.into())), shape)
    }
    fn to_f32(&self, tensor: &Tensor<Self>) -> Result<Vec<f32>> {
        Ok(read(tensor).into_iter().map(|x| x.f64() as f32).collect())
    }
    fn to_f64(&self, tensor: &Tensor<Self>) -> Result<Vec<f64>> {
        Ok(read(tensor).into_iter().map(T::f64).collect())
    }
    fn upload_dna(&self, batch: &DnaBatch) -> Result<Self::Dna> {
        Ok(Arc::new(batch.clone()))
    }
    fn new_step(&self) -> Result<Self::Step> {
        Ok(Step::default())
    }
    fn write_step(&self, step: &Self::Step, state: &StepState) -> Result<()> {
        step.write(state);
        Ok(())
    }
    fn fill_zero(&self, dst: &Tensor<Self>) -> Result<()> {
        update(dst, |dst| dst.fill(T::ZERO));
        Ok(())
    }
    fn copy(&self, dst: &Tensor<Self>, src: &Tensor<Self>) -> Result<()> {
        same_length("copy", dst, src)?;
        let values = read(src);
        update(dst, |dst| dst.copy_from_slice(&values));
        Ok(())
    }
    fn add_assign(&self, dst: &Tensor<Self>, src: &Tensor<Self>) -> Result<()> {
        same_length("add_assign", dst, src)?;
        accumulate(dst, &read(src));
        Ok(())
    }
    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
    fn upload_windows(&self, set: &WindowSet<'_>, _reserve: usize) -> Result<Option<Self::Resident>> {
        Ok(Some(gather::upload(set)))
    }
    fn with_order(&self, resident: &Self::Resident, order: &Order) -> Result<Self::Resident> {
        Ok(gather::with_order(resident, order))
    }
    fn gather(&self, resident: &Self::Resident, batch: usize, step: &Self::Step) -> Result<Gathered<Self>> {
        gather::gather(resident, batch, step)
    }
    fn log_value(&self, history: &Tensor<Self>, value: &Tensor<Self>, step: &Self::Step) -> Result<()> {
        let (value, slot) = (read(value)[0], step.read().philox_step as usize % history.len());
        update(history, |history| history[slot] = value);
        Ok(())
    }
    fn replay(&self, graph: &Self::Graph) -> Result<()> {
        match *graph {}
    }
    fn dna_conv(
        &self,
        dna: &Self::Dna,
        spec: &DnaConv,
        weight: &Tensor<Self>,
        affine: DnaAffine<'_, Self>,
        step: &Self::Step,
    ) -> Result<(Tensor<Self>, Self::DnaConvSaved)> {
        dna_conv::forward(dna, spec, weight, affine, step)
    }
    fn dna_conv_backward(
        &self,
        dna: &Self::Dna,
        spec: &DnaConv,
        weight: &Tensor<Self>,
        affine: DnaAffine<'_, Self>,
        saved: &Self::DnaConvSaved,
        dout: &Tensor<Self>,
        grads: DnaConvGrads<'_, Self>,
        step: &Self::Step,
    ) -> Result<()> {
        dna_conv::backward(dna, spec, weight, affine, saved, dout, grads, step)
    }
    fn conv1d(
        &self,
        inp: &Tensor<Self>,
        weight: &Tensor<Self>,
        bias: Option<&Tensor<Self>>,
        leaky: Option<f32>,
        spec: Conv1d,
    ) -> Result<Tensor<Self>> {
        conv1d::forward(inp, weight, bias, leaky, spec)
    }
    fn conv1d_backward_input(
        &self,
        dout: &Tensor<Self>,
        weight: &Tensor<Self>,
        spec: Conv1d,
        length: usize,
    ) -> Result<Tensor<Self>> {
        conv1d::transposed("conv1d_backward_input", dout, weight, None, None, spec, length)
    }
    fn conv1d_backward_weight(
        &self,
        inp: &Tensor<Self>,
        dout: &Tensor<Self>,
        spec: Conv1d,
        dweight: Option<&Tensor<Self>>,
        dbias: Option<&Tensor<Self>>,
    ) -> Result<()> {
        conv1d::backward_weight(inp, dout, spec, dweight, dbias)
    }
    fn dna_conv1d(
        &self,
        dna: &Self::Dna,
        weight: &Tensor<Self>,
        bias: Option<&Tensor<Self>>,
        leaky: Option<f32>,
        spec: Conv1d,
    ) -> Result<Tensor<Self>> {
        conv1d::dna_forward(dna, weight, bias, leaky, spec)
    }
    fn dna_conv1d_backward_weight(
        &self,
        dna: &Self::Dna,
        dout: &Tensor<Self>,
        spec: Conv1d,
        dweight: Option<&Tensor<Self>>,
        dbias: Option<&Tensor<Self>>,
    ) -> Result<()> {
        conv1d::dna_backward_weight(dna, dout, spec, dweight, dbias)
    }
    fn conv_transpose1d(
        &self,
        inp: &Tensor<Self>,
        weight: &Tensor<Self>,
        bias: Option<&Tensor<Self>>,
        leaky: Option<f32>,
        spec: Conv1d,
        length: usize,
    ) -> Result<Tensor<Self>> {
        conv1d::transposed("conv_transpose1d", inp, weight, bias, leaky, spec, length)
    }
    fn batch_norm(
        &self,
        inp: &Tensor<Self>,
        gamma: &Tensor<Self>,
        beta: &Tensor<Self>,
        running_mean: &Tensor<Self>,
        running_var: &Tensor<Self>,
        spec: BatchNorm,
    ) -> Result<(Tensor<Self>, Tensor<Self>)> {
        batch_norm::forward(inp, gamma, beta, running_mean, running_var, spec)
    }
    fn batch_norm_backward(
        &self,
        inp: &Tensor<Self>,
        gamma: &Tensor<Self>,
        saved: &Tensor<Self>,
        dout: &Tensor<Self>,
        spec: BatchNorm,
        dgamma: Option<&Tensor<Self>>,
        dbeta: Option<&Tensor<Self>>,
    ) -> Result<Tensor<Self>> {
        batch_norm::backward(inp, gamma, saved, dout, spec, dgamma, dbeta)
    }
    fn max_pool(&self, inp: &Tensor<Self>, size: usize) -> Result<(Tensor<Self>, Self::MaxPoolSaved)> {
        pool::forward(inp, size)
    }
    fn max_pool_backward(
        &self,
        dout: &Tensor<Self>,
        saved: &Self::MaxPoolSaved,
        size: usize,
        length: usize,
    ) -> Result<Tensor<Self>> {
        pool::backward(dout, saved, size, length)
    }
    fn linear(
        &self,
        inp: &Tensor<Self>,
        weight: &Tensor<Self>,
        bias: Option<&Tensor<Self>>,
        relu: bool,
    ) -> Result<Tensor<Self>> {
        linear::forward(inp, weight, bias, relu)
    }
    fn linear_backward_input(&self, dout: &Tensor<Self>, weight: &Tensor<Self>) -> Result<Tensor<Self>> {
        linear::backward_input(dout, weight)
    }
    fn linear_backward_weight(
        &self,
        inp: &Tensor<Self>,
        dout: &Tensor<Self>,
        dweight: Option<&Tensor<Self>>,
        dbias: Option<&Tensor<Self>>,
    ) -> Result<()> {
        linear::backward_weight(inp, dout, dweight, dbias)
    }
    fn lstm(
        &self,
        inp: &Tensor<Self>,
        weights: &[LstmWeights<Self>; 2],
        gate: Gate,
        save: bool,
    ) -> Result<(Tensor<Self>, Option<Self::LstmSaved>)> {
        lstm::forward(inp, weights, gate, save)
    }
    fn lstm_backward(
        &self,
        inp: &Tensor<Self>,
        weights: &[LstmWeights<Self>; 2],
        gate: Gate,
        saved: Self::LstmSaved,
        dout: &Tensor<Self>,
        grads: Option<&[LstmWeights<Self>; 2]>,
        need_input: bool,
    ) -> Result<Option<Tensor<Self>>> {
        lstm::backward(inp, weights, gate, saved, dout, grads, need_input)
    }
    fn attention(
        &self,
        qkv: &Tensor<Self>,
        spec: &Attention,
        step: &Self::Step,
    ) -> Result<(Tensor<Self>, Tensor<Self>)> {
        attention::forward(qkv, spec, step)
    }
    fn attention_backward(
        &self,
        qkv: Tensor<Self>,
        out: &Tensor<Self>,
        lse: &Tensor<Self>,
        dout: &Tensor<Self>,
        spec: &Attention,
        step: &Self::Step,
    ) -> Result<Tensor<Self>> {
        attention::backward(&qkv, out, lse, dout, spec, step)
    }
    fn relu(&self, inp: &Tensor<Self>) -> Result<Tensor<Self>> {
        elementwise::relu(inp)
    }
    fn relu_backward(&self, out: &Tensor<Self>, dout: &Tensor<Self>) -> Result<Tensor<Self>> {
        elementwise::relu_backward(out, dout)
    }
    fn leaky_relu(&self, inp: &Tensor<Self>, slope: f32) -> Result<Tensor<Self>> {
        elementwise::leaky_relu(inp, slope)
    }
    fn leaky_relu_backward(&self, out: &Tensor<Self>, dout: &Tensor<Self>, slope: f32) -> Result<Tensor<Self>> {
        elementwise::leaky_relu_backward(out, dout, slope)
    }
    fn dropout(&self, inp: &Tensor<Self>, dropout: &Dropout, step: &Self::Step) -> Result<Tensor<Self>> {
        elementwise::dropout(inp, dropout, step)
    }
    fn concat_length(&self, parts: &[&Tensor<Self>]) -> Result<Tensor<Self>> {
        elementwise::concat_length(parts)
    }
    fn slice_length(&self, inp: &Tensor<Self>, start: usize, length: usize) -> Result<Tensor<Self>> {
        elementwise::slice_length(inp, start, length)
    }
    fn swap_leading(&self, inp: &Tensor<Self>) -> Result<Tensor<Self>> {
        elementwise::swap_leading(inp)
    }
    fn swap_trailing(&self, inp: &Tensor<Self>) -> Result<Tensor<Self>> {
        elementwise::swap_trailing(inp)
    }
    fn position_sum(&self, inp: &Tensor<Self>) -> Result<Tensor<Self>> {
        elementwise::position_sum(inp)
    }
    fn position_sum_backward(&self, dout: &Tensor<Self>, length: usize) -> Result<Tensor<Self>> {
        elementwise::position_sum_backward(dout, length)
    }
    fn readout_norm(&self, inp: &Tensor<Self>, mode: ReadoutNorm) -> Result<(Tensor<Self>, Tensor<Self>)> {
        readout::forward(inp, mode)
    }
    fn readout_norm_backward(
        &self,
        out: &Tensor<Self>,
        saved: &Tensor<Self>,
        dout: &Tensor<Self>,
        mode: ReadoutNorm,
    ) -> Result<Tensor<Self>> {
        readout::backward(out, saved, dout, mode)
    }
    fn class_loss(
        &self,
        logits: &Tensor<Self>,
        labels: &Tensor<Self>,
        weights: &Tensor<Self>,
        kind: ClassLoss,
    ) -> Result<(Tensor<Self>, Tensor<Self>)> {
        loss::class_loss(logits, labels, weights, kind)
    }
    fn class_loss_backward(
        &self,
        probabilities: &Tensor<Self>,
        labels: &Tensor<Self>,
        weights: &Tensor<Self>,
        dloss: &Tensor<Self>,
        kind: ClassLoss,
    ) -> Result<Tensor<Self>> {
        loss::class_loss_backward(probabilities, labels, weights, dloss, kind)
    }
    fn softmax(&self, logits: &Tensor<Self>) -> Result<Tensor<Self>> {
        loss::softmax(logits)
    }
    fn weighted_sum(&self, terms: &[&Tensor<Self>], factors: &[f32]) -> Result<Tensor<Self>> {
        elementwise::weighted_sum(terms, factors)
    }
    fn l2_penalty(&self, params: &Tensor<Self>, ranges: &[Range]) -> Result<Tensor<Self>> {
        adam::l2_penalty(params, ranges)
    }
    fn reconstruction(&self, recon: &Tensor<Self>, dna: &Self::Dna) -> Result<Tensor<Self>> {
        autoencoder::reconstruction(recon, dna)
    }
    fn reconstruction_backward(
        &self,
        recon: &Tensor<Self>,
        dna: &Self::Dna,
        dsquares: &Tensor<Self>,
    ) -> Result<Tensor<Self>> {
        autoencoder::reconstruction_backward(recon, dna, dsquares)
    }
    fn sample_normal(
        &self,
        mean: &Tensor<Self>,
        log_variance: &Tensor<Self>,
        noise: &Noise,
        step: &Self::Step,
    ) -> Result<Tensor<Self>> {
        autoencoder::sample_normal(mean, log_variance, noise, step)
    }
    fn sample_normal_backward(
        &self,
        log_variance: &Tensor<Self>,
        dout: &Tensor<Self>,
        noise: &Noise,
        step: &Self::Step,
    ) -> Result<Tensor<Self>> {
        autoencoder::sample_normal_backward(log_variance, dout, noise, step)
    }
    fn kl_divergence(&self, mean: &Tensor<Self>, log_variance: &Tensor<Self>) -> Result<Tensor<Self>> {
        autoencoder::kl_divergence(mean, log_variance)
    }
    fn kl_divergence_backward(
        &self,
        mean: &Tensor<Self>,
        log_variance: &Tensor<Self>,
        dkl: &Tensor<Self>,
    ) -> Result<(Tensor<Self>, Tensor<Self>)> {
        autoencoder::kl_divergence_backward(mean, log_variance, dkl)
    }
    fn finish_gradients(&self, params: &Tensor<Self>, grads: &Tensor<Self>, ranges: &[Range]) -> Result<Tensor<Self>> {
        adam::finish_gradients(params, grads, ranges)
    }
    fn adam(
        &self,
        params: &Tensor<Self>,
        grads: &Tensor<Self>,
        m: &Tensor<Self>,
        v: &Tensor<Self>,
        norm: &Tensor<Self>,
        ranges: &[Range],
        adam: &Adam,
        step: &Self::Step,
    ) -> Result<()> {
        adam::adam(params, grads, m, v, norm, ranges, adam, step)
    }
}
