//! All tensors of a model in flat buffers with named views.

use std::collections::HashMap;

use super::Init;
use crate::autograd::{Tape, Var};
use crate::backend::{Adam, Backend, Range, StepState, Tensor};
use crate::error::{Error, Result};

/// One tensor of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// PyTorch's name (`lstm_layer.0.weight_ih_l0`).
    pub name: String,
    pub shape: Vec<usize>,
    pub init: Init,
    /// Learned by the optimiser; otherwise a statistic that training only updates.
    pub trainable: bool,
    /// Factor λ of an L2 term λ‖θ‖².
    pub l2: f32,
    /// Kept as it is by the optimiser.
    pub frozen: bool,
    /// Follows its predecessor without a gap, so that both can be viewed as one tensor.
    pub joined: bool,
}

impl Spec {
    /// A learned tensor.
    pub fn new(name: impl Into<String>, shape: &[usize], init: Init) -> Self {
        let (name, shape) = (name.into(), shape.to_vec());
        Spec { name, shape, init, trainable: true, l2: 0.0, frozen: false, joined: false }
    }
    /// A statistic (batch norm's running mean and variance).
    pub fn statistic(name: impl Into<String>, shape: &[usize], value: f32) -> Self {
        Spec { trainable: false, ..Self::new(name, shape, Init::Constant(value)) }
    }
    /// The same tensor, directly behind the one before it.
    pub fn joined(self) -> Self {
        Spec { joined: true, ..self }
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Tensors start at multiples of this many elements (64 bytes), unless joined.
const ALIGN: usize = 16;

/// Values, statistics and gradients of a model: one flat buffer each.
pub struct Parameters<B: Backend> {
    backend: B,
    specs: Vec<Spec>,
    offsets: Vec<usize>,
    index: HashMap<String, usize>,
    ranges: Vec<Range>,
    values: Tensor<B>,
    statistics: Tensor<B>,
    gradients: Option<Tensor<B>>,
}

impl<B: Backend> Parameters<B> {
    /// Allocates and initialises the tensors of a model under `seed`. Gradients are allocated by the first
    /// [`Parameters::bind`] on a recording tape.
    pub fn new(backend: &B, specs: Vec<Spec>, seed: u64) -> Result<Self> {
        let (mut offsets, mut lengths) = (Vec::with_capacity(specs.len()), [0usize; 2]);
        for spec in &specs {
            let end = &mut lengths[usize::from(spec.trainable)];
            let start = if spec.joined { *end } else { end.next_multiple_of(ALIGN) };
            offsets.push(start);
            *end = start + spec.len();
        }
        let mut host = lengths.map(|n| vec![0.0; n.next_multiple_of(ALIGN)]);
        for (i, spec) in specs.iter().enumerate() {
            let values = spec.init.values(seed, i as u32, spec.len());
            host[usize::from(spec.trainable)][offsets[i]..][..spec.len()].copy_from_slice(&values);
        }
        let trainable = specs.iter().zip(&offsets).filter(|(s, _)| s.trainable);
        let ranges = trainable.map(|(s, &offset)| Range { offset, len: s.len(), l2: s.l2, frozen: s.frozen }).collect();
        let [statistics, values] = &host;
        Ok(Parameters {
            backend: backend.clone(),
            index: specs.iter().enumerate().map(|(i, s)| (s.name.clone(), i)).collect(),
            ranges,
            values: backend.from_f32(values, &[values.len()])?,
            statistics: backend.from_f32(statistics, &[statistics.len()])?,
            gradients: None,
            specs,
            offsets,
        })
    }
    /// The tensors in the order of the model.
    pub fn specs(&self) -> &[Spec] {
        &self.specs
    }
    /// Number of learned elements.
    pub fn trainable(&self) -> usize {
        self.specs.iter().filter(|s| s.trainable).map(Spec::len).sum()
    }
    /// The flat buffer of learned values (with gaps of zeros between unjoined tensors).
    pub fn values(&self) -> &Tensor<B> {
        &self.values
    }
    /// The flat buffer of statistics.
    pub fn statistics(&self) -> &Tensor<B> {
        &self.statistics
    }
    /// The flat gradient buffer, if there has been a backward pass.
    pub fn gradients(&self) -> Option<&Tensor<B>> {
        self.gradients.as_ref()
    }
    fn position(&self, name: &str) -> usize {
        *self.index.get(name).unwrap_or_else(|| panic!("the model asks for a tensor `{name}` that it did not declare"))
    }
    fn view(&self, flat: &Tensor<B>, i: usize) -> Result<Tensor<B>> {
        flat.view(self.offsets[i], &self.specs[i].shape)
    }
    /// The tensor called `name` (a view: writing to the flat buffer changes it).
    pub fn get(&self, name: &str) -> Result<Tensor<B>> {
        let i = self.position(name);
        self.view(if self.specs[i].trainable { &self.values } else { &self.statistics }, i)
    }
    /// The gradient of `name` after a backward pass.
    pub fn gradient(&self, name: &str) -> Result<Option<Tensor<B>>> {
        let i = self.position(name);
        self.gradients.as_ref().map(|g| self.view(g, i)).transpose()
    }
    /// Host copy of the tensor called `name`.
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        self.backend.to_f32(&self.get(name)?)
    }
    /// Overwrites the tensor called `name`.
    pub fn set(&self, name: &str, values: &[f32]) -> Result<()> {
        let target = self.get(name)?;
        if values.len() != target.len() {
            let message = format!("`{name}` holds {} values, got {}", target.len(), values.len());
            return Err(Error::shape("set", message));
        }
        self.backend.copy(&target, &self.backend.from_f32(values, target.shape())?)
    }
    /// Freezes or thaws every tensor whose name starts with one of `prefixes`.
    pub fn freeze(&mut self, prefixes: &[&str], frozen: bool) {
        for (range, spec) in self.ranges.iter_mut().zip(self.specs.iter_mut().filter(|s| s.trainable)) {
            if prefixes.iter().any(|p| spec.name.starts_with(p)) {
                spec.frozen = frozen;
                range.frozen = frozen;
            }
        }
    }
    /// Gives every learned tensor an L2 term λ‖θ‖² with this factor; `None` gives each its own back.
    pub fn set_l2(&mut self, factor: Option<f32>) {
        for (range, spec) in self.ranges.iter_mut().zip(self.specs.iter().filter(|s| s.trainable)) {
            range.l2 = factor.unwrap_or(spec.l2);
        }
    }
    /// Ready for a pass: variables on demand; gradients zeroed when the tape records.
    pub fn bind(&mut self, tape: &Tape<B>) -> Result<Bound<'_, B>> {
        if tape.recording() {
            match &self.gradients {
                Some(gradients) => self.backend.fill_zero(gradients)?,
                None => self.gradients = Some(self.backend.zeros(self.values.shape())?),
            }
        }
        Ok(Bound { parameters: self })
    }
    /// Ready for a pass that records nothing: every parameter is a constant.
    pub fn constants(&self) -> Bound<'_, B> {
        Bound { parameters: self }
    }
    /// Host copies of all tensors in the order of the model.
    pub fn to_host(&self) -> Result<Vec<Vec<f32>>> {
        let flat = [self.backend.to_f32(&self.statistics)?, self.backend.to_f32(&self.values)?];
        let slice = |(i, s): (usize, &Spec)| flat[usize::from(s.trainable)][self.offsets[i]..][..s.len()].to_vec();
        Ok(self.specs.iter().enumerate().map(slice).collect())
    }
    pub(super) fn backend(&self) -> &B {
        &self.backend
    }
}

/// The parameters as variables of one pass.
pub struct Bound<'a, B: Backend> {
    parameters: &'a Parameters<B>,
}

impl<B: Backend> Bound<'_, B> {
    /// The parameter called `name`; its gradient goes to the flat buffer unless it is frozen.
    pub fn var(&self, tape: &mut Tape<B>, name: &str) -> Result<Var<B>> {
        let shape = self.parameters.specs[self.parameters.position(name)].shape.clone();
        self.fused(tape, name, &shape)
    }
    /// The parameter called `first` and those joined behind it as one tensor of `shape`.
    pub fn fused(&self, tape: &mut Tape<B>, first: &str, shape: &[usize]) -> Result<Var<B>> {
        let p = self.parameters;
        let i = p.position(first);
        let value = p.values.view(p.offsets[i], shape)?;
        match &p.gradients {
            Some(gradients) if tape.recording() && !p.specs[i].frozen => {
                let slot = gradients.view(p.offsets[i], shape)?;
                Ok(tape.parameter(value, slot))
            }
            _ => Ok(Var::constant(value)),
        }
    }
    /// Value `[1]` of the L2 terms Σ λ‖θ‖², for the reported loss: the optimiser adds their gradient itself. `None`
    /// without such terms.
    pub fn l2_penalty(&self) -> Result<Option<Tensor<B>>> {
        let p = self.parameters;
        let any = p.ranges.iter().any(|range| range.l2 != 0.0);
        any.then(|| p.backend.l2_penalty(&p.values, &p.ranges)).transpose()
    }
    /// The statistic called `name`.
    pub fn statistic(&self, name: &str) -> Result<Tensor<B>> {
        self.parameters.get(name)
    }
}

/// Adam over the flat buffers.
pub struct Optimizer<B: Backend> {
    adam: Adam,
    m: Tensor<B>,
    v: Tensor<B>,
    step: B::Step,
    count: u32,
    /// Steps made before the moments were fresh.
    origin: u32,
}

impl<B: Backend> Optimizer<B> {
    /// Fresh moments for `parameters`.
    pub fn new(parameters: &Parameters<B>, adam: Adam) -> Result<Self> {
        let backend = &parameters.backend;
        let zeros = || backend.zeros(parameters.values.shape());
        Ok(Optimizer { adam, m: zeros()?, v: zeros()?, step: backend.new_step()?, count: 0, origin: 0 })
    }
    /// Steps made so far.
    pub fn steps(&self) -> u32 {
        self.count
    }
    /// The device-side record that tapes of this optimiser read.
    pub fn step_record(&self) -> &B::Step {
        &self.step
    }
    /// The two moment buffers, for checkpoints.
    pub fn moments(&self) -> [&Tensor<B>; 2] {
        [&self.m, &self.v]
    }
    /// Fresh moments from the next step on; the count of steps, which dropout is drawn by, goes on.
    pub fn restart(&mut self, backend: &B) -> Result<()> {
        self.origin = self.count;
        backend.fill_zero(&self.m)?;
        backend.fill_zero(&self.v)
    }
    /// Continues after `steps` steps with these moments, which were fresh after `origin` steps.
    pub fn restore(&mut self, backend: &B, steps: u32, origin: u32, m: &[f32], v: &[f32]) -> Result<()> {
        (self.count, self.origin) = (steps, origin);
        for (slot, values) in [(&self.m, m), (&self.v, v)] {
            if values.len() != slot.len() {
                return Err(Error::shape("restore", "the optimiser state belongs to another model"));
            }
            backend.copy(slot, &backend.from_f32(values, slot.shape())?)?;
        }
        Ok(())
    }
    /// Opens the next step: writes the step record that forward, backward and update read. The batch begins at position
    /// `batch_cursor` of the order of `epoch`.
    pub fn begin(&mut self, backend: &B, lr: f32, epoch: u32, batch_cursor: u32) -> Result<()> {
        self.count += 1;
        let correction = |beta: f32| (1.0 - f64::from(beta).powi((self.count - self.origin) as i32)) as f32;
        let state = StepState {
            step: self.count - self.origin,
            philox_step: self.count,
            lr,
            bias_correction1: correction(self.adam.beta1),
            bias_correction2: correction(self.adam.beta2),
            batch_cursor,
            epoch,
        };
        backend.write_step(&self.step, &state)
    }
    /// Updates the parameters from their gradients. Returns the gradient norm `[1]` (before clipping), still on the device.
    pub fn update(&self, parameters: &Parameters<B>) -> Result<Tensor<B>> {
        let p = parameters;
        let gradients = p.gradients().ok_or_else(|| Error::shape("adam", "there has been no backward pass"))?;
        let norm = p.backend.finish_gradients(&p.values, gradients, &p.ranges)?;
        p.backend.adam(&p.values, gradients, &self.m, &self.v, &norm, &p.ranges, &self.adam, &self.step)?;
        Ok(norm)
    }
}
