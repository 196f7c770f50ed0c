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

/// Positions `start .. start + length` of `[B,L,C]`, gradients of which are zero elsewhere.
pub fn slice_length<B: Backend>(tape: &mut Tape<B>, inp: &Var<B>, start: usize, length: usize) -> Result<Var<B>> {
    let out = tape.backend().slice_length(inp.value(), start, length)?;
    let shape = inp.shape().to_vec();
    Ok(tape.record(out, &[inp], || SliceLengthBackward { shape, start }))
}

struct SliceLengthBackward {
    /// Of the whole.
    shape: Vec<usize>,
    start: usize,
}

impl<B: Backend> Backward<B> for SliceLengthBackward {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        let [batch, length, channels] = [0, 1, 2].map(|i| self.shape[i]);
        let end = self.start + dout.shape()[1];
        let zeros = |n: usize| (n > 0).then(|| backend.zeros(&[batch, n, channels])).transpose();
        let (before, after) = (zeros(self.start)?, zeros(length - end)?);
        let parts: Vec<&Tensor<B>> = [before.as_ref(), Some(&dout), after.as_ref()].into_iter().flatten().collect();
        grads.accumulate(0, backend.concat_length(&parts)?)
    }
}

/// Parts of `[B,L,C]` along positions, as long as `lengths` say.
pub fn split_length<B: Backend>(tape: &mut Tape<B>, inp: &Var<B>, lengths: [usize; 2]) -> Result<[Var<B>; 2]> {
    Ok([slice_length(tape, inp, 0, lengths[0])?, slice_length(tape, inp, lengths[0], lengths[1])?])
}

/// `[B,L,C] → [B,C*L]`, the values of a channel side by side (index `c * L + l`, PyTorch's flattening of `[B,C,L]`).
pub fn flatten_channels<B: Backend>(tape: &mut Tape<B>, inp: &Var<B>) -> Result<Var<B>> {
    let [batch, length, channels] = inp.value().dims("flatten_channels")?;
    let out = tape.backend().swap_trailing(inp.value())?.reshape(&[batch, channels * length])?;
    Ok(tape.record(out, &[inp], || SwapTrailingBackward {
        dout: [batch, channels, length],
        dinp: vec![batch, length, channels],
    }))
}

/// `[B,C*L] → [B,L,C]`, the inverse of [`flatten_channels`].
pub fn unflatten_channels<B: Backend>(tape: &mut Tape<B>, inp: &Var<B>, channels: usize) -> Result<Var<B>> {
    let [batch, size] = inp.value().dims("unflatten_channels")?;
    let length = size / channels.max(1);
    let out = tape.backend().swap_trailing(&inp.value().reshape(&[batch, channels, length])?)?;
    Ok(tape.record(out, &[inp], || SwapTrailingBackward { dout: [batch, length, channels], dinp: vec![batch, size] }))
}

/// Swaps the last two of three dimensions back.
struct SwapTrailingBackward {
    dout: [usize; 3],
    dinp: Vec<usize>,
}

impl<B: Backend> Backward<B> for SwapTrailingBackward {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        grads.accumulate(0, backend.swap_trailing(&dout.reshape(&self.dout)?)?.reshape(&self.dinp)?)
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
