use crate::autograd::{Backward, Inputs, Tape, Var};
use crate::backend::{Backend, Tensor};
use crate::error::Result;

/// Max pooling of `[B,L,C]` along positions, width = stride = `size`; see [`Backend::max_pool`].
pub fn max_pool<B: Backend>(tape: &mut Tape<B>, inp: &Var<B>, size: usize) -> Result<Var<B>> {
    let (out, saved) = tape.backend().max_pool(inp.value(), size)?;
    let length = inp.shape()[1];
    Ok(tape.record(out, &[inp], || MaxPoolBackward::<B> { saved, size, length }))
}

struct MaxPoolBackward<B: Backend> {
    saved: B::MaxPoolSaved,
    size: usize,
    length: usize,
}

impl<B: Backend> Backward<B> for MaxPoolBackward<B> {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        grads.accumulate(0, backend.max_pool_backward(&dout, &self.saved, self.size, self.length)?)
    }
}
