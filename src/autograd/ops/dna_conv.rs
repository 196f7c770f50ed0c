use crate::autograd::{Backward, Inputs, Tape, Var};
use crate::backend::{Backend, DnaAffine, DnaConv, DnaConvGrads, Tensor};
use crate::error::Result;

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
