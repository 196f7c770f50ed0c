use crate::autograd::{Backward, Inputs, Tape, Var};
use crate::backend::{Backend, Tensor};
use crate::error::Result;

/// `inp` `[..,I]` times `weight` `[O,I]` plus `bias` `[O]`, then ReLU if asked; see [`Backend::linear`].
pub fn linear<B: Backend>(
    tape: &mut Tape<B>,
    inp: &Var<B>,
    weight: &Var<B>,
    bias: Option<&Var<B>>,
    relu: bool,
) -> Result<Var<B>> {
    let out = tape.backend().linear(inp.value(), weight.value(), bias.map(Var::value), relu)?;
    let (x, w, y) = (inp.value().clone(), weight.value().clone(), relu.then(|| out.clone()));
    let inputs: Vec<&Var<B>> = [Some(inp), Some(weight), bias].into_iter().flatten().collect();
    Ok(tape.record(out, &inputs, || LinearBackward { inp: x, weight: w, relu_out: y, has_bias: bias.is_some() }))
}

struct LinearBackward<B: Backend> {
    inp: Tensor<B>,
    weight: Tensor<B>,
    relu_out: Option<Tensor<B>>,
    has_bias: bool,
}

impl<B: Backend> Backward<B> for LinearBackward<B> {
    fn backward(self: Box<Self>, backend: &B, mut dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        if let Some(out) = &self.relu_out {
            dout = backend.relu_backward(out, &dout)?;
        }
        let dweight = grads.slot(1, self.weight.shape())?;
        let dbias = if self.has_bias { grads.slot(2, &self.weight.shape()[..1])? } else { None };
        backend.linear_backward_weight(&self.inp, &dout, dweight.as_ref(), dbias.as_ref())?;
        if grads.wants(0) {
            grads.accumulate(0, backend.linear_backward_input(&dout, &self.weight)?)?;
        }
        Ok(())
    }
}
