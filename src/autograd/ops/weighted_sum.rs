use crate::autograd::{Backward, Inputs, Tape, Var};
use crate::backend::{Backend, Tensor};
use crate::error::Result;

/// `Σ_i factors[i] · terms[i]` of values of one shape, such as the terms of a loss; see [`Backend::weighted_sum`].
pub fn weighted_sum<B: Backend>(tape: &mut Tape<B>, terms: &[&Var<B>], factors: &[f32]) -> Result<Var<B>> {
    let values: Vec<_> = terms.iter().map(|term| term.value()).collect();
    let out = tape.backend().weighted_sum(&values, factors)?;
    Ok(tape.record(out, terms, || WeightedSumBackward { factors: factors.to_vec() }))
}

struct WeightedSumBackward {
    factors: Vec<f32>,
}

impl<B: Backend> Backward<B> for WeightedSumBackward {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        for (i, &factor) in self.factors.iter().enumerate() {
            if grads.wants(i) {
                grads.accumulate(i, backend.weighted_sum(&[&dout], &[factor])?)?;
            }
        }
        Ok(())
    }
}
