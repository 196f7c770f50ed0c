//! One layer of an LSTM, forward and backward.

use super::{Case, Maker, Run};
use crate::backend::cost;
use crate::backend::{Backend, Gate, LstmWeights, Tensor};
use crate::error::Result;

/// Shape `[B,T,I]` of the input, units of a direction, and what squashes its gates.
pub struct Layer {
    pub shape: [usize; 3],
    pub hidden: usize,
    pub gate: Gate,
}

fn inputs<B: Backend>(m: &Maker<B>, layer: &Layer) -> Result<(Tensor<B>, [LstmWeights<B>; 2])> {
    let (h, i) = (layer.hidden, layer.shape[2]);
    let direction = || -> Result<_> {
        Ok(LstmWeights {
            weight_ih: m.weight(&[4 * h, i], i)?,
            weight_hh: m.weight(&[4 * h, h], h)?,
            bias_ih: m.weight(&[4 * h], h)?,
            bias_hh: Some(m.weight(&[4 * h], h)?),
        })
    };
    Ok((m.normal(&layer.shape)?, [direction()?, direction()?]))
}

/// With `save`, what backward needs is kept.
pub fn forward<B: Backend>(m: &Maker<B>, layer: Layer, save: bool) -> Result<Case<B>> {
    let (inp, weights) = inputs(m, &layer)?;
    let Layer { shape: [batch, time, i], hidden, gate } = layer;
    m.case((inp.shape().to_vec(), hidden), cost::lstm(batch * time, i, hidden, save), move |b| {
        b.lstm(&inp, &weights, gate, save).map(|(out, _)| vec![out])
    })
}

pub fn backward<B: Backend>(m: &Maker<B>, layer: Layer) -> Result<Case<B>> {
    let (inp, weights) = inputs(m, &layer)?;
    let Layer { shape: [batch, time, i], hidden, gate } = layer;
    let (shape, dout) = ((inp.shape().to_vec(), hidden), m.normal(&[batch, time, 2 * hidden])?);
    let zeros = |like: &Tensor<B>| m.b.zeros(like.shape());
    let slots = |w: &LstmWeights<B>| -> Result<_> {
        let bias_hh = w.bias_hh.as_ref().map(zeros).transpose()?;
        let (weight_ih, weight_hh) = (zeros(&w.weight_ih)?, zeros(&w.weight_hh)?);
        Ok(LstmWeights { weight_ih, weight_hh, bias_ih: zeros(&w.bias_ih)?, bias_hh })
    };
    let slots = [slots(&weights[0])?, slots(&weights[1])?];
    let b = m.b.clone();
    // Backward consumes what forward has saved, so every execution needs a forward pass before it.
    let prepare = move || {
        let (_, saved) = b.lstm(&inp, &weights, gate, true)?;
        let saved = saved.expect("asked for");
        let (b, inp, weights, dout, slots) = (b.clone(), inp.clone(), weights.clone(), dout.clone(), slots.clone());
        let run = move || {
            let dinp = b.lstm_backward(&inp, &weights, gate, saved, &dout, Some(&slots), true)?;
            let each = |w: &LstmWeights<B>| [w.weight_ih.clone(), w.weight_hh.clone(), w.bias_ih.clone()];
            Ok(dinp.into_iter().chain(slots.iter().flat_map(each)).collect())
        };
        Ok(Box::new(run) as Run<B>)
    };
    let cost = cost::lstm_backward(batch * time, i, hidden);
    Ok(Case { shape: format!("{shape:?}"), cost, prepare: Box::new(prepare) })
}
