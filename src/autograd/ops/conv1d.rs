use crate::autograd::{Backward, Inputs, Tape, Var};
use crate::backend::{Backend, Conv1d, Tensor};
use crate::error::Result;

/// Strided, padded convolution of `[B,L,I]` with `weight` `[O,I,K]`; see [`Backend::conv1d`].
pub fn conv1d<B: Backend>(
    tape: &mut Tape<B>,
    inp: &Var<B>,
    weight: &Var<B>,
    bias: Option<&Var<B>>,
    spec: Conv1d,
) -> Result<Var<B>> {
    let out = tape.backend().conv1d(inp.value(), weight.value(), bias.map(Var::value), spec)?;
    let (x, w) = (inp.value().clone(), weight.value().clone());
    let inputs: Vec<&Var<B>> = [Some(inp), Some(weight), bias].into_iter().flatten().collect();
    Ok(tape.record(out, &inputs, || Conv1dBackward { inp: x, weight: w, has_bias: bias.is_some(), spec }))
}

struct Conv1dBackward<B: Backend> {
    inp: Tensor<B>,
    weight: Tensor<B>,
    has_bias: bool,
    spec: Conv1d,
}

impl<B: Backend> Backward<B> for Conv1dBackward<B> {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        let dweight = grads.slot(1, self.weight.shape())?;
        let dbias = if self.has_bias { grads.slot(2, &self.weight.shape()[..1])? } else { None };
        backend.conv1d_backward_weight(&self.inp, &dout, self.spec, dweight.as_ref(), dbias.as_ref())?;
        if grads.wants(0) {
            let length = self.inp.shape()[1];
            grads.accumulate(0, backend.conv1d_backward_input(&dout, &self.weight, self.spec, length)?)?;
        }
        Ok(())
    }
}
