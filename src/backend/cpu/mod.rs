//! The fast CPU backend.

// Kernels index register tiles and several arrays at once; iterators there would bring closures, which do not inherit the
// instruction set, or library calls in the place of register moves.
#![allow(clippy::needless_range_loop, clippy::manual_memcpy)]

mod adam;
mod attention;
mod attention_backward;
mod attention_copies;
mod autoencoder;
mod batch_norm;
mod conv1d;
mod dna_conv;
mod dna_counts;
mod elementwise;
mod gemm;
mod linear;
mod linear_wide;
mod loss;
mod lstm;
mod memory;
mod parallel;
mod peak;
mod pool;
mod readout;
mod simd;
mod tile;

pub use memory::Buffer;
pub use simd::Isa;

use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock};

use super::{
    Adam, Attention, Backend, BatchNorm, ClassLoss, Conv1d, DType, DnaAffine, DnaBatch, DnaConv, DnaConvGrads, Gate,
    Gathered, LstmWeights, Order, Range, ReadoutNorm, StepState,
};
use crate::error::{Error, Result};
use crate::rng::{Dropout, Noise};
use memory::Pool;
use parallel::Ptr;
use simd::Target;

type Tensor = super::Tensor<Cpu>;

/// The CPU with one instruction set, one precision of products and one pool of memory; clones share them. Work runs on the
/// current rayon pool.
#[derive(Clone)]
pub struct Cpu(Arc<Context>);

struct Context {
    isa: Isa,
    bf16: bool,
    pool: Arc<Pool>,
}

/// The step record.
#[derive(Clone, Default)]
pub struct Step(Arc<RwLock<StepState>>);

impl Step {
    /// A copy of the record.
    pub fn read(&self) -> StepState {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

impl Cpu {
    /// The best instruction set here, or the one that `EPI_CPU_ISA` names (`avx512`, `avx2`, `portable`) if it is available.
    pub fn new() -> Self {
        let wanted = std::env::var("EPI_CPU_ISA").ok();
        let named = Isa::ALL.into_iter().find(|isa| Some(isa.name()) == wanted.as_deref());
        Self::on(named.filter(|isa| isa.is_available()).unwrap_or_else(Isa::detect))
    }
    /// A given instruction set; an error when this machine lacks it.
    pub fn with_isa(isa: Isa) -> Result<Self> {
        if isa.is_available() {
            return Ok(Self::on(isa));
        }
        Err(Error::Device(format!("this machine has no {}; try EPI_CPU_ISA={}", isa.name(), Isa::detect().name())))
    }
    fn on(isa: Isa) -> Self {
        Cpu(Arc::new(Context { isa, bf16: false, pool: Arc::default() }))
    }
    /// Rounds what matrix products multiply to bf16 (`DType::BF16`), or does not. Sums and everything else are f32 either way.
    /// AVX-512 without an instruction for such products gives way to AVX2.
    pub fn with_precision(self, precision: DType) -> Self {
        let (isa, bf16) = (self.isa(), precision == DType::BF16);
        let isa = if bf16 && isa == Isa::Avx512 && !isa.has_bf16() { Isa::Avx2 } else { isa };
        Cpu(Arc::new(Context { isa, bf16, pool: self.0.pool.clone() }))
    }
    /// Whether products round to bf16 but no instruction multiplies such pairs, so that f32 is faster.
    pub fn emulates_bf16(&self) -> bool {
        self.0.bf16 && !self.isa().has_bf16()
    }
    /// The same instruction set and precision, with a pool of memory of its own.
    pub fn again(&self) -> Self {
        Cpu(Arc::new(Context { pool: Arc::default(), ..*self.0 }))
    }
    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.0.isa
    }
    /// What kernels of products are compiled for.
    fn target(&self) -> Target {
        Target { isa: self.0.isa, bf16: self.0.bf16 }
    }
    /// Floats of a vector.
    fn lanes(&self) -> usize {
        if self.isa() == Isa::Avx512 { 16 } else { 8 }
    }
    /// Columns of a packed panel.
    fn panel(&self) -> usize {
        tile::VECTORS * self.lanes()
    }
    /// Memory with unspecified content.
    fn take(&self, len: usize) -> Result<Buffer> {
        self.0.pool.take(len)
    }
    /// A tensor with unspecified content, to be written completely.
    fn fresh(&self, shape: &[usize]) -> Result<Tensor> {
        let len = shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
        let len = len.ok_or_else(|| Error::Device(format!("a tensor of shape {shape:?} does not fit into memory")))?;
        Ok(Tensor::new(self.take(len)?, shape, DType::F32))
    }
    fn filled(&self, values: &[f32], shape: &[usize]) -> Result<Tensor> {
        let out = self.fresh(shape)?;
        // SAFETY: fresh.
        unsafe { self.slot(&out) }.copy_from_slice(values);
        Ok(out)
    }
    fn read<'a>(&self, tensor: &'a Tensor) -> &'a [f32] {
        tensor.buffer().slice(tensor.offset(), tensor.len())
    }
    fn ptr(&self, tensor: &Tensor) -> Ptr {
        Ptr(tensor.buffer().as_ptr().wrapping_add(tensor.offset()))
    }
    /// # Safety
    /// `tensor` is fresh, or a slot of the current call (which overlaps nothing else, see `backend::mod`).
    #[allow(clippy::mut_from_ref)]
    unsafe fn slot<'a>(&self, tensor: &'a Tensor) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { tensor.buffer().slot(tensor.offset(), tensor.len()) }
    }
}

/// Slot `+= values`.
fn add_to(cpu: &Cpu, slot: &Tensor, values: &[f32]) {
    assert_eq!(slot.len(), values.len(), "slot and gradient differ in length");
    elementwise::add(cpu, cpu.ptr(slot), values);
}

/// `shape` with another last dimension.
fn with_last(shape: &[usize], last: usize) -> Vec<usize> {
    let mut shape = shape.to_vec();
    shape.pop();
    shape.push(last);
    shape
}

fn same_length(op: &'static str, dst: &Tensor, src: &Tensor) -> Result<()> {
    if dst.len() == src.len() {
        return Ok(());
    }
    Err(Error::shape(op, format!("{:?} and {:?} differ in length", dst.shape(), src.shape())))
}

fn expect_values(count: usize, shape: &[usize]) -> Result<()> {
    if count == shape.iter().product::<usize>() {
        return Ok(());
    }
    Err(Error::shape("upload", format!("{count} values do not fill shape {shape:?}")))
}

impl Backend for Cpu {
    type Buffer = Buffer;
    type Dna = Arc<DnaBatch>;
    type Step = Step;
    type DnaConvSaved = dna_conv::Saved;
    type MaxPoolSaved = pool::Winners;
    type LstmSaved = lstm::Saved;
    type Resident = Infallible; // its memory is where the data set is mapped
    type Graph = Infallible;

    fn name(&self) -> String {
        format!("cpu ({}, {} threads)", self.isa().name(), rayon::current_num_threads())
    }
    fn ceilings(&self) -> Result<Option<super::cost::Ceilings>> {
        Ok(Some(peak::ceilings(self)))
    }
    fn dtype(&self) -> DType {
        DType::F32
    }
    fn zeros(&self, shape: &[usize]) -> Result<Tensor> {
        let out = self.fresh(shape)?;
        self.fill_zero(&out)?;
        Ok(out)
    }
    fn from_f64(&self, values: &[f64], shape: &[usize]) -> Result<Tensor> {
        expect_values(values.len(), shape)?;
        let out = self.fresh(shape)?;
        // SAFETY: fresh.
        unsafe { self.slot(&out) }.iter_mut().zip(values).for_each(|(y, &x)| *y = x as f32);
        Ok(out)
    }
    fn from_f32(&self, values: &[f32], shape: &[usize]) -> Result<Tensor> {
        expect_values(values.len(), shape)?;
        self.filled(values, shape)
    }
    fn to_f32(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        Ok(self.read(tensor).to_vec())
    }
    fn to_f64(&self, tensor: &Tensor) -> Result<Vec<f64>> {
        Ok(self.read(tensor).iter().map(|&x| x.into()).collect())
    }
    fn upload_dna(&self, batch: &DnaBatch) -> Result<Self::Dna> {
        Ok(Arc::new(batch.clone()))
    }
    fn new_step(&self) -> Result<Step> {
        Ok(Step::default())
    }
    fn write_step(&self, step: &Step, state: &StepState) -> Result<()> {
        *step.0.write().unwrap_or_else(PoisonError::into_inner) = *state;
        Ok(())
    }
    fn with_order(&self, resident: &Infallible, _order: &Order) -> Result<Infallible> {
        match *resident {}
    }
    fn gather(&self, resident: &Infallible, _batch: usize, _step: &Step) -> Result<Gathered<Self>> {
        match *resident {}
    }
    fn log_value(&self, history: &Tensor, value: &Tensor, step: &Step) -> Result<()> {
        let (value, slot) = (self.read(value)[0], step.read().philox_step as usize % history.len());
        // SAFETY: the slot is ours.
        let history = unsafe { self.slot(history) };
        history[slot] = value;
        Ok(())
    }
    fn replay(&self, graph: &Infallible) -> Result<()> {
        match *graph {}
    }
    fn fill_zero(&self, dst: &Tensor) -> Result<()> {
        let y = self.ptr(dst);
        // SAFETY: the slot is ours, and chunks are disjoint.
        elementwise::chunks(dst.len(), |i, n| unsafe { y.slice(i, n) }.fill(0.0));
        Ok(())
    }
    fn copy(&self, dst: &Tensor, src: &Tensor) -> Result<()> {
        same_length("copy", dst, src)?;
        let (x, y) = (self.read(src), self.ptr(dst));
        // SAFETY: the slot is ours, and chunks are disjoint.
        elementwise::chunks(dst.len(), |i, n| unsafe { y.slice(i, n) }.copy_from_slice(&x[i..i + n]));
        Ok(())
    }
    fn add_assign(&self, dst: &Tensor, src: &Tensor) -> Result<()> {
        same_length("add_assign", dst, src)?;
        add_to(self, dst, self.read(src));
        Ok(())
    }
    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
    fn dna_conv(
        &self,
        dna: &Self::Dna,
        spec: &DnaConv,
        weight: &Tensor,
        affine: DnaAffine<'_, Self>,
        step: &Step,
    ) -> Result<(Tensor, Self::DnaConvSaved)> {
        dna_conv::forward(self, dna, spec, weight, affine, step)
    }
    fn dna_conv_backward(
        &self,
        dna: &Self::Dna,
        spec: &DnaConv,
        weight: &Tensor,
        affine: DnaAffine<'_, Self>,
        saved: &Self::DnaConvSaved,
        dout: &Tensor,
        grads: DnaConvGrads<'_, Self>,
        _: &Step,
    ) -> Result<()> {
        dna_conv::backward(self, dna, spec, weight, affine, saved, dout, grads)
    }
    fn conv1d(
        &self,
        inp: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        leaky: Option<f32>,
        spec: Conv1d,
    ) -> Result<Tensor> {
        conv1d::forward(self, inp, weight, bias, leaky, spec)
    }
    fn conv1d_backward_input(&self, dout: &Tensor, weight: &Tensor, spec: Conv1d, length: usize) -> Result<Tensor> {
        conv1d::transposed(self, "conv1d_backward_input", dout, weight, None, None, spec, length)
    }
    fn conv1d_backward_weight(
        &self,
        inp: &Tensor,
        dout: &Tensor,
        spec: Conv1d,
        dweight: Option<&Tensor>,
        dbias: Option<&Tensor>,
    ) -> Result<()> {
        conv1d::backward_weight(self, inp, dout, spec, dweight, dbias)
    }
    fn dna_conv1d(
        &self,
        dna: &Self::Dna,
        weight: &Tensor,
        bias: Option<&Tensor>,
        leaky: Option<f32>,
        spec: Conv1d,
    ) -> Result<Tensor> {
        conv1d::dna_forward(self, dna, weight, bias, leaky, spec)
    }
    fn dna_conv1d_backward_weight(
        &self,
        dna: &Self::Dna,
        dout: &Tensor,
        spec: Conv1d,
        dweight: Option<&Tensor>,
        dbias: Option<&Tensor>,
    ) -> Result<()> {
        conv1d::dna_backward_weight(self, dna, dout, spec, dweight, dbias)
    }
    fn conv_transpose1d(
        &self,
        inp: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        leaky: Option<f32>,
        spec: Conv1d,
        length: usize,
    ) -> Result<Tensor> {
        conv1d::transposed(self, "conv_transpose1d", inp, weight, bias, leaky, spec, length)
    }
    fn batch_norm(
        &self,
        inp: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        running_mean: &Tensor,
        running_var: &Tensor,
        spec: BatchNorm,
    ) -> Result<(Tensor, Tensor)> {
        batch_norm::forward(self, inp, gamma, beta, running_mean, running_var, spec)
    }
    fn batch_norm_backward(
        &self,
        inp: &Tensor,
        gamma: &Tensor,
        saved: &Tensor,
        dout: &Tensor,
        spec: BatchNorm,
        dgamma: Option<&Tensor>,
        dbeta: Option<&Tensor>,
    ) -> Result<Tensor> {
        batch_norm::backward(self, inp, gamma, saved, dout, spec, dgamma, dbeta)
    }
    fn max_pool(&self, inp: &Tensor, size: usize) -> Result<(Tensor, Self::MaxPoolSaved)> {
        pool::forward(self, inp, size)
    }
    fn max_pool_backward(
        &self,
        dout: &Tensor,
        saved: &Self::MaxPoolSaved,
        size: usize,
        length: usize,
    ) -> Result<Tensor> {
        pool::backward(self, dout, saved, size, length)
    }
    fn linear(&self, inp: &Tensor, weight: &Tensor, bias: Option<&Tensor>, relu: bool) -> Result<Tensor> {
        linear::forward(self, inp, weight, bias, relu)
    }
    fn linear_backward_input(&self, dout: &Tensor, weight: &Tensor) -> Result<Tensor> {
        linear::backward_input(self, dout, weight)
    }
    fn linear_backward_weight(
        &self,
        inp: &Tensor,
        dout: &Tensor,
        dweight: Option<&Tensor>,
        dbias: Option<&Tensor>,
    ) -> Result<()> {
        linear::backward_weight(self, inp, dout, dweight, dbias)
    }
    fn lstm(
        &self,
        inp: &Tensor,
        weights: &[LstmWeights<Self>; 2],
        gate: Gate,
        save: bool,
    ) -> Result<(Tensor, Option<Self::LstmSaved>)> {
        lstm::forward(self, inp, weights, gate, save)
    }
    fn lstm_backward(
        &self,
        inp: &Tensor,
        weights: &[LstmWeights<Self>; 2],
        gate: Gate,
        saved: Self::LstmSaved,
        dout: &Tensor,
        grads: Option<&[LstmWeights<Self>; 2]>,
        need_input: bool,
    ) -> Result<Option<Tensor>> {
        lstm::backward(self, inp, weights, gate, saved, dout, grads, need_input)
    }
    fn attention(&self, qkv: &Tensor, spec: &Attention, step: &Step) -> Result<(Tensor, Tensor)> {
        attention::forward(self, qkv, spec, step)
    }
    fn attention_of_copies(&self, kept: &Tensor, changed: &Tensor, from: usize, spec: &Attention) -> Result<Tensor> {
        spec.check_copies(kept, changed, from)?;
        attention_copies::forward(self, kept, changed, from, spec)
    }
    fn attention_backward(
        &self,
        qkv: Tensor,
        out: &Tensor,
        lse: &Tensor,
        dout: &Tensor,
        spec: &Attention,
        step: &Step,
    ) -> Result<Tensor> {
        attention_backward::backward(self, qkv, out, lse, dout, spec, step)
    }
    fn relu(&self, inp: &Tensor) -> Result<Tensor> {
        elementwise::relu(self, inp)
    }
    fn relu_backward(&self, out: &Tensor, dout: &Tensor) -> Result<Tensor> {
        elementwise::relu_backward(self, out, dout)
    }
    fn leaky_relu(&self, inp: &Tensor, slope: f32) -> Result<Tensor> {
        elementwise::leaky_relu(self, inp, slope)
    }
    fn leaky_relu_backward(&self, out: &Tensor, dout: &Tensor, slope: f32) -> Result<Tensor> {
        elementwise::leaky_relu_backward(self, out, dout, slope)
    }
    fn dropout(&self, inp: &Tensor, dropout: &Dropout, step: &Step) -> Result<Tensor> {
        elementwise::dropout(self, inp, dropout, step)
    }
    fn concat_length(&self, parts: &[&Tensor]) -> Result<Tensor> {
        elementwise::concat_length(self, parts)
    }
    fn slice_length(&self, inp: &Tensor, start: usize, length: usize) -> Result<Tensor> {
        elementwise::slice_length(self, inp, start, length)
    }
    fn swap_leading(&self, inp: &Tensor) -> Result<Tensor> {
        elementwise::swap_leading(self, inp)
    }
    fn swap_trailing(&self, inp: &Tensor) -> Result<Tensor> {
        elementwise::swap_trailing(self, inp)
    }
    fn position_sum(&self, inp: &Tensor) -> Result<Tensor> {
        elementwise::position_sum(self, inp)
    }
    fn position_sum_backward(&self, dout: &Tensor, length: usize) -> Result<Tensor> {
        elementwise::position_sum_backward(self, dout, length)
    }
    fn readout_norm(&self, inp: &Tensor, mode: ReadoutNorm) -> Result<(Tensor, Tensor)> {
        readout::forward(self, inp, mode)
    }
    fn readout_norm_backward(&self, out: &Tensor, saved: &Tensor, dout: &Tensor, mode: ReadoutNorm) -> Result<Tensor> {
        readout::backward(self, out, saved, dout, mode)
    }
    fn class_loss(
        &self,
        logits: &Tensor,
        labels: &Tensor,
        weights: &Tensor,
        kind: ClassLoss,
    ) -> Result<(Tensor, Tensor)> {
        loss::class_loss(self, logits, labels, weights, kind)
    }
    fn class_loss_backward(
        &self,
        probabilities: &Tensor,
        labels: &Tensor,
        weights: &Tensor,
        dloss: &Tensor,
        kind: ClassLoss,
    ) -> Result<Tensor> {
        loss::class_loss_backward(self, probabilities, labels, weights, dloss, kind)
    }
    fn softmax(&self, logits: &Tensor) -> Result<Tensor> {
        loss::softmax(self, logits)
    }
    fn weighted_sum(&self, terms: &[&Tensor], factors: &[f32]) -> Result<Tensor> {
        elementwise::weighted_sum(self, terms, factors)
    }
    fn l2_penalty(&self, params: &Tensor, ranges: &[Range]) -> Result<Tensor> {
        adam::l2_penalty(self, params, ranges)
    }
    fn reconstruction(&self, recon: &Tensor, dna: &Self::Dna) -> Result<Tensor> {
        autoencoder::reconstruction(self, recon, dna)
    }
    fn reconstruction_backward(&self, recon: &Tensor, dna: &Self::Dna, dsquares: &Tensor) -> Result<Tensor> {
        autoencoder::reconstruction_backward(self, recon, dna, dsquares)
    }
    fn sample_normal(&self, mean: &Tensor, log_variance: &Tensor, noise: &Noise, step: &Step) -> Result<Tensor> {
        autoencoder::sample_normal(self, mean, log_variance, noise, step)
    }
    fn sample_normal_backward(
        &self,
        log_variance: &Tensor,
        dout: &Tensor,
        noise: &Noise,
        step: &Step,
    ) -> Result<Tensor> {
        autoencoder::sample_normal_backward(self, log_variance, dout, noise, step)
    }
    fn kl_divergence(&self, mean: &Tensor, log_variance: &Tensor) -> Result<Tensor> {
        autoencoder::kl_divergence(self, mean, log_variance)
    }
    fn kl_divergence_backward(&self, mean: &Tensor, log_variance: &Tensor, dkl: &Tensor) -> Result<(Tensor, Tensor)> {
        autoencoder::kl_divergence_backward(self, mean, log_variance, dkl)
    }
    fn finish_gradients(&self, params: &Tensor, grads: &Tensor, ranges: &[Range]) -> Result<Tensor> {
        adam::finish_gradients(self, params, grads, ranges)
    }
    fn adam(
        &self,
        params: &Tensor,
        grads: &Tensor,
        m: &Tensor,
        v: &Tensor,
        norm: &Tensor,
        ranges: &[Range],
        adam: &Adam,
        step: &Step,
    ) -> Result<()> {
        adam::step(self, params, grads, m, v, norm, ranges, adam, step)
    }
}
