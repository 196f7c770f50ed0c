use crate::autograd::{Backward, Inputs, Tape, Var};
use crate::backend::{Backend, Gate, LstmWeights, Tensor};
use crate::error::Result;

/// Weights of one direction as variables; shapes as [`LstmWeights`].
#[derive(Clone)]
pub struct LstmVars<B: Backend> {
    pub weight_ih: Var<B>,
    pub weight_hh: Var<B>,
    pub bias_ih: Var<B>,
    pub bias_hh: Option<Var<B>>,
}

impl<B: Backend> LstmVars<B> {
    fn tensors(&self) -> LstmWeights<B> {
        LstmWeights {
            weight_ih: self.weight_ih.value().clone(),
            weight_hh: self.weight_hh.value().clone(),
            bias_ih: self.bias_ih.value().clone(),
            bias_hh: self.bias_hh.as_ref().map(|b| b.value().clone()),
        }
    }
    fn variables(&self) -> impl Iterator<Item = &Var<B>> {
        [Some(&self.weight_ih), Some(&self.weight_hh), Some(&self.bias_ih), self.bias_hh.as_ref()].into_iter().flatten()
    }
}

/// One bidirectional layer, `[B,T,I]` → `[B,T,2H]`; see [`Backend::lstm`].
pub fn bilstm<B: Backend>(
    tape: &mut Tape<B>,
    inp: &Var<B>,
    directions: &[LstmVars<B>; 2],
    gate: Gate,
) -> Result<Var<B>> {
    let weights = [directions[0].tensors(), directions[1].tensors()];
    let mut inputs = vec![inp];
    inputs.extend(directions.iter().flat_map(LstmVars::variables));
    let (out, saved) = tape.backend().lstm(inp.value(), &weights, gate, tape.wants(&inputs))?;
    let x = inp.value().clone();
    // Not wanted: `record` will not ask for the operator, so there is nothing saved to hand over.
    let Some(saved) = saved else { return Ok(Var::constant(out)) };
    Ok(tape.record(out, &inputs, || LstmBackward { inp: x, weights, gate, saved }))
}

struct LstmBackward<B: Backend> {
    inp: Tensor<B>,
    weights: [LstmWeights<B>; 2],
    gate: Gate,
    saved: B::LstmSaved,
}

impl<B: Backend> Backward<B> for LstmBackward<B> {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        let Self { inp, weights, gate, saved } = *self;
        let mut next = 1;
        let mut slots = |w: &LstmWeights<B>| -> Result<Option<LstmWeights<B>>> {
            let mut take = |like: &Tensor<B>| {
                next += 1;
                grads.slot(next - 1, like.shape())
            };
            let (ih, hh, bias) = (take(&w.weight_ih)?, take(&w.weight_hh)?, take(&w.bias_ih)?);
            let bias_hh = w.bias_hh.as_ref().map(&mut take).transpose()?.flatten();
            Ok(match (ih, hh, bias) {
                (Some(weight_ih), Some(weight_hh), Some(bias_ih)) => {
                    Some(LstmWeights { weight_ih, weight_hh, bias_ih, bias_hh })
                }
                _ => None,
            })
        };
        // The weights of a layer are wanted together or not at all (a frozen layer).
        let slots = match (slots(&weights[0])?, slots(&weights[1])?) {
            (Some(forward), Some(reverse)) => Some([forward, reverse]),
            _ => None,
        };
        let need_input = grads.wants(0);
        let dinp = backend.lstm_backward(&inp, &weights, gate, saved, &dout, slots.as_ref(), need_input)?;
        match dinp {
            Some(dinp) => grads.accumulate(0, dinp),
            None => Ok(()),
        }
    }
}
