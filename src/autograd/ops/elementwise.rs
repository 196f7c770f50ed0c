use crate::autograd::{Backward, Inputs, Tape, Var};
use crate::backend::{Backend, Tensor};
use crate::error::Result;
use crate::rng::Dropout;

/// `max(inp, 0)`.
pub fn relu<B: Backend>(tape: &mut Tape<B>, inp: &Var<B>) -> Result<Var<B>> {
    let out = tape.backend().relu(inp.value())?;
    let saved = out.clone();
    Ok(tape.record(out, &[inp], || ReluBackward { out: saved }))
}

struct ReluBackward<B: Backend> {
    out: Tensor<B>,
}

impl<B: Backend> Backward<B> for ReluBackward<B> {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        grads.accumulate(0, backend.relu_backward(&self.out, &dout)?)
    }
}

/// `inp` where it is positive, else `slope * inp`.
pub fn leaky_relu<B: Backend>(tape: &mut Tape<B>, inp: &Var<B>, slope: f32) -> Result<Var<B>> {
    let out = tape.backend().leaky_relu(inp.value(), slope)?;
    let saved = out.clone();
    Ok(tape.record(out, &[inp], || LeakyReluBackward { out: saved, slope }))
}

struct LeakyReluBackward<B: Backend> {
    out: Tensor<B>,
    slope: f32,
}

impl<B: Backend> Backward<B> for LeakyReluBackward<B> {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        grads.accumulate(0, backend.leaky_relu_backward(&self.out, &dout, self.slope)?)
    }
}

/// Dropout in training mode; the value itself otherwise.
pub fn dropout<B: Backend>(tape: &mut Tape<B>, inp: &Var<B>, probability: f32, stream: u32) -> Result<Var<B>> {
    let Some(dropout) = tape.dropout(probability, stream) else { return Ok(inp.clone()) };
    let out = tape.backend().dropout(inp.value(), &dropout, tape.step())?;
    let step = tape.step().clone();
    Ok(tape.record(out, &[inp], || DropoutBackward { dropout, step }))
}

struct DropoutBackward<B: Backend> {
    dropout: Dropout,
    step: B::Step,
}

impl<B: Backend> Backward<B> for DropoutBackward<B> {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        grads.accumulate(0, backend.dropout(&dout, &self.dropout, &self.step)?)
    }
}
