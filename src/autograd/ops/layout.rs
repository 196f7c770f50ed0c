use crate::autograd::{Backward, Inputs, Tape, Var};
use crate::backend::{Backend, Tensor};
use crate::error::Result;

/// Joins `[B,L_i,C]` along positions.
pub fn concat_length<B: Backend>(tape: &mut Tape<B>, parts: &[&Var<B>]) -> Result<Var<B>> {
    let values: Vec<&Tensor<B>> = parts.iter().map(|p| p.value()).collect();
    let out = tape.backend().concat_length(&values)?;
    let lengths = parts.iter().map(|p| p.shape()[1]).collect();
    Ok(tape.record(out, parts, || ConcatLengthBackward { lengths }))
}

struct ConcatLengthBackward {
    lengths: Vec<usize>,
}

impl<B: Backend> Backward<B> for ConcatLengthBackward {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        let mut start = 0;
        for (i, &length) in self.lengths.iter().enumerate() {
            if grads.wants(i) {
                grads.accumulate(i, backend.slice_length(&dout, start, length)?)?;
            }
            start += length;
        }
        Ok(())
    }
}

/// `[A,B,C] → [B,A,C]`.
pub fn swap_leading<B: Backend>(tape: &mut Tape<B>, inp: &Var<B>) -> Result<Var<B>> {
    let out = tape.backend().swap_leading(inp.value())?;
    Ok(tape.record(out, &[inp], || SwapLeadingBackward))
}

struct SwapLeadingBackward;

impl<B: Backend> Backward<B> for SwapLeadingBackward {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        grads.accumulate(0, backend.swap_leading(&dout)?)
    }
}

/// The same values in another shape.
pub fn reshape<B: Backend>(tape: &mut Tape<B>, inp: &Var<B>, shape: &[usize]) -> Result<Var<B>> {
    let (out, from) = (inp.value().reshape(shape)?, inp.shape().to_vec());
    Ok(tape.record(out, &[inp], || ReshapeBackward { from }))
}

struct ReshapeBackward {
    from: Vec<usize>,
}

impl<B: Backend> Backward<B> for ReshapeBackward {
    fn backward(self: Box<Self>, _: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        grads.accumulate(0, dout.reshape(&self.from)?)
    }
}
