//! Streaming multi-head attention. One (sample, head) per shard: keys are packed once, then eight queries at a time see all
//! keys, so only `8 × T` scores exist per core. Scores are kept in units of `log 2`, which saves a product per exponential.
//! Products of bf16 round scaled queries, keys, values and weights (before they are divided by their sum, which is that of the
//! weights in f32).

use super::gemm::halve;
use super::parallel::{Ptr, shards_with};
use super::simd::math::exp2;
use super::simd::{Simd, kernel};
use super::tile::{VECTORS, tile};
use super::{Cpu, Step, Tensor};
use crate::backend::Attention;
use crate::error::{Error, Result};
use crate::rng::Dropout;

/// Queries that are worked on together: the rows of the register tile.
pub const QUERIES: usize = 8;

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

/// Sizes of the packed copies of a head.
#[derive(Clone, Copy)]
pub struct Layout {
    /// Positions, padded to whole panels (and to whole words of dropout bits where there is dropout).
    pub keys: usize,
    /// Head size, padded to whole vectors.
    pub width: usize,
    /// Words along the head: of a column of a panel, and from one row of a left side to the next.
    pub depth: usize,
    pub row: usize,
}

impl Layout {
    #[inline(always)]
    pub fn new<S: Simd>(keys: usize, size: usize) -> Self {
        let width = size.next_multiple_of(S::N);
        Layout { keys, width, depth: size.div_ceil(S::TERMS), row: width / S::TERMS }
    }
    /// With room for dropout bits.
    #[inline(always)]
    pub fn of<S: Simd>(head: &Head) -> Self {
        Self::new::<S>(head.time.next_multiple_of(64 * VECTORS), head.size)
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
    let (target, step) = (cpu.target(), step.read().philox_step);
    // Padded keys and values, queries, scores, and dropout bits; enough for any number of lanes.
    let padded = time.next_multiple_of(64 * VECTORS);
    let need = padded * 64 * 2 + QUERIES * (64 + padded) + QUERIES * (padded / 32) + 64;
    shards_with(cpu, batch * heads, need, |i, scratch| {
        // SAFETY: shapes checked; a shard owns its head's part of `out` and `lse`.
        unsafe { forward_head(target, head(i, time, spec, step, x, y, l), scratch) }
    })?;
    Ok((out, lse))
}

/// Most words of a head.
const WORDS: usize = 64;

/// Panels `[keys / panel][depth][panel]` of `rows` (keys in lanes), zero beyond `time`.
#[inline(always)]
pub unsafe fn pack_columns<S: Simd>(s: S, layout: Layout, head: &Head, rows: Ptr, row: usize, out: Ptr) {
    let panel = VECTORS * S::N;
    // SAFETY: the caller of the kernel promised; `out` holds `keys * depth`.
    unsafe {
        for first in (0..layout.keys).step_by(panel) {
            let to = out.0.add(first * layout.depth);
            for lane in 0..panel {
                let t = first + lane;
                let from = rows.0.wrapping_add(t * row);
                if S::TERMS == 1 {
                    for d in 0..head.size {
                        *to.add(d * panel + lane) = if t < head.time { *from.add(d) } else { 0.0 };
                    }
                    continue;
                }
                let mut words = [0.0; WORDS / 2];
                if t < head.time {
                    halve(s, 1, head.size, from, 0, words.as_mut_ptr(), 0);
                }
                for d in 0..layout.depth {
                    *to.add(d * panel + lane) = words[d];
                }
            }
        }
    }
}

/// Row `t` of a head from `d` on, times `scale`, zero beyond the head.
#[inline(always)]
unsafe fn part<S: Simd>(s: S, head: &Head, rows: Ptr, row: usize, t: usize, d: usize, scale: f32) -> S::F {
    if t >= head.time {
        return s.splat(0.0);
    }
    // SAFETY: the caller of the kernel promised.
    s.mul(unsafe { s.load_n(rows.at(t * row + d), S::N.min(head.size - d)) }, s.splat(scale))
}

/// The right side of a product over positions, `[words of keys][width]`: rows times `scale`, zero beyond the head.
#[inline(always)]
pub unsafe fn pack_rows<S: Simd>(s: S, layout: Layout, head: &Head, rows: Ptr, row: usize, scale: f32, out: Ptr) {
    // SAFETY: the caller of the kernel promised; `out` holds all words.
    unsafe {
        for word in 0..layout.keys / S::TERMS {
            for d in (0..layout.width).step_by(S::N) {
                let t = word * S::TERMS;
                let mut x = part(s, head, rows, row, t, d, scale);
                if S::TERMS == 2 {
                    x = s.zip(x, part(s, head, rows, row, t + 1, d, scale));
                }
                s.store(out.at(word * layout.width + d), x);
            }
        }
    }
}

/// The left side of a product over a head's elements: rows `first..first + count` times `scale`, each of `layout.row` words, zero
/// beyond the head.
#[inline(always)]
pub unsafe fn pack_left<S: Simd>(
    s: S,
    layout: Layout,
    head: &Head,
    [first, count]: [usize; 2],
    rows: Ptr,
    row: usize,
    scale: f32,
    out: Ptr,
) {
    // SAFETY: the caller of the kernel promised; `out` holds `count` rows.
    unsafe {
        for i in 0..count {
            for d in (0..layout.width).step_by(S::N) {
                let (x, to) = (part(s, head, rows, row, first + i, d, scale), out.at(i * layout.row));
                if S::TERMS == 2 { s.store_half(to.cast::<u16>().add(d), x) } else { s.store(to.add(d), x) }
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
    unsafe fn forward_head<S: Product>(s, head: Head, scratch: Ptr) {
        let layout = Layout::of::<S>(&head);
        let Layout { keys, width, .. } = layout;
        let panel = VECTORS * S::N;
        // SAFETY: the caller's promise; the parts of the scratch add up to what `forward` took.
        unsafe {
            let k = scratch;
            let v = Ptr(k.at(keys * layout.depth));
            let q = Ptr(v.at(keys / S::TERMS * width));
            let scores = Ptr(q.at(QUERIES * layout.row));
            let words = scores.at(QUERIES * keys);
            let words = std::slice::from_raw_parts_mut(words.add(words.align_offset(8)).cast::<u64>(), QUERIES * keys / 64);
            pack_columns(s, layout, &head, Ptr(head.qkv.at(head.part(1))), head.row, k);
            pack_rows(s, layout, &head, Ptr(head.qkv.at(head.part(2))), head.row, 1.0, v);
            let keep_scale = head.dropout.map_or(1.0, |(dropout, ..)| dropout.scale());
            let end = head.time.next_multiple_of(S::N);
            for first in (0..head.time).step_by(QUERIES) {
                let queries = QUERIES.min(head.time - first);
                pack_left(s, layout, &head, [first, QUERIES], head.qkv, head.row, head.scale(), q);
                for i in 0..QUERIES {
                    let words = &mut words[i * (keys / 64)..][..head.time.div_ceil(64)];
                    keep_words(s, &head, first + i, 0, words);
                }
                let mut top = [s.splat(f32::NEG_INFINITY); QUERIES];
                for key in (0..end).step_by(panel) {
                    let vectors = ((end - key) / S::N).min(VECTORS);
                    let b = k.at(key * layout.depth);
                    let left = head.time.saturating_sub(key);
                    let to = scores.at(key);
                    match vectors {
                        1 => score::<S, 1>(s, layout, q.0, b, left, keys, to, &mut top),
                        2 => score::<S, 2>(s, layout, q.0, b, left, keys, to, &mut top),
                        _ => score::<S, 3>(s, layout, q.0, b, left, keys, to, &mut top),
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
                        store_weight(s, row, key, s.keep(p, (words[key / 64] >> (key % 64)) as u32));
                    }
                    let sum = s.sum(sum);
                    factor[i] = keep_scale / sum;
                    let lse = (f64::from(top) + f64::from(sum).log2()) * std::f64::consts::LN_2;
                    *head.lse.at(first + i) = lse as f32;
                }
                let (mut d, depth) = (0, head.time.div_ceil(S::TERMS));
                while d < head.size {
                    if head.size - d > S::N {
                        let sums = tile::<S, QUERIES, 2, false>(s, depth, scores.0, keys, v.at(d), width);
                        emit(s, &head, first, queries, d, sums, &factor);
                        d += 2 * S::N;
                    } else {
                        let sums = tile::<S, QUERIES, 1, false>(s, depth, scores.0, keys, v.at(d), width);
                        emit(s, &head, first, queries, d, sums, &factor);
                        d += S::N;
                    }
                }
            }
        }
    }
}

/// Weights of keys `key..` into a row that held their scores: as bf16 they take its first half.
#[inline(always)]
pub unsafe fn store_weight<S: Simd>(s: S, row: *mut f32, key: usize, weight: S::F) {
    // SAFETY: the caller of the kernel promised.
    unsafe {
        if S::TERMS == 2 { s.store_half(row.cast::<u16>().add(key), weight) } else { s.store(row.add(key), weight) }
    }
}

/// Scores of eight queries against `V` vectors of keys, `left` of which are there, and their running maxima.
#[inline(always)]
pub unsafe fn score<S: Simd, const V: usize>(
    s: S,
    layout: Layout,
    q: *const f32,
    k: *const f32,
    left: usize,
    pitch: usize,
    to: *mut f32,
    top: &mut [S::F; QUERIES],
) {
    // SAFETY: the caller of the kernel promised.
    unsafe {
        let sums = tile::<S, QUERIES, V, false>(s, layout.depth, q, layout.row, k, VECTORS * S::N);
        if V * S::N <= left {
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
                let n = left.saturating_sub(v * S::N).min(S::N);
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
