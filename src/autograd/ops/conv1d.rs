use crate::autograd::{Backward, Inputs, Tape, Var};
use crate::backend::{Backend, Conv1d, Tensor};
use crate::error::Result;

/// Strided, padded convolution of `[B,L,I]` with `weight` `[O,I,K]`, then LeakyReLU if `leaky` names its slope; see
/// [`Backend::conv1d`].
pub fn conv1d<B: Backend>(
    tape: &mut Tape<B>,
    inp: &Var<B>,
    weight: &Var<B>,
    bias: Option<&Var<B>>,
    leaky: Option<f32>,
    spec: Conv1d,
) -> Result<Var<B>> {
    let out = tape.backend().conv1d(inp.value(), weight.value(), bias.map(Var::value), leaky, spec)?;
    let (inp_value, w) = (inp.value().clone(), weight.value().clone());
    let inputs: Vec<&Var<B>> = [Some(inp), Some(weight), bias].into_iter().flatten().collect();
    let has_bias = bias.is_some();
    Ok(tape.record_leaky(out, leaky, &inputs, || Conv1dBackward { inp: inp_value, weight: w, has_bias, spec }))
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
        if let Some(slope) = grads.leaky(0) {
            let dinp = backend.conv1d_backward_leaky(&dout, &self.weight, self.spec, &self.inp, slope)?;
            grads.accumulate_before_leaky(0, dinp)?;
        } else if grads.wants(0) {
            let length = self.inp.shape()[1];
            grads.accumulate(0, backend.conv1d_backward_input(&dout, &self.weight, self.spec, length)?)?;
        }
        Ok(())
    }
}

/// As [`conv1d`], of one-hot DNA `[B,L]` with `weight` `[O,4,K]`; see [`Backend::dna_conv1d`].
pub fn dna_conv1d<B: Backend>(
    tape: &mut Tape<B>,
    dna: &B::Dna,
    weight: &Var<B>,
    bias: &Var<B>,
    leaky: Option<f32>,
    spec: Conv1d,
) -> Result<Var<B>> {
    let out = tape.backend().dna_conv1d(dna, weight.value(), Some(bias.value()), leaky, spec)?;
    let (dna, shape) = (dna.clone(), weight.shape().to_vec());
    Ok(tape.record_leaky(out, leaky, &[weight, bias], || DnaConv1dBackward { dna, shape, spec }))
}

struct DnaConv1dBackward<B: Backend> {
    dna: B::Dna,
    /// Of the weight.
    shape: Vec<usize>,
    spec: Conv1d,
}

impl<B: Backend> Backward<B> for DnaConv1dBackward<B> {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        let (dweight, dbias) = (grads.slot(0, &self.shape)?, grads.slot(1, &self.shape[..1])?);
        backend.dna_conv1d_backward_weight(&self.dna, &dout, self.spec, dweight.as_ref(), dbias.as_ref())
    }
}

/// Transposed convolution of `[B,L,I]` with `weight` `[I,O,K]` to `length` positions, then LeakyReLU if `leaky` names its
/// slope; see [`Backend::conv_transpose1d`].
pub fn conv_transpose1d<B: Backend>(
    tape: &mut Tape<B>,
    inp: &Var<B>,
    weight: &Var<B>,
    bias: &Var<B>,
    leaky: Option<f32>,
    spec: Conv1d,
    length: usize,
) -> Result<Var<B>> {
    let backend = tape.backend();
    let out = backend.conv_transpose1d(inp.value(), weight.value(), Some(bias.value()), leaky, spec, length)?;
    let (inp_value, w) = (inp.value().clone(), weight.value().clone());
    Ok(tape.record_leaky(out, leaky, &[inp, weight, bias], || ConvTranspose1dBackward {
        inp: inp_value,
        weight: w,
        spec,
    }))
}

struct ConvTranspose1dBackward<B: Backend> {
    inp: Tensor<B>,
    weight: Tensor<B>,
    spec: Conv1d,
}

impl<B: Backend> Backward<B> for ConvTranspose1dBackward<B> {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        if let Some(dbias) = grads.slot(2, &self.weight.shape()[1..2])? {
            // A sum over columns, as a linear map's bias.
            backend.linear_backward_weight(&dout, &dout, None, Some(&dbias))?;
        }
        // The adjoint's weight gradient is the convolution's, its input and output exchanged.
        if let Some(dweight) = grads.slot(1, self.weight.shape())? {
            backend.conv1d_backward_weight(&dout, &self.inp, self.spec, Some(&dweight), None)?;
        }
        if let Some(slope) = grads.leaky(0) {
            let dinp = backend.conv_transpose1d_backward_leaky(&dout, &self.weight, self.spec, &self.inp, slope)?;
            grads.accumulate_before_leaky(0, dinp)?;
        } else if grads.wants(0) {
            grads.accumulate(0, backend.conv1d(&dout, &self.weight, None, None, self.spec)?)?;
        }
        Ok(())
    }
}
