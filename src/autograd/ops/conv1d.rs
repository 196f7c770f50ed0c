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
    let (inp_value, w, cut) = (inp.value().clone(), weight.value().clone(), Cut::of(&out, leaky));
    let inputs: Vec<&Var<B>> = [Some(inp), Some(weight), bias].into_iter().flatten().collect();
    let has_bias = bias.is_some();
    Ok(tape.record(out, &inputs, || Conv1dBackward { inp: inp_value, weight: w, has_bias, cut, spec }))
}

struct Conv1dBackward<B: Backend> {
    inp: Tensor<B>,
    weight: Tensor<B>,
    has_bias: bool,
    cut: Cut<B>,
    spec: Conv1d,
}

impl<B: Backend> Backward<B> for Conv1dBackward<B> {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        let dout = self.cut.backward(backend, dout)?;
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

/// The LeakyReLU inside an operator: its slope, and the operator's output, whose signs are those of its input.
struct Cut<B: Backend>(Option<(f32, Tensor<B>)>);

impl<B: Backend> Cut<B> {
    fn of(out: &Tensor<B>, leaky: Option<f32>) -> Self {
        Cut(leaky.map(|slope| (slope, out.clone())))
    }
    fn backward(&self, backend: &B, dout: Tensor<B>) -> Result<Tensor<B>> {
        match &self.0 {
            Some((slope, out)) => backend.leaky_relu_backward(out, &dout, *slope),
            None => Ok(dout),
        }
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
    let (dna, shape, cut) = (dna.clone(), weight.shape().to_vec(), Cut::of(&out, leaky));
    Ok(tape.record(out, &[weight, bias], || DnaConv1dBackward { dna, shape, cut, spec }))
}

struct DnaConv1dBackward<B: Backend> {
    dna: B::Dna,
    /// Of the weight.
    shape: Vec<usize>,
    cut: Cut<B>,
    spec: Conv1d,
}

impl<B: Backend> Backward<B> for DnaConv1dBackward<B> {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        let dout = self.cut.backward(backend, dout)?;
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
    let (inp_value, w, cut) = (inp.value().clone(), weight.value().clone(), Cut::of(&out, leaky));
    Ok(tape.record(out, &[inp, weight, bias], || ConvTranspose1dBackward { inp: inp_value, weight: w, cut, spec }))
}

struct ConvTranspose1dBackward<B: Backend> {
    inp: Tensor<B>,
    weight: Tensor<B>,
    cut: Cut<B>,
    spec: Conv1d,
}

impl<B: Backend> Backward<B> for ConvTranspose1dBackward<B> {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        let dout = self.cut.backward(backend, dout)?;
        if let Some(dbias) = grads.slot(2, &self.weight.shape()[1..2])? {
            // A sum over columns, as a linear map's bias.
            backend.linear_backward_weight(&dout, &dout, None, Some(&dbias))?;
        }
        // The adjoint's weight gradient is the convolution's, its input and output exchanged.
        if let Some(dweight) = grads.slot(1, self.weight.shape())? {
            backend.conv1d_backward_weight(&dout, &self.inp, self.spec, Some(&dweight), None)?;
        }
        if grads.wants(0) {
            grads.accumulate(0, backend.conv1d(&dout, &self.weight, None, None, self.spec)?)?;
        }
        Ok(())
    }
}
