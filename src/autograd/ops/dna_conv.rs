use super::{batch_norm, conv1d, max_pool, relu};
use crate::autograd::{Backward, Inputs, Tape, Var};
use crate::backend::{Backend, BatchNorm, Conv1d, DnaAffine, DnaConv, DnaConvGrads, Tensor};
use crate::error::{Error, Result};

/// What follows the convolution, as variables; see [`DnaAffine`].
#[derive(Clone)]
pub enum DnaAffineVars<B: Backend> {
    BatchNorm { gamma: Var<B>, beta: Var<B>, running_mean: Tensor<B>, running_var: Tensor<B> },
    Bias(Var<B>),
}

impl<B: Backend> DnaAffineVars<B> {
    fn tensors(&self) -> DnaAffine<'_, B> {
        match self {
            DnaAffineVars::BatchNorm { gamma, beta, running_mean, running_var } => {
                DnaAffine::BatchNorm { gamma: gamma.value(), beta: beta.value(), running_mean, running_var }
            }
            DnaAffineVars::Bias(bias) => DnaAffine::Bias(bias.value()),
        }
    }
}

/// The whole first block on DNA, `[B,L]` bases → `[B,P,C]`; see [`Backend::dna_conv`].
pub fn dna_conv<B: Backend>(
    tape: &mut Tape<B>,
    dna: &B::Dna,
    weight: &Var<B>,
    affine: &DnaAffineVars<B>,
    spec: DnaConv,
) -> Result<Var<B>> {
    let (out, saved) = tape.backend().dna_conv(dna, &spec, weight.value(), affine.tensors(), tape.step())?;
    let inputs = match affine {
        DnaAffineVars::BatchNorm { gamma, beta, .. } => vec![weight, gamma, beta],
        DnaAffineVars::Bias(bias) => vec![weight, bias],
    };
    let step = tape.step().clone();
    let (dna, weight, affine) = (dna.clone(), weight.value().clone(), affine.clone());
    Ok(tape.record(out, &inputs, || DnaConvBackward { dna, weight, affine, spec, saved, step }))
}

/// [`dna_conv`] of windows of floats `[B,L,4]` → `[B,P,C]`, differentiable with respect to them; evaluation mode only.
/// At exact one-hot input it gives what [`dna_conv`] gives.
pub fn soft_dna_conv<B: Backend>(
    tape: &mut Tape<B>,
    inp: &Var<B>,
    weight: &Var<B>,
    affine: &DnaAffineVars<B>,
    spec: DnaConv,
) -> Result<Var<B>> {
    if spec.train {
        let message = "soft windows are read in evaluation mode only".into();
        return Err(Error::Unsupported { op: "soft_dna_conv", message });
    }
    let plain = Conv1d { stride: 1, padding: 0 };
    let out = match affine {
        DnaAffineVars::BatchNorm { gamma, beta, running_mean, running_var } => {
            let out = conv1d(tape, inp, weight, None, None, plain)?;
            let norm = BatchNorm { train: false, eps: spec.eps, momentum: spec.momentum };
            batch_norm(tape, &out, gamma, beta, [running_mean, running_var], norm)?
        }
        DnaAffineVars::Bias(bias) => conv1d(tape, inp, weight, Some(bias), None, plain)?,
    };
    let out = relu(tape, &out)?;
    max_pool(tape, &out, spec.pool)
}

struct DnaConvBackward<B: Backend> {
    dna: B::Dna,
    weight: Tensor<B>,
    affine: DnaAffineVars<B>,
    spec: DnaConv,
    saved: B::DnaConvSaved,
    step: B::Step,
}

impl<B: Backend> Backward<B> for DnaConvBackward<B> {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        let channels = [self.spec.channels];
        let dweight = grads.slot(0, self.weight.shape())?;
        let first = grads.slot(1, &channels)?;
        let (dgamma, dbeta) = match self.affine {
            DnaAffineVars::BatchNorm { .. } => (first, grads.slot(2, &channels)?),
            DnaAffineVars::Bias(_) => (None, first),
        };
        let slots = DnaConvGrads { dweight: dweight.as_ref(), dgamma: dgamma.as_ref(), dbeta: dbeta.as_ref() };
        let affine = self.affine.tensors();
        backend.dna_conv_backward(&self.dna, &self.spec, &self.weight, affine, &self.saved, &dout, slots, &self.step)
    }
}
