//! Copies of one sample that differ at a few positions: what they share is computed once.

use super::epsat::Epsat;
use super::{Model, Output};
use crate::autograd::{Tape, Var};
use crate::backend::{Backend, Gate, LstmWeights, Tensor};
use crate::error::Result;
use crate::nn::Bound;

/// Hidden values of the unchanged sample.
pub struct Kept<B: Backend> {
    /// Joined positions `[T,C]`, then the output `[T,2H]` of every LSTM layer, on the host.
    layers: Vec<Vec<f32>>,
    /// Queries, keys and values `[T,3*heads*D]`.
    qkv: Tensor<B>,
    time: usize,
}

/// Which positions of each copy changed, and into what.
#[derive(Clone, Debug)]
pub struct Changed {
    /// First changed position of each copy.
    pub starts: Vec<usize>,
    /// Changed positions of a copy.
    pub count: usize,
    /// Their new values `[B,count,C]`.
    pub rows: Vec<f32>,
}

impl Epsat {
    fn layer_weights<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        layer: usize,
    ) -> Result<[LstmWeights<B>; 2]> {
        let mut direction = |suffix: &str| -> Result<LstmWeights<B>> {
            let mut value = |part: &str| -> Result<Tensor<B>> {
                Ok(parameters.var(tape, &format!("lstm_layer.0.{part}_l{layer}{suffix}"))?.value().clone())
            };
            Ok(LstmWeights {
                weight_ih: value("weight_ih")?,
                weight_hh: value("weight_hh")?,
                bias_ih: value("bias_ih")?,
                bias_hh: Some(value("bias_hh")?),
            })
        };
        Ok([direction("")?, direction("_reverse")?])
    }

    /// See [`Model::keep`].
    pub(super) fn keep_states<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        positions: &[f32],
    ) -> Result<Kept<B>> {
        let channels = self.channels();
        let (backend, time) = (tape.backend().clone(), positions.len() / channels);
        let mut x = backend.from_f32(positions, &[1, time, channels])?;
        let mut layers = vec![positions.to_vec()];
        for layer in 0..self.layer_count() {
            let weights = self.layer_weights(tape, parameters, layer)?;
            x = backend.lstm(&x, &weights, Gate::Sigmoid, false)?.0;
            layers.push(backend.to_f32(&x)?);
        }
        let qkv = self.qkv(tape, parameters, &Var::constant(x))?;
        let qkv = qkv.value().reshape(&[time, qkv.value().len() / time])?;
        Ok(Kept { layers, qkv, time })
    }

    /// See [`Model::from_changed`]. A layer runs over its window for the copies and for the unchanged sample alike; what is
    /// added to the kept states is the difference, so that the zero state in which a window begins cancels to first order.
    pub(super) fn rerun<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        kept: &Kept<B>,
        changed: &Changed,
        margin: usize,
        labels: &Tensor<B>,
        weights: &Tensor<B>,
    ) -> Result<Output<B>> {
        let (backend, copies) = (tape.backend().clone(), changed.starts.len());
        let mut from = changed.starts.iter().copied().min().unwrap_or(0);
        let mut to = changed.starts.iter().copied().max().unwrap_or(0) + changed.count;
        let channels = self.channels();
        // Differences from the kept values over `from..to`, `[B,to-from,width]`.
        let mut difference = vec![0.0; copies * (to - from) * channels];
        for (b, &start) in changed.starts.iter().enumerate() {
            let size = changed.count * channels;
            let old = &kept.layers[0][start * channels..][..size];
            let at = (b * (to - from) + start - from) * channels;
            for ((d, new), old) in difference[at..][..size].iter_mut().zip(&changed.rows[b * size..]).zip(old) {
                *d = new - old;
            }
        }
        for layer in 0..self.layer_count() {
            let width = kept.layers[layer].len() / kept.time;
            let (begin, end) = (from.saturating_sub(margin), (to + margin).min(kept.time));
            let mut x = spread(&kept.layers[layer], width, begin, end, copies + 1);
            add(&mut x, &difference, width, copies, (begin, end), (from, to));
            let x = backend.from_f32(&x, &[copies + 1, end - begin, width])?;
            let layer_weights = self.layer_weights(tape, parameters, layer)?;
            let mut y = backend.to_f32(&backend.lstm(&x, &layer_weights, Gate::Sigmoid, false)?.0)?;
            let size = y.len() / (copies + 1);
            let unchanged = y.split_off(copies * size);
            y.chunks_exact_mut(size).for_each(|y| y.iter_mut().zip(&unchanged).for_each(|(y, u)| *y -= u));
            (difference, from, to) = (y, begin, end);
        }
        let last = &kept.layers[self.layer_count()];
        let width = last.len() / kept.time;
        // Rows at the rim whose difference has died away to nothing are those of the unchanged sample.
        let begin = from + calm(&difference, copies, to - from, width, false).min(to - from - 1);
        let end = to - calm(&difference, copies, to - from, width, true).min(to - 1 - begin);
        let mut hidden = spread(last, width, begin, end, copies);
        for (b, copy) in hidden.chunks_exact_mut((end - begin) * width).enumerate() {
            let new = &difference[(b * (to - from) + begin - from) * width..];
            copy.iter_mut().zip(new).for_each(|(x, d)| *x += d);
        }
        let hidden = Var::constant(backend.from_f32(&hidden, &[copies, end - begin, width])?);
        let fresh = self.qkv(tape, parameters, &hidden)?;
        let spec = self.attention().expect("an attention layer");
        let attended = backend.attention_of_copies(&kept.qkv, fresh.value(), begin, &spec)?;
        self.from_attended(tape, parameters, &Var::constant(attended), labels, weights)
    }
}

/// Rows at the front (or the back) of `difference` `[copies,rows,width]` in which no copy differs.
fn calm(difference: &[f32], copies: usize, rows: usize, width: usize, back: bool) -> usize {
    let still = |r: usize| {
        let row = if back { rows - 1 - r } else { r };
        (0..copies).all(|b| difference[(b * rows + row) * width..][..width].iter().all(|d| *d == 0.0))
    };
    (0..rows).take_while(|&r| still(r)).count()
}

/// Rows `begin..end` of `values` `[T,width]`, `copies` times.
fn spread(values: &[f32], width: usize, begin: usize, end: usize, copies: usize) -> Vec<f32> {
    values[begin * width..end * width].repeat(copies)
}

/// Adds to `x` `[..,end-begin,width]` the differences `[copies,to-from,width]` of the rows `from..to`.
fn add(
    x: &mut [f32],
    difference: &[f32],
    width: usize,
    copies: usize,
    (begin, end): (usize, usize),
    (from, to): (usize, usize),
) {
    let size = (to - from) * width;
    for b in 0..copies {
        let at = (b * (end - begin) + from - begin) * width;
        x[at..][..size].iter_mut().zip(&difference[b * size..]).for_each(|(x, d)| *x += d);
    }
}
