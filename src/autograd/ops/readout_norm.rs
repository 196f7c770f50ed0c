use crate::autograd::{Backward, Inputs, Tape, Var};
use crate::backend::{Backend, ReadoutNorm, Tensor};
use crate::error::Result;

/// Normalises the readout `[B,C]`; see [`Backend::readout_norm`].
pub fn readout_norm<B: Backend>(tape: &mut Tape<B>, inp: &Var<B>, mode: ReadoutNorm) -> Result<Var<B>> {
    let (out, saved) = tape.backend().readout_norm(inp.value(), mode)?;
    let y = out.clone();
    Ok(tape.record(out, &[inp], || ReadoutNormBackward { out: y, saved, mode }))
}

struct ReadoutNormBackward<B: Backend> {
    out: Tensor<B>,
    saved: Tensor<B>,
    mode: ReadoutNorm,
}

impl<B: Backend> Backward<B> for ReadoutNormBackward<B> {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        grads.accumulate(0, backend.readout_norm_backward(&self.out, &self.saved, &dout, self.mode)?)
    }
}
