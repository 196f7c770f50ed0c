use crate::autograd::{Backward, Inputs, Tape, Var};
use crate::backend::{Attention, Backend, Tensor};
use crate::error::Result;

/// Multi-head attention over `qkv` `[B,T,3*heads*D]` → `[B,T,heads*D]`; see [`Backend::attention`].
pub fn attention<B: Backend>(tape: &mut Tape<B>, qkv: &Var<B>, spec: Attention) -> Result<Var<B>> {
    let (out, lse) = tape.backend().attention(qkv.value(), &spec, tape.step())?;
    let (saved_qkv, saved_out, step) = (qkv.value().clone(), out.clone(), tape.step().clone());
    Ok(tape.record(out, &[qkv], || AttentionBackward { qkv: saved_qkv, out: saved_out, lse, spec, step }))
}

struct AttentionBackward<B: Backend> {
    qkv: Tensor<B>,
    out: Tensor<B>,
    lse: Tensor<B>,
    spec: Attention,
    step: B::Step,
}

impl<B: Backend> Backward<B> for AttentionBackward<B> {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        let dqkv = backend.attention_backward(self.qkv, &self.out, &self.lse, &dout, &self.spec, &self.step)?;
        grads.accumulate(0, dqkv)
    }
}
