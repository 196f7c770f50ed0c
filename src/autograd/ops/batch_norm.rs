use crate::autograd::{Backward, Inputs, Tape, Var};
use crate::backend::{Backend, BatchNorm, Tensor};
use crate::error::Result;

/// Batch norm of `[..,C]` over all but the last dimension; see [`Backend::batch_norm`].
pub fn batch_norm<B: Backend>(
    tape: &mut Tape<B>,
    inp: &Var<B>,
    gamma: &Var<B>,
    beta: &Var<B>,
    running: [&Tensor<B>; 2],
    spec: BatchNorm,
) -> Result<Var<B>> {
    let (out, saved) =
        tape.backend().batch_norm(inp.value(), gamma.value(), beta.value(), running[0], running[1], spec)?;
    let (x, g) = (inp.value().clone(), gamma.value().clone());
    Ok(tape.record(out, &[inp, gamma, beta], || BatchNormBackward { inp: x, gamma: g, saved, spec }))
}

struct BatchNormBackward<B: Backend> {
    inp: Tensor<B>,
    gamma: Tensor<B>,
    saved: Tensor<B>,
    spec: BatchNorm,
}

impl<B: Backend> Backward<B> for BatchNormBackward<B> {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        let dgamma = grads.slot(1, self.gamma.shape())?;
        let dbeta = grads.slot(2, self.gamma.shape())?;
        let dinp = backend.batch_norm_backward(
            &self.inp,
            &self.gamma,
            &self.saved,
            &dout,
            self.spec,
            dgamma.as_ref(),
            dbeta.as_ref(),
        )?;
        grads.accumulate(0, dinp)
    }
}
