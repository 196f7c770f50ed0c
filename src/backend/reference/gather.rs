//! Batches from a list of samples, base by base.

use super::memory::{Step, tensor};
use super::{Real, Reference};
use crate::backend::DnaBatch;
use crate::backend::gather::{Gathered, NO_MASK, Order, WindowSet};
use crate::error::{Error, Result};
use crate::rng::{self, Permutation, stream};
use std::sync::Arc;

/// Windows as codes, and a list of samples.
#[derive(Clone)]
pub struct Resident {
    /// Codes of every stored window of each side, 4 = N.
    windows: Arc<[Vec<Vec<u8>>; 2]>,
    lengths: [usize; 2],
    flank: usize,
    order: Arc<Order>,
}

pub fn upload(set: &WindowSet<'_>) -> Resident {
    let codes = |side: usize| {
        let side = &set.sides[side];
        let width = side.length + 2 * set.flank;
        let bytes = 8 * width.div_ceil(64);
        let bit = |plane: &[u8], i: usize| plane[i / 8] >> (i % 8) & 1;
        let window = |(w, &mask): (usize, &u32)| {
            let planes = &side.planes[2 * w * bytes..][..2 * bytes];
            let known = |i| mask == NO_MASK || bit(&side.masks[mask as usize * bytes..][..bytes], i) == 1;
            let code = |i| if known(i) { bit(planes, i) | bit(&planes[bytes..], i) << 1 } else { 4 };
            (0..width).map(code).collect()
        };
        side.mask_of.iter().enumerate().map(window).collect()
    };
    let order = Order { entries: Vec::new(), seed: None, shift: 0, reverse_complement: false };
    Resident {
        windows: Arc::new([codes(0), codes(1)]),
        lengths: set.sides.map(|side| side.length),
        flank: set.flank,
        order: Arc::new(order),
    }
}

pub fn with_order(resident: &Resident, order: &Order) -> Resident {
    Resident { order: Arc::new(order.clone()), ..resident.clone() }
}

pub fn gather<T: Real>(resident: &Resident, batch: usize, step: &Step) -> Result<Gathered<Reference<T>>> {
    let (order, state) = (&resident.order, step.read());
    let mut dna = resident.lengths.map(|length| DnaBatch::new(batch, length));
    let (mut labels, mut weights) = (Vec::new(), Vec::new());
    for b in 0..batch {
        let position = state.batch_cursor as usize + b;
        let (mut place, mut words) = (position, [0; 4]);
        let n = order.entries.len();
        if position >= n {
            return Err(Error::shape("gather", format!("position {position} of a list of {n}")));
        }
        if let Some(seed) = order.seed {
            place = Permutation::new(n as u64, seed, state.epoch).at(position as u64) as usize;
            words = rng::block(seed, stream::AUGMENT, state.epoch, position as u64);
        }
        let entry = &order.entries[place];
        let reversed = order.reverse_complement && words[2] >> 31 == 1;
        for (side, out) in dna.iter_mut().enumerate() {
            let (window, length) = (&resident.windows[side][entry.windows[side] as usize], resident.lengths[side]);
            let span = 2 * u64::from(order.shift) + 1;
            let drawn =
                order.seed.map_or(0, |_| ((u64::from(words[side]) * span) >> 32) as i64 - i64::from(order.shift));
            let start = resident.flank as i64 + i64::from(entry.shifts[side]) + drawn;
            let base =
                |i: usize| usize::try_from(start + i as i64).ok().and_then(|i| window.get(i).copied()).unwrap_or(4);
            let complement = |code: u8| if code < 4 { 3 - code } else { 4 };
            out.write(b, (0..length).map(|i| if reversed { complement(base(length - 1 - i)) } else { base(i) }));
        }
        labels.push(T::of(entry.label.into()));
        weights.push(T::of(entry.weight.into()));
    }
    let [labels, weights] = [labels, weights].map(|values| tensor(values, &[batch]));
    Ok(Gathered { dna: dna.map(Arc::new), lengths: resident.lengths, labels, weights })
}
