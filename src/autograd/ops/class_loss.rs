use crate::autograd::{Backward, Inputs, Tape, Var};
use crate::backend::{Backend, ClassLoss, Tensor};
use crate::error::Result;

/// Loss `[1]` of `logits` `[B,K]` and the probabilities `[B,K]`; see [`Backend::class_loss`].
pub fn class_loss<B: Backend>(
    tape: &mut Tape<B>,
    logits: &Var<B>,
    labels: &Tensor<B>,
    weights: &Tensor<B>,
    kind: ClassLoss,
) -> Result<(Var<B>, Tensor<B>)> {
    let (loss, probabilities) = tape.backend().class_loss(logits.value(), labels, weights, kind)?;
    let op = ClassLossBackward {
        probabilities: probabilities.clone(),
        labels: labels.clone(),
        weights: weights.clone(),
        kind,
    };
    Ok((tape.record(loss, &[logits], || op), probabilities))
}

struct ClassLossBackward<B: Backend> {
    probabilities: Tensor<B>,
    labels: Tensor<B>,
    weights: Tensor<B>,
    kind: ClassLoss,
}

impl<B: Backend> Backward<B> for ClassLossBackward<B> {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        let dlogits =
            backend.class_loss_backward(&self.probabilities, &self.labels, &self.weights, &dout, self.kind)?;
        grads.accumulate(0, dlogits)
    }
}
