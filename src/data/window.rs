//! Stored windows: two bit planes per distinct sequence, a third ("known") only for those that hold an N.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use crate::data::table::Side;

pub use crate::backend::gather::NO_MASK;

/// Words of one plane of a window of `width` bases.
pub fn words(width: usize) -> usize {
    width.div_ceil(64)
}

/// The distinct windows of one side, in memory, while a data set is being made.
///
/// Each window holds `width` = length + 2·flank bases as a low and a high plane of [`words`] words.
#[derive(Clone, Debug, Default)]
pub struct Windows {
    width: usize,
    /// `[window][low, high][word]`
    pub planes: Vec<u64>,
    /// `[mask][word]`, 1 = known.
    pub masks: Vec<u64>,
    /// Mask of each window, or [`NO_MASK`].
    pub mask_of: Vec<u32>,
    /// Window of each element.
    pub of_element: Vec<u32>,
    /// Window by the hash of its planes; 128 bits of SHA-256 do not collide.
    seen: HashMap<[u8; 16], u32>,
}

impl Windows {
    /// No windows yet; each will hold `width` bases.
    pub fn new(width: usize) -> Self {
        Windows { width, ..Windows::default() }
    }
    /// Bases per window, flanks included.
    pub fn width(&self) -> usize {
        self.width
    }
    /// Number of distinct windows.
    pub fn len(&self) -> usize {
        self.mask_of.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.mask_of.is_empty()
    }
    /// Appends a window for the next element: codes 0..=3, anything else (or missing) is N.
    pub fn push(&mut self, codes: &[u8]) -> u32 {
        let n = words(self.width);
        let mut key = vec![0u64; 3 * n];
        for (i, &code) in codes.iter().take(self.width).enumerate().filter(|(_, code)| **code < 4) {
            let (word, bit) = (i / 64, i % 64);
            key[word] |= u64::from(code & 1) << bit;
            key[n + word] |= u64::from(code >> 1) << bit;
            key[2 * n + word] |= 1 << bit;
        }
        let window = self.intern(&key);
        self.of_element.push(window);
        window
    }
    /// The next element shows a window that is already here.
    pub fn push_shared(&mut self, window: u32) {
        assert!((window as usize) < self.len(), "window {window} of {}", self.len());
        self.of_element.push(window);
    }
    /// Equal sequences are stored once, whatever they are called.
    fn intern(&mut self, planes: &[u64]) -> u32 {
        let n = words(self.width);
        let mut sha = Sha256::new();
        planes.iter().for_each(|word| sha.update(word.to_le_bytes()));
        let hash = sha.finalize()[..16].try_into().expect("sixteen bytes");
        *self.seen.entry(hash).or_insert_with(|| {
            let known = &planes[2 * n..];
            let whole = known.iter().map(|w| w.count_ones() as usize).sum::<usize>() == self.width;
            self.planes.extend_from_slice(&planes[..2 * n]);
            self.mask_of.push(if whole { NO_MASK } else { (self.masks.len() / n) as u32 });
            if !whole {
                self.masks.extend_from_slice(known);
            }
            self.mask_of.len() as u32 - 1
        })
    }
}

/// One stored plane: little-endian words at any alignment, of which the first `width` bits count.
#[derive(Clone, Copy)]
pub struct Plane<'a> {
    bytes: &'a [u8],
    width: usize,
}

impl<'a> Plane<'a> {
    /// A plane of `width` bits; `bytes` holds exactly its words.
    pub fn new(bytes: &'a [u8], width: usize) -> Self {
        debug_assert_eq!(bytes.len(), 8 * words(width));
        Plane { bytes, width }
    }
    #[inline]
    fn word(&self, i: i64) -> u64 {
        let Some(bytes) = usize::try_from(i).ok().and_then(|i| self.bytes.get(8 * i..8 * i + 8)) else { return 0 };
        u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
    }
    /// 64 bits from bit `at` on; those outside of the stored words are 0.
    #[inline]
    pub fn bits(&self, at: i64) -> u64 {
        let (word, shift) = (at.div_euclid(64), at.rem_euclid(64));
        let low = self.word(word) >> shift;
        if shift == 0 { low } else { low | self.word(word + 1) << (64 - shift) }
    }
    /// 64 bits of the plane of a window without N: 1 inside, 0 outside.
    #[inline]
    fn inside(&self, at: i64) -> u64 {
        let from = (-at).clamp(0, 64) as u32;
        let to = (self.width as i64 - at).clamp(0, 64) as u32;
        if to <= from { 0 } else { u64::MAX >> (64 - (to - from)) << from }
    }
}

/// Copies `length` bases from base `start` (may lie outside: N) of a stored window into the planes of a batch, by words.
pub fn copy_window(
    (low, high, known): (Plane, Plane, Option<Plane>),
    start: i64,
    length: usize,
    reverse_complement: bool,
    (to_low, to_high, to_known): (&mut [u64], &mut [u64], &mut [u64]),
) {
    for j in 0..words(length) {
        let live = if j < length / 64 { u64::MAX } else { (1u64 << (length % 64)) - 1 };
        // Bit i of the reverse strand is base length-1-i: the 64 bits that end before `length - 64 j`, mirrored.
        let at = if reverse_complement { start + length as i64 - 64 * (j as i64 + 1) } else { start + 64 * j as i64 };
        let seen = low.inside(at) & known.map_or(u64::MAX, |plane| plane.bits(at));
        let (l, h) = (low.bits(at), high.bits(at));
        let (l, h, seen) =
            if reverse_complement { (!l.reverse_bits(), !h.reverse_bits(), seen.reverse_bits()) } else { (l, h, seen) };
        let seen = seen & live;
        (to_low[j], to_high[j], to_known[j]) = (l & seen, h & seen, seen);
    }
}

/// Position of a side in per-side arrays.
pub fn index(side: Side) -> usize {
    match side {
        Side::Enhancer => 0,
        Side::Promoter => 1,
    }
}
