//! One case per primitive, at the shapes of an EPSAT step; those that bound SPEID and EPLAE at theirs too.

mod lstm;
mod speid;

use std::cell::Cell;
use std::rc::Rc;

use crate::backend::cost::{self, Cost};
use crate::backend::{
    Adam, Attention, Backend, BatchNorm, ClassLoss, Conv1d, DnaAffine, DnaConv, DnaConvGrads, Gate, Range, ReadoutNorm,
    StepState, Tensor,
};
use crate::config::{EplaeConfig, EpsatConfig, SpeidConfig};
use crate::error::Result;
use crate::models::{Epsat, Model};
use crate::nn::Spec;
use crate::rng::{Dropout, Stream};

/// What an execution yields: everything that can be checked.
pub type Outputs<B> = Vec<Tensor<B>>;
/// One execution, its inputs ready.
pub type Run<B> = Box<dyn FnOnce() -> Result<Outputs<B>>>;

/// A primitive with inputs on the device.
pub struct Case<B: Backend> {
    /// Shape of the main input, and what else the cost depends on.
    pub shape: String,
    pub cost: Cost,
    /// Readies an execution; not timed.
    pub prepare: Box<dyn Fn() -> Result<Run<B>>>,
}

/// Makes one case.
pub type Build<B> = fn(&Maker<B>) -> Result<Case<B>>;

/// Sizes of the step that the cases are taken from.
#[derive(Clone, Debug)]
pub struct Size {
    pub batch: usize,
    pub enhancer_length: usize,
    pub promoter_length: usize,
    pub model: EpsatConfig,
    /// The network whose cases begin with `speid_`.
    pub speid: SpeidConfig,
    /// The autoencoder whose cases begin with `eplae_`.
    pub autoencoder: EplaeConfig,
}

impl Size {
    /// The same model on two short windows: small enough for plain loops, and no tile divides it.
    pub fn small(&self) -> Size {
        let full = &self.autoencoder;
        let autoencoder = EplaeConfig { filters: full.filters.min(26), units: full.units.min(33), ..full.clone() };
        let speid = SpeidConfig { dense: self.speid.dense.min(37), ..self.speid.clone() };
        Size { batch: 3, enhancer_length: 131, promoter_length: 109, model: self.model.clone(), speid, autoencoder }
    }
    fn pooled(&self, length: usize) -> usize {
        (length + 1).saturating_sub(self.model.kernel_size) / self.model.pool
    }
    /// Positions after pooling, both windows.
    pub fn positions(&self) -> usize {
        self.pooled(self.enhancer_length) + self.pooled(self.promoter_length)
    }
}

/// Inputs of cases: normal numbers, the same on every backend.
pub struct Maker<B: Backend> {
    pub(super) b: B,
    pub(super) size: Size,
    step: B::Step,
    normals: Rc<Vec<f32>>,
    next: Cell<usize>,
}

impl<B: Backend> Maker<B> {
    /// For cases of `size` on `b`.
    pub fn new(b: &B, size: &Size) -> Result<Self> {
        let (step, mut stream) = (b.new_step()?, Stream::new(7, 0, 0));
        let state = StepState {
            step: 4,
            philox_step: 4,
            lr: 1e-3,
            bias_correction1: 0.34,
            bias_correction2: 0.004,
            batch_cursor: 0,
            epoch: 0,
        };
        b.write_step(&step, &state)?;
        let normals = Rc::new((0..65_537).map(|_| stream.normal() as f32).collect());
        Ok(Maker { b: b.clone(), size: size.clone(), step, normals, next: Cell::new(0) })
    }
    /// Normal numbers with this standard deviation.
    fn scaled(&self, shape: &[usize], deviation: f32) -> Result<Tensor<B>> {
        let (len, start) = (shape.iter().product(), self.next.get());
        self.next.set((start + 9_973) % self.normals.len());
        let values: Vec<f32> = self.normals.iter().cycle().skip(start).take(len).map(|x| x * deviation).collect();
        self.b.from_f32(&values, shape)
    }
    pub(super) fn normal(&self, shape: &[usize]) -> Result<Tensor<B>> {
        self.scaled(shape, 1.0)
    }
    pub(super) fn weight(&self, shape: &[usize], fan_in: usize) -> Result<Tensor<B>> {
        self.scaled(shape, 1.0 / (fan_in as f32).sqrt())
    }
    fn ones(&self, n: usize) -> Result<Tensor<B>> {
        self.b.from_f32(&vec![1.0; n], &[n])
    }
    fn labels(&self) -> Result<Tensor<B>> {
        let labels: Vec<f32> = (0..self.size.batch).map(|i| (i % 2) as f32).collect();
        self.b.from_f32(&labels, &[self.size.batch])
    }
    fn dropout(&self, probability: f32) -> Option<Dropout> {
        (probability > 0.0).then_some(Dropout { probability, seed: 1, stream: 1 })
    }
    /// `[B,T,channels]`
    fn positions(&self, channels: usize) -> [usize; 3] {
        [self.size.batch, self.size.positions(), channels]
    }
    /// `B * T`
    fn rows(&self) -> usize {
        self.size.batch * self.size.positions()
    }
    /// A case whose every execution is the same call.
    pub(super) fn case(
        &self,
        shape: impl std::fmt::Debug,
        cost: Cost,
        run: impl Fn(&B) -> Result<Outputs<B>> + 'static,
    ) -> Result<Case<B>> {
        let (b, run) = (self.b.clone(), Rc::new(run));
        let prepare = move || {
            let (b, run) = (b.clone(), run.clone());
            Ok(Box::new(move || run(&b)) as Run<B>)
        };
        Ok(Case { shape: format!("{shape:?}"), cost, prepare: Box::new(prepare) })
    }
}

/// Every primitive by name, in the order of the contract.
pub fn all<B: Backend>() -> Vec<(&'static str, Build<B>)> {
    [epsat(), speid::all(), super::eplae_cases::all()].concat()
}

/// Those at the shapes of an EPSAT step.
fn epsat<B: Backend>() -> Vec<(&'static str, Build<B>)> {
    vec![
        ("add_assign", add_assign),
        ("dna_conv", dna_conv),
        ("dna_conv_backward", dna_conv_backward),
        ("conv1d", conv1d),
        ("conv1d_backward_input", conv1d_backward_input),
        ("conv1d_backward_weight", conv1d_backward_weight),
        ("batch_norm", |m| batch_norm(m, m.positions(m.size.model.kernels))),
        ("batch_norm_backward", |m| batch_norm_backward(m, m.positions(m.size.model.kernels))),
        ("max_pool", max_pool),
        ("max_pool_backward", max_pool_backward),
        ("linear_qkv", |m| linear(m, qkv(m))),
        ("linear_qkv_backward_input", |m| linear_backward_input(m, qkv(m))),
        ("linear_qkv_backward_weight", |m| linear_backward_weight(m, qkv(m))),
        ("linear_mix", |m| linear(m, mix(m))),
        ("linear_mix_backward_input", |m| linear_backward_input(m, mix(m))),
        ("linear_mix_backward_weight", |m| linear_backward_weight(m, mix(m))),
        ("lstm", |m| lstm::forward(m, second_layer(m), true)),
        ("lstm_evaluate", |m| lstm::forward(m, second_layer(m), false)),
        ("lstm_backward", |m| lstm::backward(m, second_layer(m))),
        ("attention", attention),
        ("attention_backward", attention_backward),
        ("relu", relu),
        ("relu_backward", relu_backward),
        ("dropout", dropout),
        ("concat_length", concat_length),
        ("slice_length", slice_length),
        ("swap_leading", swap_leading),
        ("position_sum", position_sum),
        ("position_sum_backward", position_sum_backward),
        ("readout_norm", readout_norm),
        ("readout_norm_backward", readout_norm_backward),
        ("class_loss", class_loss),
        ("class_loss_backward", class_loss_backward),
        ("softmax", softmax),
        ("finish_gradients", |m| finish_gradients(m, epsat_parameters(m))),
        ("adam", |m| adam(m, epsat_parameters(m))),
    ]
}

fn add_assign<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let shape = m.positions(2 * m.size.model.hidden);
    let (dst, src) = (m.normal(&shape)?, m.normal(&shape)?);
    m.case(shape, cost::elementwise(src.len(), 1, 3), move |b| b.add_assign(&dst, &src).map(|()| vec![dst.clone()]))
}

/// Sequence, settings and parameters of the enhancer's convolution.
struct DnaInputs<B: Backend> {
    dna: B::Dna,
    spec: DnaConv,
    weight: Tensor<B>,
    /// gamma, beta, running mean, running variance
    norm: [Tensor<B>; 4],
    shape: [usize; 2],
}

impl<B: Backend> DnaInputs<B> {
    fn new(m: &Maker<B>) -> Result<Self> {
        let (c, shape) = (&m.size.model, [m.size.batch, m.size.enhancer_length]);
        let dna = m.b.upload_dna(&super::step::random_dna(shape[0], shape[1], 3))?;
        let dropout = m.dropout(c.dropout_conv);
        let (channels, kernel) = (c.kernels, c.kernel_size);
        let spec = DnaConv { channels, kernel, pool: c.pool, train: true, eps: 1e-5, momentum: 0.1, dropout };
        let weight = m.weight(&[channels, 4, kernel], 4 * kernel)?;
        let norm = [m.normal(&[channels])?, m.normal(&[channels])?, m.b.zeros(&[channels])?, m.ones(channels)?];
        Ok(DnaInputs { dna, spec, weight, norm, shape })
    }
    fn affine(&self) -> DnaAffine<'_, B> {
        let [gamma, beta, running_mean, running_var] = &self.norm;
        DnaAffine::BatchNorm { gamma, beta, running_mean, running_var }
    }
}

fn dna_conv<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let (i, step) = (DnaInputs::new(m)?, m.step.clone());
    m.case(i.shape, cost::dna_conv(i.shape[0], i.shape[1], &i.spec), move |b| {
        b.dna_conv(&i.dna, &i.spec, &i.weight, i.affine(), &step).map(|(out, _)| vec![out])
    })
}

fn dna_conv_backward<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let (i, step) = (DnaInputs::new(m)?, m.step.clone());
    let (out, saved) = m.b.dna_conv(&i.dna, &i.spec, &i.weight, i.affine(), &step)?;
    let dout = m.normal(out.shape())?;
    let slots = [m.b.zeros(i.weight.shape())?, m.b.zeros(&[i.spec.channels])?, m.b.zeros(&[i.spec.channels])?];
    m.case(i.shape, cost::dna_conv_backward(i.shape[0], i.shape[1], &i.spec), move |b| {
        let [dweight, dgamma, dbeta] = slots.each_ref().map(Some);
        let grads = DnaConvGrads { dweight, dgamma, dbeta };
        b.dna_conv_backward(&i.dna, &i.spec, &i.weight, i.affine(), &saved, &dout, grads, &step)?;
        Ok(slots.to_vec())
    })
}

/// The convolution that attributions go through: one-hot channels, weights of the enhancer's filters.
struct ConvInputs<B: Backend> {
    inp: Tensor<B>,
    weight: Tensor<B>,
    bias: Tensor<B>,
    dout: Tensor<B>,
    spec: Conv1d,
    length: usize,
}

impl<B: Backend> ConvInputs<B> {
    fn new(m: &Maker<B>) -> Result<Self> {
        let (c, spec, length) = (&m.size.model, Conv1d { stride: 1, padding: 0 }, m.size.enhancer_length);
        let inp = m.normal(&[m.size.batch, length, 4])?;
        let weight = m.weight(&[c.kernels, 4, c.kernel_size], 4 * c.kernel_size)?;
        let dout = m.normal(&[m.size.batch, spec.output_length(length, c.kernel_size), c.kernels])?;
        Ok(ConvInputs { inp, weight, bias: m.normal(&[c.kernels])?, dout, spec, length })
    }
    fn case(
        self,
        m: &Maker<B>,
        slots: bool,
        run: impl Fn(&Self, &B) -> Result<Outputs<B>> + 'static,
    ) -> Result<Case<B>> {
        let sizes = self.weight.dims("conv1d")?;
        let cost = cost::conv1d(m.size.batch, self.length, sizes, self.spec, slots);
        m.case((self.inp.shape().to_vec(), sizes), cost, move |b| run(&self, b))
    }
}

fn conv1d<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    ConvInputs::new(m)?.case(m, false, |i, b| Ok(vec![b.conv1d(&i.inp, &i.weight, Some(&i.bias), None, i.spec)?]))
}
fn conv1d_backward_input<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    ConvInputs::new(m)?.case(m, false, |i, b| Ok(vec![b.conv1d_backward_input(&i.dout, &i.weight, i.spec, i.length)?]))
}
fn conv1d_backward_weight<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let i = ConvInputs::new(m)?;
    let slots = [m.b.zeros(i.weight.shape())?, m.b.zeros(i.bias.shape())?];
    i.case(m, true, move |i, b| {
        b.conv1d_backward_weight(&i.inp, &i.dout, i.spec, Some(&slots[0]), Some(&slots[1]))?;
        Ok(slots.to_vec())
    })
}

const NORM: BatchNorm = BatchNorm { train: true, eps: 1e-5, momentum: 0.1 };

fn batch_norm<B: Backend>(m: &Maker<B>, shape: [usize; 3]) -> Result<Case<B>> {
    let c = [shape[2]];
    let (inp, gamma, beta) = (m.normal(&shape)?, m.normal(&c)?, m.normal(&c)?);
    let (mean, var) = (m.b.zeros(&c)?, m.ones(c[0])?);
    m.case(shape, cost::elementwise(inp.len(), 6, 2), move |b| {
        b.batch_norm(&inp, &gamma, &beta, &mean, &var, NORM).map(|(out, saved)| vec![out, saved])
    })
}
fn batch_norm_backward<B: Backend>(m: &Maker<B>, shape: [usize; 3]) -> Result<Case<B>> {
    let c = [shape[2]];
    let (inp, gamma, beta, dout) = (m.normal(&shape)?, m.normal(&c)?, m.normal(&c)?, m.normal(&shape)?);
    let (mean, var) = (m.b.zeros(&c)?, m.ones(c[0])?);
    let (_, saved) = m.b.batch_norm(&inp, &gamma, &beta, &mean, &var, NORM)?;
    let slots = [m.b.zeros(&c)?, m.b.zeros(&c)?];
    m.case(shape, cost::elementwise(inp.len(), 9, 3), move |b| {
        let dinp = b.batch_norm_backward(&inp, &gamma, &saved, &dout, NORM, Some(&slots[0]), Some(&slots[1]))?;
        Ok(vec![dinp, slots[0].clone(), slots[1].clone()])
    })
}

fn max_pool<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let (shape, size) = ([m.size.batch, m.size.enhancer_length, m.size.model.kernels], m.size.model.pool);
    let inp = m.normal(&shape)?;
    let cost = cost::reduction(inp.len(), inp.len() / size);
    m.case((shape, size), cost, move |b| Ok(vec![b.max_pool(&inp, size)?.0]))
}
fn max_pool_backward<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let (shape, size) = ([m.size.batch, m.size.enhancer_length, m.size.model.kernels], m.size.model.pool);
    let inp = m.normal(&shape)?;
    let (out, saved) = m.b.max_pool(&inp, size)?;
    let dout = m.normal(out.shape())?;
    let cost = cost::reduction(dout.len(), inp.len());
    m.case((shape, size), cost, move |b| Ok(vec![b.max_pool_backward(&dout, &saved, size, shape[1])?]))
}

/// A linear map: rows, inputs, outputs, and whether ReLU follows.
type Map = (usize, usize, usize, bool);

/// Queries, keys and values of all heads.
fn qkv<B: Backend>(m: &Maker<B>) -> Map {
    let c = &m.size.model;
    (m.rows(), 2 * c.hidden, 3 * c.heads * c.head_size, false)
}
/// The map that mixes the heads.
fn mix<B: Backend>(m: &Maker<B>) -> Map {
    let c = &m.size.model;
    (m.rows(), c.heads * c.head_size, c.readout, true)
}
fn linear<B: Backend>(m: &Maker<B>, (rows, i, o, relu): Map) -> Result<Case<B>> {
    let (inp, weight, bias) = (m.normal(&[rows, i])?, m.weight(&[o, i], i)?, m.normal(&[o])?);
    m.case([rows, i, o], cost::linear(rows, i, o), move |b| Ok(vec![b.linear(&inp, &weight, Some(&bias), relu)?]))
}
fn linear_backward_input<B: Backend>(m: &Maker<B>, (rows, i, o, _): Map) -> Result<Case<B>> {
    let (dout, weight) = (m.normal(&[rows, o])?, m.weight(&[o, i], o)?);
    m.case([rows, i, o], cost::linear(rows, i, o), move |b| Ok(vec![b.linear_backward_input(&dout, &weight)?]))
}
fn linear_backward_weight<B: Backend>(m: &Maker<B>, (rows, i, o, _): Map) -> Result<Case<B>> {
    let (inp, dout) = (m.normal(&[rows, i])?, m.normal(&[rows, o])?);
    let slots = [m.b.zeros(&[o, i])?, m.b.zeros(&[o])?];
    m.case([rows, i, o], cost::linear_backward_weight(rows, i, o), move |b| {
        b.linear_backward_weight(&inp, &dout, Some(&slots[0]), Some(&slots[1]))?;
        Ok(slots.to_vec())
    })
}

/// Its inputs are the 2H outputs of the first.
fn second_layer<B: Backend>(m: &Maker<B>) -> lstm::Layer {
    let hidden = m.size.model.hidden;
    lstm::Layer { shape: m.positions(2 * hidden), hidden, gate: Gate::Sigmoid }
}

fn attention_inputs<B: Backend>(m: &Maker<B>) -> Result<(Tensor<B>, Attention)> {
    let c = &m.size.model;
    let dropout = m.dropout(c.dropout_attention);
    let spec = Attention { heads: c.heads, head_size: c.head_size, relu: true, dropout };
    Ok((m.normal(&m.positions(3 * c.heads * c.head_size))?, spec))
}
fn attention<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let ((qkv, spec), step) = (attention_inputs(m)?, m.step.clone());
    let cost = cost::attention(m.size.batch, m.size.positions(), &spec);
    m.case((qkv.shape().to_vec(), spec.heads), cost, move |b| {
        b.attention(&qkv, &spec, &step).map(|(out, lse)| vec![out, lse])
    })
}
fn attention_backward<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let ((qkv, spec), step) = (attention_inputs(m)?, m.step.clone());
    let (out, lse) = m.b.attention(&qkv, &spec, &step)?;
    let dout = m.normal(out.shape())?;
    let cost = cost::attention_backward(m.size.batch, m.size.positions(), &spec);
    m.case((qkv.shape().to_vec(), spec.heads), cost, move |b| {
        Ok(vec![b.attention_backward(qkv.clone(), &out, &lse, &dout, &spec, &step)?])
    })
}

fn relu<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let inp = m.normal(&m.positions(m.size.model.readout))?;
    m.case(inp.shape().to_vec(), cost::elementwise(inp.len(), 1, 2), move |b| Ok(vec![b.relu(&inp)?]))
}
fn relu_backward<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let shape = m.positions(m.size.model.readout);
    let (out, dout) = (m.normal(&shape)?, m.normal(&shape)?);
    m.case(shape, cost::elementwise(out.len(), 1, 3), move |b| Ok(vec![b.relu_backward(&out, &dout)?]))
}
fn dropout<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let (inp, step) = (m.normal(&m.positions(2 * m.size.model.hidden))?, m.step.clone());
    let dropout = Dropout { probability: 0.4, seed: 1, stream: 2 };
    m.case(inp.shape().to_vec(), cost::elementwise(inp.len(), 1, 2), move |b| {
        Ok(vec![b.dropout(&inp, &dropout, &step)?])
    })
}

fn concat_length<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let branch = |length| m.normal(&[m.size.batch, m.size.pooled(length), m.size.model.kernels]);
    let parts = [branch(m.size.enhancer_length)?, branch(m.size.promoter_length)?];
    let shape = m.positions(m.size.model.kernels);
    m.case(shape, cost::elementwise(shape.iter().product(), 0, 2), move |b| {
        Ok(vec![b.concat_length(&[&parts[0], &parts[1]])?])
    })
}
fn slice_length<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let (inp, length) = (m.normal(&m.positions(m.size.model.kernels))?, m.size.pooled(m.size.enhancer_length));
    let moved = m.size.batch * length * m.size.model.kernels;
    m.case((inp.shape().to_vec(), length), cost::elementwise(moved, 0, 2), move |b| {
        Ok(vec![b.slice_length(&inp, 0, length)?])
    })
}
fn swap_leading<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let inp = m.normal(&m.positions(m.size.model.kernels))?;
    m.case(inp.shape().to_vec(), cost::elementwise(inp.len(), 0, 2), move |b| Ok(vec![b.swap_leading(&inp)?]))
}
fn position_sum<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let inp = m.normal(&m.positions(m.size.model.readout))?;
    let cost = cost::reduction(inp.len(), m.size.batch * m.size.model.readout);
    m.case(inp.shape().to_vec(), cost, move |b| Ok(vec![b.position_sum(&inp)?]))
}
fn position_sum_backward<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let (dout, length) = (m.normal(&[m.size.batch, m.size.model.readout])?, m.size.positions());
    let cost = Cost { flops: 0.0, ..cost::reduction(dout.len(), dout.len() * length) };
    m.case((dout.shape().to_vec(), length), cost, move |b| Ok(vec![b.position_sum_backward(&dout, length)?]))
}

fn readout_norm<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let inp = m.normal(&[m.size.batch, m.size.model.readout])?;
    m.case(inp.shape().to_vec(), cost::elementwise(inp.len(), 6, 2), move |b| {
        b.readout_norm(&inp, ReadoutNorm::Sample).map(|(out, saved)| vec![out, saved])
    })
}
fn readout_norm_backward<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let shape = [m.size.batch, m.size.model.readout];
    let (out, saved) = m.b.readout_norm(&m.normal(&shape)?, ReadoutNorm::Sample)?;
    let dout = m.normal(&shape)?;
    m.case(shape, cost::elementwise(out.len(), 8, 3), move |b| {
        Ok(vec![b.readout_norm_backward(&out, &saved, &dout, ReadoutNorm::Sample)?])
    })
}

fn class_loss<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let (logits, labels, weights) = (m.normal(&[m.size.batch, 2])?, m.labels()?, m.ones(m.size.batch)?);
    m.case(logits.shape().to_vec(), cost::elementwise(logits.len(), 4, 3), move |b| {
        b.class_loss(&logits, &labels, &weights, ClassLoss::CrossEntropy).map(|(loss, p)| vec![loss, p])
    })
}
fn class_loss_backward<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let (logits, labels, weights) = (m.normal(&[m.size.batch, 2])?, m.labels()?, m.ones(m.size.batch)?);
    let (_, p) = m.b.class_loss(&logits, &labels, &weights, ClassLoss::CrossEntropy)?;
    let dloss = m.ones(1)?;
    m.case(logits.shape().to_vec(), cost::elementwise(logits.len(), 3, 3), move |b| {
        Ok(vec![b.class_loss_backward(&p, &labels, &weights, &dloss, ClassLoss::CrossEntropy)?])
    })
}
fn softmax<B: Backend>(m: &Maker<B>) -> Result<Case<B>> {
    let logits = m.normal(&[m.size.batch, 2])?;
    m.case(logits.shape().to_vec(), cost::elementwise(logits.len(), 3, 2), move |b| Ok(vec![b.softmax(&logits)?]))
}

/// Trainable numbers of a network on both windows.
fn parameters<B: Backend>(m: &Maker<B>, model: &impl Model) -> usize {
    let specs = model.specs(m.size.enhancer_length, m.size.promoter_length);
    specs.iter().filter(|spec| spec.trainable).map(Spec::len).sum()
}
fn epsat_parameters<B: Backend>(m: &Maker<B>) -> usize {
    parameters(m, &Epsat::new(m.size.model.clone()))
}

/// As many parameters in one range.
fn flat(len: usize) -> ([usize; 1], Vec<Range>) {
    ([len], vec![Range { offset: 0, len, l2: 0.0, frozen: false }])
}
fn finish_gradients<B: Backend>(m: &Maker<B>, len: usize) -> Result<Case<B>> {
    let (shape, ranges) = flat(len);
    let (params, grads) = (m.normal(&shape)?, m.normal(&shape)?);
    m.case(shape, cost::elementwise(shape[0], 2, 1), move |b| Ok(vec![b.finish_gradients(&params, &grads, &ranges)?]))
}
fn adam<B: Backend>(m: &Maker<B>, len: usize) -> Result<Case<B>> {
    let ((shape, ranges), step) = (flat(len), m.step.clone());
    let (params, grads) = (m.normal(&shape)?, m.normal(&shape)?);
    let (mean, square, norm) = (m.b.zeros(&shape)?, m.b.zeros(&shape)?, m.ones(1)?);
    let adam = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, clip: None };
    m.case(shape, cost::elementwise(shape[0], 12, 7), move |b| {
        b.adam(&params, &grads, &mean, &square, &norm, &ranges, &adam, &step)?;
        Ok(vec![params.clone(), mean.clone(), square.clone()])
    })
}
