//! The tape: values in the order they were made, and how to go back.

use crate::backend::{Backend, Tensor};
use crate::error::{Error, Result};
use crate::rng::{Dropout, Noise};

/// A value that an operator takes or makes.
pub struct Var<B: Backend> {
    value: Tensor<B>,
    /// Place of its gradient on the tape; `None` = nothing upstream wants a gradient.
    slot: Option<usize>,
}

impl<B: Backend> Clone for Var<B> {
    fn clone(&self) -> Self {
        Var { value: self.value.clone(), slot: self.slot }
    }
}

impl<B: Backend> Var<B> {
    /// A value through which no gradient flows.
    pub fn constant(value: Tensor<B>) -> Self {
        Var { value, slot: None }
    }
    /// The forward value.
    pub fn value(&self) -> &Tensor<B> {
        &self.value
    }
    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        self.value.shape()
    }
    /// Whether a gradient is wanted here.
    pub fn wants_gradient(&self) -> bool {
        self.slot.is_some()
    }
}

/// How one recorded operator turns the gradient of its output into gradients of its inputs.
pub trait Backward<B: Backend>: Send {
    /// `dout` has the shape of the operator's output. Called at most once.
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()>;
}

enum Place<B: Backend> {
    /// Filled when the first consumer has gone backward, taken when its own operator does.
    Activation(Option<Tensor<B>>),
    /// As an activation, but kept to the end.
    Leaf(Option<Tensor<B>>),
    /// A slot of the flat gradient buffer: always there, always accumulated.
    Parameter(Tensor<B>),
}

/// The LeakyReLU that an operator ends in.
struct Leaky<B: Backend> {
    slope: f32,
    /// The operator's output, whose signs are those of what LeakyReLU took.
    out: Tensor<B>,
    /// Gradient before LeakyReLU, of consumers that went through it themselves.
    before: Option<Tensor<B>>,
}

impl<B: Backend> Leaky<B> {
    /// The whole gradient before LeakyReLU, from that of its output.
    fn backward(self, backend: &B, dout: Option<Tensor<B>>) -> Result<Option<Tensor<B>>> {
        let through = dout.map(|dout| backend.leaky_relu_backward(&self.out, &dout, self.slope)).transpose()?;
        if let (Some(sum), Some(before)) = (&through, &self.before) {
            backend.add_assign(sum, before)?;
        }
        Ok(through.or(self.before))
    }
}

struct Node<B: Backend> {
    inputs: Vec<Option<usize>>,
    output: usize,
    op: Box<dyn Backward<B>>,
}

/// Gradients of the inputs of the operator that is going backward, in the order it was recorded with.
pub struct Inputs<'a, B: Backend> {
    backend: &'a B,
    places: &'a mut [Place<B>],
    leaky: &'a mut [Option<Leaky<B>>],
    inputs: &'a [Option<usize>],
}

impl<B: Backend> Inputs<'_, B> {
    /// Whether input `i` wants a gradient.
    pub fn wants(&self, i: usize) -> bool {
        self.inputs[i].is_some()
    }
    /// A tensor of `shape` to add the gradient of input `i` to; `None` if nobody wants it.
    pub fn slot(&mut self, i: usize, shape: &[usize]) -> Result<Option<Tensor<B>>> {
        let Some(place) = self.inputs[i] else { return Ok(None) };
        match &mut self.places[place] {
            Place::Parameter(slot) => Ok(Some(slot.clone())),
            Place::Activation(held) | Place::Leaf(held) => {
                if held.is_none() {
                    *held = Some(self.backend.zeros(shape)?);
                }
                Ok(held.clone())
            }
        }
    }
    /// Slope of the LeakyReLU that gave input `i`, if a gradient may go through it on its way to
    /// [`Inputs::accumulate_before_leaky`].
    pub fn leaky(&self, i: usize) -> Option<f32> {
        let place = self.inputs[i]?;
        let kept = matches!(self.places[place], Place::Leaf(_));
        self.leaky[place].as_ref().filter(|_| !kept).map(|leaky| leaky.slope)
    }
    /// Hands over a gradient that has gone through the LeakyReLU that gave input `i`.
    pub fn accumulate_before_leaky(&mut self, i: usize, gradient: Tensor<B>) -> Result<()> {
        let Some(leaky) = self.inputs[i].and_then(|place| self.leaky[place].as_mut()) else { return Ok(()) };
        match &leaky.before {
            Some(sum) => self.backend.add_assign(sum, &gradient),
            None => {
                leaky.before = Some(gradient);
                Ok(())
            }
        }
    }
    /// Hands over the whole gradient of input `i` (dropped if nobody wants it, added if there is one already).
    pub fn accumulate(&mut self, i: usize, gradient: Tensor<B>) -> Result<()> {
        let Some(place) = self.inputs[i] else { return Ok(()) };
        match &mut self.places[place] {
            Place::Parameter(slot) => self.backend.add_assign(slot, &gradient),
            Place::Activation(held) | Place::Leaf(held) => match held {
                Some(sum) => self.backend.add_assign(sum, &gradient),
                None => {
                    *held = Some(gradient);
                    Ok(())
                }
            },
        }
    }
}

/// Gradients of the leaves after [`Tape::backward`].
pub struct Gradients<B: Backend> {
    places: Vec<Place<B>>,
}

impl<B: Backend> Gradients<B> {
    /// Gradient of a leaf; `None` if the loss does not depend on it.
    pub fn of(&self, leaf: &Var<B>) -> Option<&Tensor<B>> {
        match &self.places[leaf.slot?] {
            Place::Leaf(gradient) | Place::Activation(gradient) => gradient.as_ref(),
            Place::Parameter(slot) => Some(slot),
        }
    }
}

/// The record of one forward pass.
pub struct Tape<B: Backend> {
    backend: B,
    step: B::Step,
    seed: u64,
    train: bool,
    recording: bool,
    keep_all: bool,
    places: Vec<Place<B>>,
    /// Of each place, what its operator ends in.
    leaky: Vec<Option<Leaky<B>>>,
    nodes: Vec<Node<B>>,
    named: Vec<(&'static str, Var<B>)>,
}

impl<B: Backend> Tape<B> {
    /// A tape for training: batch statistics, dropout from `(seed, step)`, gradients.
    pub fn training(backend: &B, step: &B::Step, seed: u64) -> Self {
        Self::new(backend, step, seed, true, true)
    }
    /// Evaluation mode with gradients: running statistics, no dropout.
    pub fn evaluation_with_gradients(backend: &B, step: &B::Step) -> Self {
        Self::new(backend, step, 0, false, true)
    }
    /// Evaluation mode; records nothing.
    pub fn evaluation(backend: &B, step: &B::Step) -> Self {
        Self::new(backend, step, 0, false, false)
    }
    fn new(backend: &B, step: &B::Step, seed: u64, train: bool, recording: bool) -> Self {
        let (backend, step) = (backend.clone(), step.clone());
        let (places, leaky, nodes, named) = (vec![], vec![], vec![], vec![]);
        Tape { backend, step, seed, train, recording, keep_all: false, places, leaky, nodes, named }
    }
    /// Also keeps the gradients of activations, for tests and attributions; costs their memory.
    pub fn keep_activation_gradients(mut self) -> Self {
        self.keep_all = true;
        self
    }
    /// The device.
    pub fn backend(&self) -> &B {
        &self.backend
    }
    /// The device-side step record.
    pub fn step(&self) -> &B::Step {
        &self.step
    }
    /// Whether layers are in training mode.
    pub fn train(&self) -> bool {
        self.train
    }
    /// Whether anything is recorded.
    pub fn recording(&self) -> bool {
        self.recording
    }
    /// Dropout of a layer in this pass; `None` in evaluation mode or when the probability is 0.
    pub fn dropout(&self, probability: f32, stream: u32) -> Option<Dropout> {
        (self.train && probability > 0.0).then_some(Dropout { probability, seed: self.seed, stream })
    }
    /// Noise of a layer in this pass; `None` in evaluation mode.
    pub fn noise(&self, stream: u32) -> Option<Noise> {
        self.train.then_some(Noise { seed: self.seed, stream })
    }
    /// An input whose gradient the caller will ask for.
    pub fn leaf(&mut self, value: Tensor<B>) -> Var<B> {
        self.place(value, Place::Leaf(None))
    }
    /// A parameter whose gradient is added to `slot`.
    pub fn parameter(&mut self, value: Tensor<B>, slot: Tensor<B>) -> Var<B> {
        self.place(value, Place::Parameter(slot))
    }
    fn place(&mut self, value: Tensor<B>, place: Place<B>) -> Var<B> {
        if !self.recording {
            return Var::constant(value);
        }
        self.places.push(place);
        self.leaky.push(None);
        Var { value, slot: Some(self.places.len() - 1) }
    }
    /// Remembers a stage of the model under a name; only with [`Tape::keep_activation_gradients`], so that it costs
    /// no memory otherwise.
    pub fn name(&mut self, stage: &'static str, var: &Var<B>) {
        if self.keep_all {
            self.named.push((stage, var.clone()));
        }
    }
    /// The named stages so far, in the order of the forward pass.
    pub fn named(&self) -> &[(&'static str, Var<B>)] {
        &self.named
    }
    /// Whether an operator on `inputs` has to save what its backward pass needs.
    pub fn wants(&self, inputs: &[&Var<B>]) -> bool {
        self.recording && inputs.iter().any(|v| v.wants_gradient())
    }
    /// Records an operator; `op` is built only when some input wants a gradient.
    pub fn record<O: Backward<B> + 'static>(
        &mut self,
        value: Tensor<B>,
        inputs: &[&Var<B>],
        op: impl FnOnce() -> O,
    ) -> Var<B> {
        if !self.wants(inputs) {
            return Var::constant(value);
        }
        let place = if self.keep_all { Place::Leaf(None) } else { Place::Activation(None) };
        let out = self.place(value, place);
        let output = self.places.len() - 1;
        self.nodes.push(Node { inputs: inputs.iter().map(|v| v.slot).collect(), output, op: Box::new(op()) });
        out
    }
    /// As [`Tape::record`], of an operator that ends in LeakyReLU if `slope` is there: it gets the gradient before that.
    pub fn record_leaky<O: Backward<B> + 'static>(
        &mut self,
        value: Tensor<B>,
        slope: Option<f32>,
        inputs: &[&Var<B>],
        op: impl FnOnce() -> O,
    ) -> Var<B> {
        let var = self.record(value, inputs, op);
        if let (Some(place), Some(slope)) = (var.slot, slope) {
            self.leaky[place] = Some(Leaky { slope, out: var.value.clone(), before: None });
        }
        var
    }
    /// Goes back from `from` with the gradient `seed`, which has the shape of `from`. Consumes the tape: saved tensors are
    /// freed as soon as their operator is done.
    pub fn backward(mut self, from: &Var<B>, seed: Tensor<B>) -> Result<Gradients<B>> {
        let Some(start) = from.slot else {
            return Err(Error::shape("backward", "no gradient is wanted by anything upstream of this value"));
        };
        seed.expect_shape("backward", "the seed gradient", from.shape())?;
        if let Place::Activation(held) | Place::Leaf(held) = &mut self.places[start] {
            *held = Some(seed);
        }
        while let Some(node) = self.nodes.pop() {
            let dout = match &mut self.places[node.output] {
                Place::Activation(held) => held.take(),
                Place::Leaf(held) => held.clone(),
                Place::Parameter(_) => None,
            };
            let dout = match self.leaky[node.output].take() {
                Some(leaky) => leaky.backward(&self.backend, dout)?,
                None => dout,
            };
            let Some(dout) = dout else { continue };
            let (backend, places, leaky) = (&self.backend, &mut self.places[..], &mut self.leaky[..]);
            node.op.backward(backend, dout, &mut Inputs { backend, places, leaky, inputs: &node.inputs })?;
        }
        Ok(Gradients { places: self.places })
    }
}
