//! Streaming multi-head attention. One (sample, head) per shard: keys are packed once, then eight queries at a time see all
//! keys, so only `8 × T` scores exist per core. Scores are kept in units of `log 2`, which saves a product per exponential.

use super::gemm::{VECTORS, tile};
use super::parallel::{Ptr, shards_with};
use super::simd::math::exp2;
use super::simd::{Simd, kernel};
use super::{Cpu, Step, Tensor};
use crate::backend::Attention;
use crate::error::{Error, Result};
use crate::rng::Dropout;

/// Queries that are worked on together: the rows of the register tile.
const QUERIES: usize = 8;

/// One head of one sample; pointers are at its first element.
#[derive(Clone, Copy)]
pub struct Head {
    pub time: usize,
    pub size: usize,
    /// Floats from one position to the next in `qkv` (a third of it from Q to K to V) and in `out`.
    pub row: usize,
    pub out_row: usize,
    pub qkv: Ptr,
    pub out: Ptr,
    pub lse: Ptr,
    pub relu: bool,
    /// Dropout, step, and element of the first query and key.
    pub dropout: Option<(Dropout, u32, u64)>,
}

impl Head {
    /// Offset of queries (0), keys (1) or values (2) within `qkv`.
    pub fn part(&self, part: usize) -> usize {
        part * self.row / 3
    }
    /// `1 / √D` in units of `log 2`.
    pub fn scale(&self) -> f32 {
        (std::f64::consts::LOG2_E / (self.size as f64).sqrt()) as f32
    }
}

/// Sizes of the packed copies of a head for vectors of `lanes`.
#[derive(Clone, Copy)]
pub struct Layout {
    /// Positions, padded to whole panels and to whole words of dropout bits.
    pub keys: usize,
    /// Head size, padded to whole vectors.
    pub width: usize,
}

impl Layout {
    pub fn new(head: &Head, lanes: usize) -> Self {
        Layout { keys: head.time.next_multiple_of(64 * VECTORS), width: head.size.next_multiple_of(lanes) }
    }
}

/// Batch and positions of `qkv`.
pub fn dims(op: &'static str, qkv: &Tensor, spec: &Attention) -> Result<[usize; 2]> {
    let [batch, time, width] = qkv.dims(op)?;
    let Attention { heads, head_size, .. } = *spec;
    if heads == 0 || head_size == 0 || width != 3 * heads * head_size {
        return Err(Error::shape(op, format!("qkv {:?} is not 3 x {heads} heads of {head_size}", qkv.shape())));
    }
    if head_size > 64 {
        return Err(Error::Unsupported { op, message: format!("heads of {head_size}; at most 64") });
    }
    Ok([batch, time])
}

/// Shard `i` of a call.
///
/// # Safety
/// `qkv`, `out` and `lse` have the shapes of [`crate::backend::Backend::attention`].
pub unsafe fn head(i: usize, time: usize, spec: &Attention, step: u32, qkv: Ptr, out: Ptr, lse: Ptr) -> Head {
    let Attention { heads, head_size: size, relu, .. } = *spec;
    let (b, h, out_row) = (i / heads, i % heads, heads * size);
    let element = (i * time) as u64 * Attention::pitch(time) as u64;
    // SAFETY: the caller's promise.
    unsafe {
        Head {
            time,
            size,
            row: 3 * out_row,
            out_row,
            qkv: Ptr(qkv.at(b * time * 3 * out_row + h * size)),
            out: Ptr(out.at(b * time * out_row + h * size)),
            lse: Ptr(lse.at(i * time)),
            relu,
            dropout: spec.dropout.map(|dropout| (dropout, step, element)),
        }
    }
}

pub fn forward(cpu: &Cpu, qkv: &Tensor, spec: &Attention, step: &Step) -> Result<(Tensor, Tensor)> {
    let [batch, time] = dims("attention", qkv, spec)?;
    let Attention { heads, head_size, .. } = *spec;
    let out = cpu.fresh(&[batch, time, heads * head_size])?;
    let lse = cpu.fresh(&[batch, heads, time])?;
    let (x, y, l) = (Ptr::of(cpu.read(qkv)), cpu.ptr(&out), cpu.ptr(&lse));
    let (isa, step) = (cpu.isa(), step.read().philox_step);
    // Padded keys and values, queries, scores, and dropout bits; enough for any number of lanes.
    let padded = time.next_multiple_of(64 * VECTORS);
    let need = padded * 64 * 2 + QUERIES * (64 + padded) + QUERIES * (padded / 32) + 64;
    shards_with(cpu, batch * heads, need, |i, scratch| {
        // SAFETY: shapes checked; a shard owns its head's part of `out` and `lse`.
        unsafe { forward_head(isa, head(i, time, spec, step, x, y, l), scratch) }
    })?;
    Ok((out, lse))
}

/// Panels `[keys / panel][size][panel]` of `rows` (keys in lanes), zero beyond `time`.
#[inline(always)]
pub unsafe fn pack_columns(panel: usize, layout: Layout, head: &Head, rows: Ptr, row: usize, out: Ptr) {
    // SAFETY: the caller of the kernel promised; `out` holds `keys * size`.
    unsafe {
        for first in (0..layout.keys).step_by(panel) {
            let to = out.0.add(first * head.size);
            for lane in 0..panel {
                let t = first + lane;
                let from = rows.0.wrapping_add(t * row);
                for d in 0..head.size {
                    *to.add(d * panel + lane) = if t < head.time { *from.add(d) } else { 0.0 };
                }
            }
        }
    }
}

/// Rows `[keys][width]`, times `scale`, zero beyond the head.
#[inline(always)]
pub unsafe fn pack_rows<S: Simd>(s: S, layout: Layout, head: &Head, rows: Ptr, row: usize, scale: f32, out: Ptr) {
    // SAFETY: the caller of the kernel promised; `out` holds `keys * width`.
    unsafe {
        for t in 0..layout.keys {
            for d in (0..layout.width).step_by(S::N) {
                let mut x = s.splat(0.0);
                if t < head.time {
                    x = s.load_n(rows.at(t * row + d), S::N.min(head.size - d));
                }
                s.store(out.at(t * layout.width + d), s.mul(x, s.splat(scale)));
            }
        }
    }
}

/// Which keys `first_key..` (a multiple of 64) dropout keeps for query `query`.
#[inline(always)]
pub fn keep_words<S: Simd>(s: S, head: &Head, query: usize, first_key: usize, words: &mut [u64]) {
    match head.dropout {
        Some((dropout, step, element)) if query < head.time => {
            let first = element + (query * Attention::pitch(head.time) + first_key) as u64;
            s.keep_bits(dropout.seed, dropout.stream, step, first / 8, dropout.threshold(), words);
        }
        _ => words.fill(!0),
    }
}

kernel! {
    unsafe fn forward_head<S>(s, head: Head, scratch: Ptr) {
        let layout = Layout::new(&head, S::N);
        let Layout { keys, width } = layout;
        let panel = VECTORS * S::N;
        // SAFETY: the caller's promise; the parts of the scratch add up to what `forward` took.
        unsafe {
            let k = scratch;
            let v = Ptr(k.at(keys * head.size));
            let q = Ptr(v.at(keys * width));
            let scores = Ptr(q.at(QUERIES * head.size));
            let words = scores.at(QUERIES * keys);
            let words = std::slice::from_raw_parts_mut(words.add(words.align_offset(8)).cast::<u64>(), QUERIES * keys / 64);
            pack_columns(panel, layout, &head, Ptr(head.qkv.at(head.part(1))), head.row, k);
            pack_rows(s, layout, &head, Ptr(head.qkv.at(head.part(2))), head.row, 1.0, v);
            let keep_scale = head.dropout.map_or(1.0, |(dropout, ..)| dropout.scale());
            let end = head.time.next_multiple_of(S::N);
            for first in (0..head.time).step_by(QUERIES) {
                let queries = QUERIES.min(head.time - first);
                for i in 0..QUERIES {
                    for d in 0..head.size {
                        let x = if i < queries { *head.qkv.at((first + i) * head.row + d) } else { 0.0 };
                        *q.at(i * head.size + d) = x * head.scale();
                    }
                    let words = &mut words[i * (keys / 64)..][..head.time.div_ceil(64)];
                    keep_words(s, &head, first + i, 0, words);
                }
                let mut top = [s.splat(f32::NEG_INFINITY); QUERIES];
                for key in (0..end).step_by(panel) {
                    let vectors = ((end - key) / S::N).min(VECTORS);
                    let b = k.at(key * head.size);
                    let to = scores.at(key);
                    match vectors {
                        1 => score::<S, 1>(s, &head, q.0, b, panel, key, keys, to, &mut top),
                        2 => score::<S, 2>(s, &head, q.0, b, panel, key, keys, to, &mut top),
                        _ => score::<S, 3>(s, &head, q.0, b, panel, key, keys, to, &mut top),
                    }
                }
                let mut factor = [0.0; QUERIES];
                for i in 0..queries {
                    let top = s.largest(top[i]);
                    let (row, words) = (scores.at(i * keys), &words[i * (keys / 64)..]);
                    let (most, mut sum) = (s.splat(top), s.splat(0.0));
                    for key in (0..end).step_by(S::N) {
                        let p = exp2(s, s.sub(s.load(row.add(key)), most));
                        sum = s.add(sum, p);
                        s.store(row.add(key), s.keep(p, (words[key / 64] >> (key % 64)) as u32));
                    }
                    let sum = s.sum(sum);
                    factor[i] = keep_scale / sum;
                    let lse = (f64::from(top) + f64::from(sum).log2()) * std::f64::consts::LN_2;
                    *head.lse.at(first + i) = lse as f32;
                }
                let mut d = 0;
                while d < head.size {
                    if head.size - d > S::N {
                        let sums = tile::<S, QUERIES, 2, false>(s, head.time, scores.0, keys, v.at(d), width);
                        emit(s, &head, first, queries, d, sums, &factor);
                        d += 2 * S::N;
                    } else {
                        let sums = tile::<S, QUERIES, 1, false>(s, head.time, scores.0, keys, v.at(d), width);
                        emit(s, &head, first, queries, d, sums, &factor);
                        d += S::N;
                    }
                }
            }
        }
    }
}

/// Scores of eight queries against `V` vectors of keys, and their running maxima.
#[inline(always)]
unsafe fn score<S: Simd, const V: usize>(
    s: S,
    head: &Head,
    q: *const f32,
    k: *const f32,
    panel: usize,
    key: usize,
    pitch: usize,
    to: *mut f32,
    top: &mut [S::F; QUERIES],
) {
    // SAFETY: the caller of `forward_head` promised.
    unsafe {
        let sums = tile::<S, QUERIES, V, false>(s, head.size, q, head.size, k, panel);
        if key + V * S::N <= head.time {
            for i in 0..QUERIES {
                for v in 0..V {
                    top[i] = s.max(top[i], sums[i][v]);
                    s.store(to.add(i * pitch + v * S::N), sums[i][v]);
                }
            }
            return;
        }
        for i in 0..QUERIES {
            for v in 0..V {
                let n = head.time.saturating_sub(key + v * S::N).min(S::N);
                let x = s.blend_n(sums[i][v], s.splat(f32::NEG_INFINITY), n);
                top[i] = s.max(top[i], x);
                s.store(to.add(i * pitch + v * S::N), x);
            }
        }
    }
}

/// Finished rows `d..` of the output.
#[inline(always)]
unsafe fn emit<S: Simd, const V: usize>(
    s: S,
    head: &Head,
    first: usize,
    queries: usize,
    d: usize,
    sums: [[S::F; V]; QUERIES],
    factor: &[f32; QUERIES],
) {
    for i in 0..queries {
        for v in 0..V {
            let at = d + v * S::N;
            let mut y = s.mul(sums[i][v], s.splat(factor[i]));
            if head.relu {
                y = s.max(s.splat(0.0), y);
            }
            // SAFETY: the caller of `forward_head` promised; `at < size` because vectors are counted from the size.
            unsafe { s.store_n(head.out.at((first + i) * head.out_row + at), y, S::N.min(head.size - at)) }
        }
    }
}
