//! The networks: which layers, in which order, with which names.

mod changed;
mod eplae;
mod epsat;
mod speid;

pub use changed::{Changed, Kept};
pub use eplae::Eplae;
pub use epsat::Epsat;
pub use speid::Speid;

use crate::autograd::ops::weighted_sum;
use crate::autograd::{Tape, Var};
use crate::backend::{Attention, Backend, DnaBatch, DnaConv, Gathered, Tensor};
use crate::config::{ModelConfig, Objective};
use crate::error::{Error, Result};
use crate::nn::{Bound, Parameters, Spec};

/// A batch on the device.
pub struct DeviceBatch<B: Backend> {
    pub enhancer: B::Dna,
    pub promoter: B::Dna,
    /// Bases of the enhancer's and the promoter's window.
    pub lengths: [usize; 2],
    /// Class of each sample, `[B]`, 0 or 1.
    pub labels: Tensor<B>,
    /// Weight of each sample in the loss, `[B]`.
    pub weights: Tensor<B>,
    /// Number of samples.
    pub len: usize,
    /// Windows as `[B,L,4]` floats in the order A, C, G, T, enhancer first: read instead of the DNA (evaluation mode only).
    pub soft: Option<[Var<B>; 2]>,
}

/// The windows of one side, as a network takes them.
pub enum SideInput<'a, B: Backend> {
    Dna(&'a B::Dna),
    /// `[B,L,4]`; exact one-hot input gives what DNA gives.
    Soft(&'a Var<B>),
}

impl<B: Backend> DeviceBatch<B> {
    /// Copies a batch to the device.
    pub fn upload(
        backend: &B,
        enhancer: &DnaBatch,
        promoter: &DnaBatch,
        labels: &[f32],
        weights: &[f32],
    ) -> Result<Self> {
        let len = labels.len();
        Ok(DeviceBatch {
            enhancer: backend.upload_dna(enhancer)?,
            promoter: backend.upload_dna(promoter)?,
            lengths: [enhancer.length(), promoter.length()],
            labels: backend.from_f32(labels, &[len])?,
            weights: backend.from_f32(weights, &[len])?,
            len,
            soft: None,
        })
    }
    /// The next `len` samples of a data set on the device, from where `step` says.
    pub fn gather(backend: &B, resident: &B::Resident, len: usize, step: &B::Step) -> Result<Self> {
        let Gathered { dna: [enhancer, promoter], lengths, labels, weights } = backend.gather(resident, len, step)?;
        Ok(DeviceBatch { enhancer, promoter, lengths, labels, weights, len, soft: None })
    }
    /// A batch of soft windows `[B,L,4]` without labels.
    pub fn soft(backend: &B, windows: [Var<B>; 2]) -> Result<Self> {
        let [len, enhancer, _] = windows[0].value().dims("soft windows")?;
        let [_, promoter, _] = windows[1].value().dims("soft windows")?;
        let [labels, weights] = [vec![0.0; len], vec![1.0; len]];
        let unknown = [enhancer, promoter].map(|length| DnaBatch::new(len, length));
        let batch = Self::upload(backend, &unknown[0], &unknown[1], &labels, &weights)?;
        Ok(DeviceBatch { soft: Some(windows), ..batch })
    }
    /// The enhancers (side 0) or the promoters (side 1).
    pub fn input(&self, side: usize) -> SideInput<'_, B> {
        match &self.soft {
            Some(soft) => SideInput::Soft(&soft[side]),
            None => SideInput::Dna([&self.enhancer, &self.promoter][side]),
        }
    }
}

/// What a forward pass yields.
pub struct Output<B: Backend> {
    /// Total loss, `[1]`.
    pub loss: Var<B>,
    /// Class logits, `[B,2]`; `[B,1]` of a model with one logit, that of "interacting".
    pub logits: Var<B>,
    /// Class probabilities, `[B,2]`; the second column is "interacting".
    pub probabilities: Tensor<B>,
    /// The parts of the loss by name, `[1]` each.
    pub terms: Vec<(&'static str, Tensor<B>)>,
    /// What [`Backend::reconstruction`] says of enhancers and promoters, where the network is an autoencoder.
    pub reconstruction: Option<[Tensor<B>; 2]>,
}

/// Total loss `[1]` from its terms by name, each with its factor, and the value of the L2 terms (`l2`, where a parameter
/// has one) as a constant: the optimiser adds their gradient itself. Returns the terms that [`Output`] lists as well.
fn total_loss<B: Backend>(
    tape: &mut Tape<B>,
    parameters: &Bound<'_, B>,
    terms: &[(&'static str, &Var<B>, f32)],
) -> Result<(Var<B>, Vec<(&'static str, Tensor<B>)>)> {
    let l2 = parameters.l2_penalty()?.map(Var::constant);
    let all: Vec<_> = terms.iter().copied().chain(l2.iter().map(|l2| ("l2", l2, 1.0))).collect();
    let (vars, factors): (Vec<_>, Vec<_>) = all.iter().map(|&(_, var, factor)| (var, factor)).unzip();
    let loss = weighted_sum(tape, &vars, &factors)?;
    Ok((loss, all.into_iter().map(|(name, var, _)| (name, var.value().clone())).collect()))
}

/// One layer for people: name, output shape of one sample, learned parameters.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct LayerSummary {
    pub name: String,
    pub shape: Vec<usize>,
    pub parameters: usize,
}

/// What every neural model offers.
pub trait Model {
    /// Name of the architecture.
    fn name(&self) -> &'static str;
    /// Its tensors for windows of these lengths.
    fn specs(&self, enhancer_length: usize, promoter_length: usize) -> Vec<Spec>;
    /// Its layers for windows of these lengths.
    fn layers(&self, enhancer_length: usize, promoter_length: usize) -> Vec<LayerSummary>;
    /// Multiplications and additions of one sample's forward pass (dense convolutions).
    fn flops_forward(&self, enhancer_length: usize, promoter_length: usize) -> f64;
    /// Bytes that a training step of `batch` samples holds at its peak beyond parameters, as an estimate.
    fn activation_bytes(&self, batch: usize, enhancer_length: usize, promoter_length: usize, train: bool) -> usize;
    /// Error if windows of these lengths are too short.
    fn check_lengths(&self, enhancer_length: usize, promoter_length: usize) -> Result<()>;
    /// Error if a file with starting values cannot be used.
    fn check_files(&self) -> Result<()> {
        Ok(())
    }
    /// Puts in place the starting values that come from a file, if the configuration names one.
    fn start<B: Backend>(&self, _parameters: &Parameters<B>) -> Result<()> {
        Ok(())
    }
    /// Runs the network; training mode, dropout and recording are the tape's.
    fn forward<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        batch: &DeviceBatch<B>,
    ) -> Result<Output<B>>;
    /// Trains other terms of the loss from now on; error for terms that this model does not have.
    fn set_objective(&mut self, objective: Objective) -> Result<()> {
        if objective == Objective::Full {
            return Ok(());
        }
        let message = format!("{} has a single loss; a phase of it takes objective = \"full\"", self.name());
        Err(Error::config("train.phases", message))
    }
    /// The part of the network that a tensor belongs to, for summaries.
    fn part<'a>(&self, tensor: &'a str) -> &'a str {
        tensor.split('.').next().unwrap_or(tensor)
    }
    /// Whether a sample's score depends on nothing but the sample (in evaluation mode).
    fn scores_samples_alone(&self) -> bool {
        true
    }
    /// Whether [`Model::forward`] reads [`DeviceBatch::soft`].
    fn soft_windows(&self) -> bool {
        false
    }
    /// The convolution that reads DNA, for networks that offer [`Model::positions`] and [`Model::from_positions`].
    fn first_convolution(&self) -> Option<DnaConv> {
        None
    }
    /// What [`Model::first_convolution`] makes of the windows of one side (0 enhancer, 1 promoter) when it pools by `pool`:
    /// `[B,P,C]`. With `pool = 1`, the activation of every filter at every base.
    fn positions<B: Backend>(
        &self,
        _tape: &mut Tape<B>,
        _parameters: &Bound<'_, B>,
        _side: usize,
        _input: SideInput<'_, B>,
        _pool: usize,
    ) -> Result<Var<B>> {
        Err(not_offered(self.name(), "positions"))
    }
    /// The rest of the network behind the joined positions of both sides `[B,T,C]`, enhancer first.
    fn from_positions<B: Backend>(
        &self,
        _tape: &mut Tape<B>,
        _parameters: &Bound<'_, B>,
        _positions: Var<B>,
        _labels: &Tensor<B>,
        _weights: &Tensor<B>,
    ) -> Result<Output<B>> {
        Err(not_offered(self.name(), "from_positions"))
    }
    /// Runs the unchanged sample with joined positions `[T,C]` once, for [`Model::from_changed`]; `None` where copies share
    /// nothing behind their positions.
    fn keep<B: Backend>(
        &self,
        _tape: &mut Tape<B>,
        _parameters: &Bound<'_, B>,
        _positions: &[f32],
    ) -> Result<Option<Kept<B>>> {
        Ok(None)
    }
    /// [`Model::from_positions`] of copies that differ from the kept sample in a few positions: recurrent layers run over
    /// these and `margin` positions on each side, a layer at a time; beyond, the kept values stand. Exact once the margin
    /// covers all positions; otherwise the error is what the recurrence remembers over `margin` positions.
    fn from_changed<B: Backend>(
        &self,
        _tape: &mut Tape<B>,
        _parameters: &Bound<'_, B>,
        _kept: &Kept<B>,
        _changed: &Changed,
        _margin: usize,
        _labels: &Tensor<B>,
        _weights: &Tensor<B>,
    ) -> Result<Output<B>> {
        Err(not_offered(self.name(), "from_changed"))
    }
    /// The code `[B,D]` of the windows of a batch, for autoencoders.
    fn code<B: Backend>(
        &self,
        _tape: &mut Tape<B>,
        _parameters: &Bound<'_, B>,
        _batch: &DeviceBatch<B>,
    ) -> Result<Var<B>> {
        Err(not_offered(self.name(), "code"))
    }
    /// Class logits of codes `[B,D]`, and the windows `[B,L,4]` of these lengths that they stand for.
    fn from_code<B: Backend>(
        &self,
        _tape: &mut Tape<B>,
        _parameters: &Bound<'_, B>,
        _code: &Var<B>,
        _lengths: [usize; 2],
    ) -> Result<(Var<B>, [Var<B>; 2])> {
        Err(not_offered(self.name(), "from_code"))
    }
    /// The self-attention over positions, for networks that name its input `qkv` on the tape.
    fn attention(&self) -> Option<Attention> {
        None
    }
}

fn not_offered(model: &str, op: &'static str) -> Error {
    Error::Unsupported { op, message: format!("{model} has no such half") }
}

/// Any of the networks, chosen by configuration.
#[derive(Clone, Debug)]
pub enum Network {
    Epsat(Epsat),
    Eplae(Eplae),
    Speid(Speid),
}

impl Network {
    /// The network that `config` describes.
    pub fn new(config: &ModelConfig) -> Self {
        match config {
            ModelConfig::Epsat(c) => Network::Epsat(Epsat::new(c.clone())),
            ModelConfig::Eplae(c) => Network::Eplae(Eplae::new(c.clone())),
            ModelConfig::Speid(c) => Network::Speid(Speid::new(c.clone())),
        }
    }
}

/// Passes a call on to whichever network this is.
macro_rules! each {
    ($self:expr, $m:ident => $call:expr) => {
        match $self {
            Network::Epsat($m) => $call,
            Network::Eplae($m) => $call,
            Network::Speid($m) => $call,
        }
    };
}

impl Model for Network {
    fn name(&self) -> &'static str {
        each!(self, m => m.name())
    }
    fn specs(&self, enhancer_length: usize, promoter_length: usize) -> Vec<Spec> {
        each!(self, m => m.specs(enhancer_length, promoter_length))
    }
    fn layers(&self, enhancer_length: usize, promoter_length: usize) -> Vec<LayerSummary> {
        each!(self, m => m.layers(enhancer_length, promoter_length))
    }
    fn flops_forward(&self, enhancer_length: usize, promoter_length: usize) -> f64 {
        each!(self, m => m.flops_forward(enhancer_length, promoter_length))
    }
    fn activation_bytes(&self, batch: usize, enhancer_length: usize, promoter_length: usize, train: bool) -> usize {
        each!(self, m => m.activation_bytes(batch, enhancer_length, promoter_length, train))
    }
    fn check_lengths(&self, enhancer_length: usize, promoter_length: usize) -> Result<()> {
        each!(self, m => m.check_lengths(enhancer_length, promoter_length))
    }
    fn check_files(&self) -> Result<()> {
        each!(self, m => m.check_files())
    }
    fn start<B: Backend>(&self, parameters: &Parameters<B>) -> Result<()> {
        each!(self, m => m.start(parameters))
    }
    fn forward<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        batch: &DeviceBatch<B>,
    ) -> Result<Output<B>> {
        each!(self, m => m.forward(tape, parameters, batch))
    }
    fn set_objective(&mut self, objective: Objective) -> Result<()> {
        each!(self, m => m.set_objective(objective))
    }
    fn part<'a>(&self, tensor: &'a str) -> &'a str {
        each!(self, m => m.part(tensor))
    }
    fn scores_samples_alone(&self) -> bool {
        each!(self, m => m.scores_samples_alone())
    }
    fn soft_windows(&self) -> bool {
        each!(self, m => m.soft_windows())
    }
    fn first_convolution(&self) -> Option<DnaConv> {
        each!(self, m => m.first_convolution())
    }
    fn positions<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        side: usize,
        input: SideInput<'_, B>,
        pool: usize,
    ) -> Result<Var<B>> {
        each!(self, m => m.positions(tape, parameters, side, input, pool))
    }
    fn from_positions<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        positions: Var<B>,
        labels: &Tensor<B>,
        weights: &Tensor<B>,
    ) -> Result<Output<B>> {
        each!(self, m => m.from_positions(tape, parameters, positions, labels, weights))
    }
    fn keep<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        positions: &[f32],
    ) -> Result<Option<Kept<B>>> {
        each!(self, m => m.keep(tape, parameters, positions))
    }
    fn from_changed<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        kept: &Kept<B>,
        changed: &Changed,
        margin: usize,
        labels: &Tensor<B>,
        weights: &Tensor<B>,
    ) -> Result<Output<B>> {
        each!(self, m => m.from_changed(tape, parameters, kept, changed, margin, labels, weights))
    }
    fn code<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        batch: &DeviceBatch<B>,
    ) -> Result<Var<B>> {
        each!(self, m => m.code(tape, parameters, batch))
    }
    fn from_code<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        code: &Var<B>,
        lengths: [usize; 2],
    ) -> Result<(Var<B>, [Var<B>; 2])> {
        each!(self, m => m.from_code(tape, parameters, code, lengths))
    }
    fn attention(&self) -> Option<Attention> {
        each!(self, m => m.attention())
    }
}

/// Error for a window that leaves nothing after convolution and pooling.
fn too_short(which: &str, length: usize, shortest: usize) -> Error {
    Error::config(
        format!("data.{which}_length"),
        format!("a window of {length} bases leaves no pooled position; the shortest that works is {shortest}"),
    )
}
