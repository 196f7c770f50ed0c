//! Attention maps: rows of the softmax for one head at a time, never a map of all of them.

use rayon::prelude::*;

use super::Npz;
use super::pairs::Place;
use super::scorer::{Scorer, Windows};
use super::svg::Svg;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::models::Model;

/// Query rows that are computed and written together.
pub const TILE: usize = 64;

/// Queries and keys of one pair.
pub struct Heads {
    /// `[T,3*heads*D]`
    qkv: Vec<f32>,
    pub time: usize,
    /// Positions of the enhancer; the promoter's follow.
    pub enhancer: usize,
    pub heads: usize,
    size: usize,
    /// Bases from one position to the next, and bases that a position sees.
    pub pool: usize,
    pub seen: usize,
}

impl Heads {
    /// Runs a pair up to its attention layer.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for networks without one.
    pub fn of<B: Backend>(scorer: &Scorer<'_, B>, windows: &Windows) -> Result<Self> {
        let none = || Error::Unsupported {
            op: "attention",
            message: format!("{} has no attention layer", scorer.model.name()),
        };
        let spec = scorer.model.attention().ok_or_else(none)?;
        let conv = scorer.model.first_convolution().ok_or_else(none)?;
        let batch = scorer.upload(&[[&windows.codes[0], &windows.codes[1]]])?;
        let mut tape = scorer.tape().keep_activation_gradients();
        scorer.model.forward(&mut tape, &scorer.parameters.constants(), &batch)?;
        let qkv = tape.named().iter().find(|(name, _)| *name == "qkv").ok_or_else(none)?.1.clone();
        Ok(Heads {
            time: qkv.shape()[1],
            qkv: scorer.backend.to_f32(qkv.value())?,
            enhancer: conv.pooled_length(windows.codes[0].len()),
            heads: spec.heads,
            size: spec.head_size,
            pool: conv.pool,
            seen: conv.kernel + conv.pool - 1,
        })
    }
    /// Attention of queries `from..to` to every key, `[to-from,T]`; each row adds up to 1.
    pub fn rows(&self, head: usize, from: usize, to: usize) -> Vec<f32> {
        let width = self.heads * self.size;
        let vector = |part: usize, t: usize| &self.qkv[(t * 3 + part) * width + head * self.size..][..self.size];
        let scale = 1.0 / (self.size as f32).sqrt();
        let mut out = vec![0.0; (to - from) * self.time];
        out.par_chunks_exact_mut(self.time).enumerate().for_each(|(i, row)| {
            let query = vector(0, from + i);
            for (key, score) in row.iter_mut().enumerate() {
                *score = scale * query.iter().zip(vector(1, key)).map(|(q, k)| q * k).sum::<f32>();
            }
            let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().for_each(|s| *s = (*s - top).exp());
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|s| *s /= sum);
        });
        out
    }
    /// Side, and first base within its window, of position `t`.
    pub fn place(&self, t: usize) -> (usize, usize) {
        if t < self.enhancer { (0, t * self.pool) } else { (1, (t - self.enhancer) * self.pool) }
    }
}

/// What was seen while a map was written.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Mean over heads and queries of the attention that each position receives, `[T]`.
    pub received: Vec<f64>,
    /// Of which from queries in the other element.
    pub from_other: Vec<f64>,
    /// Per head the map in bins, `[bins][bins]`: means as multiples of even attention, `1 / T`.
    pub binned: Vec<Vec<Vec<f64>>>,
}

/// Writes `row<N>_attention` `[heads,T,T]` tile by tile.
pub fn write_maps(npz: &mut Npz, place: &Place, heads: &Heads) -> Result<Summary> {
    const BINS: usize = 60;
    let (t, bins) = (heads.time, BINS.min(heads.time));
    let (mut received, mut from_other) = (vec![0.0; t], vec![0.0; t]);
    let mut binned = vec![vec![vec![0.0; bins]; bins]; heads.heads];
    npz.array(&format!("row{}_attention", place.row), &[heads.heads, t, t])?;
    for head in 0..heads.heads {
        for from in (0..t).step_by(TILE) {
            let to = (from + TILE).min(t);
            let rows = heads.rows(head, from, to);
            npz.values(&rows)?;
            for (query, row) in (from..to).zip(rows.chunks_exact(t)) {
                let share = 1.0 / (t * heads.heads) as f64;
                let cells = &mut binned[head][query * bins / t];
                for (key, &weight) in row.iter().enumerate() {
                    let weight = f64::from(weight);
                    received[key] += share * weight;
                    if (query < heads.enhancer) != (key < heads.enhancer) {
                        from_other[key] += share * weight;
                    }
                    cells[key * bins / t] += weight * t as f64;
                }
            }
        }
    }
    // Bins differ by a position in size.
    let mut sizes = vec![0.0; bins];
    (0..t).for_each(|position| sizes[position * bins / t] += 1.0);
    for (row, rows) in binned.iter_mut().flat_map(|map| map.iter_mut().zip(&sizes)) {
        row.iter_mut().zip(&sizes).for_each(|(sum, columns)| *sum /= rows * columns);
    }
    Ok(Summary { received, from_other, binned })
}

/// The maps of all heads; queries downwards, keys to the right, the enhancer first. White is even attention; colours follow
/// the logarithm, so that half and twice are as strong.
pub fn draw(place: &Place, heads: &Heads, summary: &Summary) -> String {
    const SIZE: f64 = 240.0;
    let mut svg = Svg::new();
    let title = format!("row {}: {} with {}", place.row, place.window(0), place.window(1));
    svg.text(10.0, 18.0, 13.0, &title);
    for (head, map) in summary.binned.iter().enumerate() {
        let (x, y) = (10.0 + (SIZE + 20.0) * (head % 4) as f64, 44.0 + (SIZE + 34.0) * (head / 4) as f64);
        let (least, most) = map.iter().flatten().fold((f64::MAX, 0.0f64), |(l, m), &v| (l.min(v), m.max(v)));
        svg.text(x, y - 4.0, 11.0, &format!("head {head}: {least:.2} to {most:.2} times even"));
        let map: Vec<Vec<f64>> = map.iter().map(|row| row.iter().map(|v| v.max(1e-9).log2()).collect()).collect();
        let limit = map.iter().flatten().fold(0.1f64, |m, v| m.max(v.abs()));
        svg.heat_map([x, y, SIZE, SIZE], &map, limit);
        let edge = SIZE * heads.enhancer as f64 / heads.time as f64;
        svg.rectangle([x + edge, y, 0.6, SIZE], "#888888");
        svg.rectangle([x, y + edge, SIZE, 0.6], "#888888");
    }
    svg.finish()
}
