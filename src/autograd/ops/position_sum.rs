use crate::autograd::{Backward, Inputs, Tape, Var};
use crate::backend::{Backend, Tensor};
use crate::error::Result;

/// Sum over positions, `[B,L,C]` → `[B,C]`.
pub fn position_sum<B: Backend>(tape: &mut Tape<B>, inp: &Var<B>) -> Result<Var<B>> {
    let [_, length, _] = inp.value().dims("position_sum")?;
    let out = tape.backend().position_sum(inp.value())?;
    Ok(tape.record(out, &[inp], || PositionSumBackward { length }))
}

struct PositionSumBackward {
    length: usize,
}

impl<B: Backend> Backward<B> for PositionSumBackward {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        grads.accumulate(0, backend.position_sum_backward(&dout, self.length)?)
    }
}
