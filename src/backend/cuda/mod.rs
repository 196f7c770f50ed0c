//! The `cuda` backend: hand-written kernels on a GPU, or on the emulator through the same launches.
//!
//! One launcher file per kernel file; `device` knows no operator. Tensors are f32; `--precision bf16` rounds the inputs of
//! the products to bf16 inside, with f32 accumulation and f32 master weights.

pub mod device;

/// Starts a kernel: `launch!(cuda, name, blocks, threads, shared bytes; arguments…)`.
macro_rules! launch {
    ($cuda:expr, $kernel:expr, $blocks:expr, $threads:expr, $shared:expr; $($arg:expr),* $(,)?) => {
        // SAFETY: sizes of the arguments are checked by the device; every launcher has checked its shapes against the
        // kernel's contract, and the addresses are those of tensors and scratch memory that outlive the call.
        unsafe {
            $cuda.device().launch(
                $kernel,
                $crate::backend::cuda::device::Grid::new($blocks, $threads).shared($shared),
                $crate::args![$($arg),*],
            )
        }
    };
}

mod adam;
mod attention;
mod autoencoder;
mod batch_norm;
mod conv1d;
mod dna_conv;
mod elementwise;
mod gather;
mod gemm;
mod loss;
mod lstm;
mod params;
mod peak;
mod pool;
mod readout;

pub use lstm::LstmVariant;

use super::*;
use crate::error::Error;
use conv1d::Then;
use device::{Device, Flavour, Memory};
use std::sync::Arc;

/// A tensor of this backend.
type T = Tensor<Cuda>;
/// The step record on the device.
type Step = Arc<Memory>;

/// Type of the inputs of products; accumulation, activations and master weights are f32 in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    #[default]
    F32,
    Bf16,
}

/// The CUDA backend on one device.
#[derive(Clone)]
pub struct Cuda {
    device: Arc<Device>,
    precision: Precision,
    lstm: LstmVariant,
    /// Models that run on the card at the same time.
    models: usize,
    tables: Arc<adam::Tables>,
}

impl Cuda {
    /// Opens GPU number `index`; see [`Device::cuda`] for the errors.
    pub fn open(index: usize) -> Result<Cuda> {
        Device::cuda(index).map(Self::on)
    }
    /// Opens the emulator; see [`Device::emulator`].
    pub fn emulator(flavour: Flavour, seed: u64) -> Result<Cuda> {
        Device::emulator(flavour, seed).map(Self::on)
    }
    /// A device that does nothing and notes what a card with so many multiprocessors would be asked.
    pub fn noting(multiprocessors: usize) -> Result<Cuda> {
        Device::emulator(Flavour::Note { multiprocessors }, 0).map(Self::on)
    }
    /// The backend on an open device, in f32.
    pub fn on(device: Arc<Device>) -> Cuda {
        Cuda { device, precision: Precision::F32, lstm: LstmVariant::Auto, models: 1, tables: Arc::default() }
    }
    /// The same with another precision.
    pub fn with_precision(self, precision: Precision) -> Cuda {
        Cuda { precision, ..self }
    }
    /// The same with a fixed choice of the recurrence.
    pub fn with_lstm(self, lstm: LstmVariant) -> Cuda {
        Cuda { lstm, ..self }
    }
    /// The same for one of `models` that run on the card at the same time: variants that leave room for the others. The same bits in
    /// f32; in bf16 those of any other number above 1.
    pub fn among(self, models: usize) -> Cuda {
        Cuda { models, ..self }
    }
    /// Another context on the same device, with its own stream and memory.
    ///
    /// # Errors
    /// As of [`Device::cuda`] and [`Device::emulator`].
    pub fn again(&self) -> Result<Cuda> {
        Ok(Cuda { device: self.device.again()?, tables: Arc::default(), ..self.clone() })
    }
    /// The device underneath.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }
    /// What products round their inputs to.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// A tensor whose content the caller is about to write.
    fn empty(&self, shape: &[usize]) -> Result<T> {
        let memory = self.scratch::<f32>(shape.iter().product())?;
        Ok(Tensor::new(Arc::new(memory), shape, DType::F32))
    }
    /// Memory for `count` values of `E`.
    fn scratch<E>(&self, count: usize) -> Result<Memory> {
        self.device.alloc((count * size_of::<E>()).max(1))
    }
    /// Memory with these values.
    fn upload<E: bytemuck::Pod>(&self, values: &[E]) -> Result<Memory> {
        let memory = self.scratch::<E>(values.len())?;
        self.device.write(&memory, 0, bytemuck::cast_slice(values))?;
        Ok(memory)
    }
    /// Blocks of 256 threads for a grid-stride loop over `count` elements.
    fn spread(count: usize) -> [usize; 3] {
        [count.div_ceil(256).min(4096), 1, 1]
    }
}

/// Address of a tensor's first element.
fn at(tensor: &T) -> u64 {
    tensor.buffer().address() + (tensor.offset() * size_of::<f32>()) as u64
}

/// Address of a tensor that may be missing: 0.
fn optional(tensor: Option<&T>) -> u64 {
    tensor.map_or(0, at)
}

/// A size as kernels count it; larger ones are not supported.
fn int(op: &'static str, n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| Error::Unsupported { op, message: format!("{n} elements; at most {}", i32::MAX) })
}

/// Cuts `count` into about `wanted` chunks of at least `least`, multiples of `multiple`: chunk and number of chunks.
/// A function of the shape alone, so that sums have the same order on every card.
fn chunks(count: usize, wanted: usize, least: usize, multiple: usize) -> (usize, usize) {
    let chunk = count.div_ceil(wanted.max(1)).max(least).next_multiple_of(multiple);
    (chunk, count.div_ceil(chunk).max(1))
}

impl Backend for Cuda {
    type Buffer = Arc<Memory>;
    type Dna = dna_conv::Dna;
    type Step = Step;
    type DnaConvSaved = dna_conv::Saved;
    type MaxPoolSaved = pool::Winners;
    type LstmSaved = lstm::Saved;
    type Resident = gather::Resident;
    type Graph = device::Graph;

    fn name(&self) -> String {
        let precision = match self.precision {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        };
        format!("{} {precision}", self.device.name())
    }
    fn ceilings(&self) -> Result<Option<cost::Ceilings>> {
        peak::ceilings(self)
    }
    fn peak_memory(&self) -> Option<usize> {
        Some(self.device.usage().peak)
    }
    fn dtype(&self) -> DType {
        DType::F32
    }
    fn zeros(&self, shape: &[usize]) -> Result<Tensor<Self>> {
        let tensor = self.empty(shape)?;
        self.device.fill(tensor.buffer(), 0, 0, tensor.len() * size_of::<f32>())?;
        Ok(tensor)
    }
    fn from_f64(&self, values: &[f64], shape: &[usize]) -> Result<Tensor<Self>> {
        self.from_f32(&values.iter().map(|&x| x as f32).collect::<Vec<_>>(), shape)
    }
    fn from_f32(&self, values: &[f32], shape: &[usize]) -> Result<Tensor<Self>> {
        if values.len() != shape.iter().product::<usize>() {
            return Err(Error::shape("upload", format!("{} values do not fill shape {shape:?}", values.len())));
        }
        Ok(Tensor::new(Arc::new(self.upload(values)?), shape, DType::F32))
    }
    fn to_f32(&self, tensor: &Tensor<Self>) -> Result<Vec<f32>> {
        let mut values = vec![0f32; tensor.len()];
        let offset = tensor.offset() * size_of::<f32>();
        self.device.read(bytemuck::cast_slice_mut(&mut values), tensor.buffer(), offset)?;
        Ok(values)
    }
    fn to_f64(&self, tensor: &Tensor<Self>) -> Result<Vec<f64>> {
        Ok(self.to_f32(tensor)?.into_iter().map(f64::from).collect())
    }
    fn upload_dna(&self, batch: &DnaBatch) -> Result<Self::Dna> {
        dna_conv::upload(self, batch)
    }
    fn new_step(&self) -> Result<Self::Step> {
        let step = Arc::new(self.scratch::<StepState>(1)?);
        self.write_step(&step, &StepState::default())?;
        Ok(step)
    }
    fn write_step(&self, step: &Self::Step, state: &StepState) -> Result<()> {
        launch!(self, "write_step", [1, 1, 1], 32, 0; *state, step.address())
    }
    fn upload_windows(&self, set: &WindowSet<'_>, reserve: usize) -> Result<Option<Self::Resident>> {
        gather::upload(self, set, reserve)
    }
    fn with_order(&self, resident: &Self::Resident, order: &Order) -> Result<Self::Resident> {
        gather::with_order(self, resident, order)
    }
    fn gather(&self, resident: &Self::Resident, batch: usize, step: &Self::Step) -> Result<Gathered<Self>> {
        gather::gather(self, resident, batch, step)
    }
    fn log_value(&self, history: &Tensor<Self>, value: &Tensor<Self>, step: &Self::Step) -> Result<()> {
        let slots = int("log_value", history.len())?;
        launch!(self, "log_value", [1, 1, 1], 32, 0; slots, step.address(), at(value), at(history))
    }
    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Self::Graph>> {
        self.device.capture(work).map(Some)
    }
    fn replay(&self, graph: &Self::Graph) -> Result<()> {
        graph.replay()
    }
    fn fill_zero(&self, dst: &Tensor<Self>) -> Result<()> {
        elementwise::fill_zero(self, dst)
    }
    fn copy(&self, dst: &Tensor<Self>, src: &Tensor<Self>) -> Result<()> {
        elementwise::combine(self, "copy", "copy_elements", dst, src)
    }
    fn add_assign(&self, dst: &Tensor<Self>, src: &Tensor<Self>) -> Result<()> {
        elementwise::combine(self, "add_assign", "add_assign", dst, src)
    }
    fn synchronize(&self) -> Result<()> {
        self.device.synchronize()
    }
    fn dna_conv(
        &self,
        dna: &Self::Dna,
        spec: &DnaConv,
        weight: &Tensor<Self>,
        affine: DnaAffine<'_, Self>,
        step: &Self::Step,
    ) -> Result<(Tensor<Self>, Self::DnaConvSaved)> {
        dna_conv::forward(self, dna, spec, weight, affine, step)
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
        dna_conv::backward(self, dna, spec, weight, affine, saved, dout, grads, step)
    }
    fn conv1d(
        &self,
        inp: &Tensor<Self>,
        weight: &Tensor<Self>,
        bias: Option<&Tensor<Self>>,
        leaky: Option<f32>,
        spec: Conv1d,
    ) -> Result<Tensor<Self>> {
        conv1d::forward(self, "conv1d", inp, weight, bias, Then::leaky(leaky), spec)
    }
    fn conv1d_backward_input(
        &self,
        dout: &Tensor<Self>,
        weight: &Tensor<Self>,
        spec: Conv1d,
        length: usize,
    ) -> Result<Tensor<Self>> {
        conv1d::transposed(self, "conv1d_backward_input", dout, weight, None, Then::Nothing, spec, length)
    }
    fn conv1d_backward_leaky(
        &self,
        dout: &Tensor<Self>,
        weight: &Tensor<Self>,
        spec: Conv1d,
        inp: &Tensor<Self>,
        slope: f32,
    ) -> Result<Tensor<Self>> {
        const OP: &str = "conv1d_backward_leaky";
        let [_, length, _] = inp.dims(OP)?;
        conv1d::transposed(self, OP, dout, weight, None, Then::Through(inp, slope), spec, length)
    }
    fn conv1d_backward_weight(
        &self,
        inp: &Tensor<Self>,
        dout: &Tensor<Self>,
        spec: Conv1d,
        dweight: Option<&Tensor<Self>>,
        dbias: Option<&Tensor<Self>>,
    ) -> Result<()> {
        conv1d::backward_weight(self, inp, dout, spec, dweight, dbias)
    }
    fn dna_conv1d(
        &self,
        dna: &Self::Dna,
        weight: &Tensor<Self>,
        bias: Option<&Tensor<Self>>,
        leaky: Option<f32>,
        spec: Conv1d,
    ) -> Result<Tensor<Self>> {
        conv1d::dna_forward(self, dna, weight, bias, leaky, spec)
    }
    fn dna_conv1d_backward_weight(
        &self,
        dna: &Self::Dna,
        dout: &Tensor<Self>,
        spec: Conv1d,
        dweight: Option<&Tensor<Self>>,
        dbias: Option<&Tensor<Self>>,
    ) -> Result<()> {
        conv1d::dna_backward_weight(self, dna, dout, spec, dweight, dbias)
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
        conv1d::transposed(self, "conv_transpose1d", inp, weight, bias, Then::leaky(leaky), spec, length)
    }
    fn conv_transpose1d_backward_leaky(
        &self,
        dout: &Tensor<Self>,
        weight: &Tensor<Self>,
        spec: Conv1d,
        inp: &Tensor<Self>,
        slope: f32,
    ) -> Result<Tensor<Self>> {
        let op = "conv_transpose1d_backward_leaky";
        conv1d::forward(self, op, dout, weight, None, Then::Through(inp, slope), spec)
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
        batch_norm::forward(self, inp, gamma, beta, running_mean, running_var, spec)
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
        batch_norm::backward(self, inp, gamma, saved, dout, spec, dgamma, dbeta)
    }
    fn max_pool(&self, inp: &Tensor<Self>, size: usize) -> Result<(Tensor<Self>, Self::MaxPoolSaved)> {
        pool::forward(self, inp, size)
    }
    fn max_pool_backward(
        &self,
        dout: &Tensor<Self>,
        saved: &Self::MaxPoolSaved,
        size: usize,
        length: usize,
    ) -> Result<Tensor<Self>> {
        pool::backward(self, dout, saved, size, length)
    }
    fn linear(
        &self,
        inp: &Tensor<Self>,
        weight: &Tensor<Self>,
        bias: Option<&Tensor<Self>>,
        relu: bool,
    ) -> Result<Tensor<Self>> {
        gemm::forward(self, inp, weight, bias, relu)
    }
    fn linear_backward_input(&self, dout: &Tensor<Self>, weight: &Tensor<Self>) -> Result<Tensor<Self>> {
        gemm::backward_input(self, dout, weight)
    }
    fn linear_backward_weight(
        &self,
        inp: &Tensor<Self>,
        dout: &Tensor<Self>,
        dweight: Option<&Tensor<Self>>,
        dbias: Option<&Tensor<Self>>,
    ) -> Result<()> {
        gemm::backward_weight(self, inp, dout, dweight, dbias)
    }
    fn lstm(
        &self,
        inp: &Tensor<Self>,
        weights: &[LstmWeights<Self>; 2],
        gate: Gate,
        save: bool,
    ) -> Result<(Tensor<Self>, Option<Self::LstmSaved>)> {
        lstm::forward(self, inp, weights, gate, save)
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
        lstm::backward(self, inp, weights, gate, saved, dout, grads, need_input)
    }
    fn attention(
        &self,
        qkv: &Tensor<Self>,
        spec: &Attention,
        step: &Self::Step,
    ) -> Result<(Tensor<Self>, Tensor<Self>)> {
        attention::forward(self, qkv, spec, step)
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
        attention::backward(self, &qkv, out, lse, dout, spec, step)
    }
    fn relu(&self, inp: &Tensor<Self>) -> Result<Tensor<Self>> {
        elementwise::relu(self, inp)
    }
    fn relu_backward(&self, out: &Tensor<Self>, dout: &Tensor<Self>) -> Result<Tensor<Self>> {
        elementwise::relu_backward(self, out, dout)
    }
    fn leaky_relu(&self, inp: &Tensor<Self>, slope: f32) -> Result<Tensor<Self>> {
        elementwise::leaky_relu(self, inp, slope)
    }
    fn leaky_relu_backward(&self, out: &Tensor<Self>, dout: &Tensor<Self>, slope: f32) -> Result<Tensor<Self>> {
        elementwise::leaky_relu_backward(self, out, dout, slope)
    }
    fn dropout(&self, inp: &Tensor<Self>, dropout: &Dropout, step: &Self::Step) -> Result<Tensor<Self>> {
        elementwise::dropout(self, inp, dropout, step)
    }
    fn concat_length(&self, parts: &[&Tensor<Self>]) -> Result<Tensor<Self>> {
        elementwise::concat_length(self, parts)
    }
    fn slice_length(&self, inp: &Tensor<Self>, start: usize, length: usize) -> Result<Tensor<Self>> {
        elementwise::slice_length(self, inp, start, length)
    }
    fn swap_leading(&self, inp: &Tensor<Self>) -> Result<Tensor<Self>> {
        elementwise::swap_leading(self, inp)
    }
    fn swap_trailing(&self, inp: &Tensor<Self>) -> Result<Tensor<Self>> {
        elementwise::swap_trailing(self, inp)
    }
    fn position_sum(&self, inp: &Tensor<Self>) -> Result<Tensor<Self>> {
        elementwise::position_sum(self, inp)
    }
    fn position_sum_backward(&self, dout: &Tensor<Self>, length: usize) -> Result<Tensor<Self>> {
        elementwise::position_sum_backward(self, dout, length)
    }
    fn readout_norm(&self, inp: &Tensor<Self>, mode: ReadoutNorm) -> Result<(Tensor<Self>, Tensor<Self>)> {
        readout::forward(self, inp, mode)
    }
    fn readout_norm_backward(
        &self,
        out: &Tensor<Self>,
        saved: &Tensor<Self>,
        dout: &Tensor<Self>,
        mode: ReadoutNorm,
    ) -> Result<Tensor<Self>> {
        readout::backward(self, out, saved, dout, mode)
    }
    fn class_loss(
        &self,
        logits: &Tensor<Self>,
        labels: &Tensor<Self>,
        weights: &Tensor<Self>,
        kind: ClassLoss,
    ) -> Result<(Tensor<Self>, Tensor<Self>)> {
        loss::forward(self, logits, labels, weights, kind)
    }
    fn class_loss_backward(
        &self,
        probabilities: &Tensor<Self>,
        labels: &Tensor<Self>,
        weights: &Tensor<Self>,
        dloss: &Tensor<Self>,
        kind: ClassLoss,
    ) -> Result<Tensor<Self>> {
        loss::backward(self, probabilities, labels, weights, dloss, kind)
    }
    fn softmax(&self, logits: &Tensor<Self>) -> Result<Tensor<Self>> {
        loss::softmax(self, logits)
    }
    fn weighted_sum(&self, terms: &[&Tensor<Self>], factors: &[f32]) -> Result<Tensor<Self>> {
        elementwise::weighted_sum(self, terms, factors)
    }
    fn l2_penalty(&self, params: &Tensor<Self>, ranges: &[Range]) -> Result<Tensor<Self>> {
        adam::l2_penalty(self, params, ranges)
    }
    fn reconstruction(&self, recon: &Tensor<Self>, dna: &Self::Dna) -> Result<Tensor<Self>> {
        autoencoder::reconstruction(self, recon, dna)
    }
    fn reconstruction_backward(
        &self,
        recon: &Tensor<Self>,
        dna: &Self::Dna,
        dsquares: &Tensor<Self>,
    ) -> Result<Tensor<Self>> {
        autoencoder::reconstruction_backward(self, recon, dna, dsquares)
    }
    fn sample_normal(
        &self,
        mean: &Tensor<Self>,
        log_variance: &Tensor<Self>,
        noise: &Noise,
        step: &Self::Step,
    ) -> Result<Tensor<Self>> {
        autoencoder::sample_normal(self, mean, log_variance, noise, step)
    }
    fn sample_normal_backward(
        &self,
        log_variance: &Tensor<Self>,
        dout: &Tensor<Self>,
        noise: &Noise,
        step: &Self::Step,
    ) -> Result<Tensor<Self>> {
        autoencoder::sample_normal_backward(self, log_variance, dout, noise, step)
    }
    fn kl_divergence(&self, mean: &Tensor<Self>, log_variance: &Tensor<Self>) -> Result<Tensor<Self>> {
        autoencoder::kl_divergence(self, mean, log_variance)
    }
    fn kl_divergence_backward(
        &self,
        mean: &Tensor<Self>,
        log_variance: &Tensor<Self>,
        dkl: &Tensor<Self>,
    ) -> Result<(Tensor<Self>, Tensor<Self>)> {
        autoencoder::kl_divergence_backward(self, mean, log_variance, dkl)
    }
    fn finish_gradients(&self, params: &Tensor<Self>, grads: &Tensor<Self>, ranges: &[Range]) -> Result<Tensor<Self>> {
        adam::finish_gradients(self, params, grads, ranges)
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
        adam::adam(self, params, grads, m, v, norm, ranges, adam, step)
    }
}
