//! Backward pass of streaming attention: weights are recomputed tile by tile from the log-sum-exp. One (sample, head) per
//! shard, so that dQ, dK and dV are sums in a fixed order.
//!
//! With `P = exp(S - lse)`, dropout mask `M` (scaled) and `D = Σ dout·out` per query:
//! `dV = (P∘M)ᵀ dO`, `dS = P∘(M∘(dO Vᵀ) - D)`, `dQ = dS K / √D`, `dK = dSᵀ Q / √D`.

use super::attention::{Head, Layout, dims, head, keep_words, pack_columns, pack_rows};
use super::gemm::{VECTORS, tile};
use super::parallel::{Ptr, shards_with};
use super::simd::math::exp2;
use super::simd::{Simd, kernel};
use super::{Cpu, Step, Tensor};
use crate::backend::Attention;
use crate::error::Result;

/// Queries and keys of a tile of weights.
const QUERIES: usize = 32;
const KEYS: usize = 64 * VECTORS;
/// Words of dropout bits of a row of a tile.
const WORDS: usize = KEYS / 64;

pub fn backward(
    cpu: &Cpu,
    qkv: Tensor,
    out: &Tensor,
    lse: &Tensor,
    dout: &Tensor,
    spec: &Attention,
    step: &Step,
) -> Result<Tensor> {
    const OP: &str = "attention_backward";
    let [batch, time] = dims(OP, &qkv, spec)?;
    let Attention { heads, head_size, .. } = *spec;
    out.expect_shape(OP, "out", &[batch, time, heads * head_size])?;
    dout.expect_shape(OP, "dout", &[batch, time, heads * head_size])?;
    lse.expect_shape(OP, "lse", &[batch, heads, time])?;
    // A head's queries, keys and values are copied before its gradient is written, so both may share their memory.
    let dqkv = if qkv.buffer().is_unique() { qkv.clone() } else { cpu.fresh(qkv.shape())? };
    let (x, y, l) = (cpu.ptr(&qkv), Ptr::of(cpu.read(out)), Ptr::of(cpu.read(lse)));
    let (dy, dx, isa, step) = (Ptr::of(cpu.read(dout)), cpu.ptr(&dqkv), cpu.isa(), step.read().philox_step);
    let padded = time.next_multiple_of(KEYS);
    let need = padded * 64 * 8 + padded * 2 + 2 * QUERIES * KEYS;
    shards_with(cpu, batch * heads, need, |i, scratch| {
        // SAFETY: shapes checked; a shard owns its head's part of `dqkv`.
        unsafe {
            let head = head(i, time, spec, step, x, y, l);
            let delta = head.qkv.0.offset_from(x.0) as usize;
            let out = head.out.0.offset_from(y.0) as usize;
            backward_head(isa, head, Ptr(dy.at(out)), Ptr(dx.at(delta)), scratch);
        }
    })?;
    Ok(dqkv)
}

/// Packed copies of a head and what is summed up, all zero beyond the head.
struct Space {
    /// Panels of keys and values.
    k_columns: Ptr,
    v_columns: Ptr,
    /// Rows `[keys][width]`; queries times [`Head::scale`], `dout` zero where ReLU was.
    k: Ptr,
    q: Ptr,
    dout: Ptr,
    dq: Ptr,
    dk: Ptr,
    dv: Ptr,
    /// Per query: log-sum-exp in units of `log 2` (infinite beyond the head, which makes weights 0), and `D`.
    lse: Ptr,
    mean: Ptr,
    /// `[QUERIES][KEYS]`: weights after dropout, unscaled; gradients of the scores.
    weights: Ptr,
    dscores: Ptr,
}

kernel! {
    unsafe fn backward_head<S>(s, head: Head, dout: Ptr, dqkv: Ptr, scratch: Ptr) {
        let layout = Layout::new(&head, S::N);
        let Layout { keys, width } = layout;
        let panel = VECTORS * S::N;
        // SAFETY: the caller's promise; the parts of the scratch add up to what `backward` took.
        unsafe {
            let (columns, rows) = (keys * head.size, keys * width);
            let k_columns = scratch;
            let v_columns = Ptr(k_columns.at(columns));
            let k = Ptr(v_columns.at(columns));
            let q = Ptr(k.at(rows));
            let d = Ptr(q.at(rows));
            let dq = Ptr(d.at(rows));
            let dk = Ptr(dq.at(rows));
            let dv = Ptr(dk.at(rows));
            let lse = Ptr(dv.at(rows));
            let mean = Ptr(lse.at(keys));
            let weights = Ptr(mean.at(keys));
            let dscores = Ptr(weights.at(QUERIES * KEYS));
            let space = Space { k_columns, v_columns, k, q, dout: d, dq, dk, dv, lse, mean, weights, dscores };
            let [from_q, from_k, from_v] = [0, 1, 2].map(|part| head.qkv.skip(head.part(part)));
            pack_columns(panel, layout, &head, from_k, head.row, k_columns);
            pack_columns(panel, layout, &head, from_v, head.row, v_columns);
            pack_rows(s, layout, &head, from_k, head.row, 1.0, k);
            pack_rows(s, layout, &head, from_q, head.row, head.scale(), q);
            pack_rows(s, layout, &head, dout, head.out_row, 1.0, d);
            prepare_queries(s, &head, layout, &space);
            space.dq.slice(0, 3 * rows).fill(0.0);
            for first_key in (0..head.time).step_by(KEYS) {
                for first in (0..head.time).step_by(QUERIES) {
                    square(s, &head, layout, &space, first, first_key);
                }
            }
            let keep_scale = head.dropout.map_or(1.0, |(dropout, ..)| dropout.scale());
            let dq_scale = (1.0 / (head.size as f64).sqrt()) as f32;
            for (part, (sums, scale)) in [(dq, dq_scale), (dk, std::f32::consts::LN_2), (dv, keep_scale)].into_iter().enumerate() {
                for t in 0..head.time {
                    for i in (0..head.size).step_by(S::N) {
                        let x = s.mul(s.load(sums.at(t * width + i)), s.splat(scale));
                        s.store_n(dqkv.at(t * head.row + head.part(part) + i), x, S::N.min(head.size - i));
                    }
                }
            }
        }
    }
}

/// Masks `dout` where ReLU cut, and fills in each query's `lse` and `D`.
#[inline(always)]
unsafe fn prepare_queries<S: Simd>(s: S, head: &Head, layout: Layout, space: &Space) {
    let Layout { keys, width } = layout;
    // SAFETY: the caller of `backward_head` promised.
    unsafe {
        for t in 0..keys {
            if t >= head.time {
                *space.lse.at(t) = f32::INFINITY;
                *space.mean.at(t) = 0.0;
                continue;
            }
            *space.lse.at(t) = (f64::from(*head.lse.at(t)) * std::f64::consts::LOG2_E) as f32;
            let mut sum = s.splat(0.0);
            for i in (0..head.size).step_by(S::N) {
                let y = s.load_n(head.out.at(t * head.out_row + i), S::N.min(head.size - i));
                let at = space.dout.at(t * width + i);
                let mut dy = s.load(at);
                if head.relu {
                    dy = s.keep(dy, s.gt(y, s.splat(0.0)));
                    s.store(at, dy);
                }
                sum = s.fma(dy, y, sum);
            }
            *space.mean.at(t) = s.sum(sum);
        }
    }
}

/// One tile of `QUERIES × KEYS` weights and what follows from it.
#[inline(always)]
unsafe fn square<S: Simd>(s: S, head: &Head, layout: Layout, space: &Space, first: usize, first_key: usize) {
    let Layout { width, .. } = layout;
    let panel = VECTORS * S::N;
    let queries = QUERIES.min((head.time - first).next_multiple_of(8));
    let keys = KEYS.min((head.time - first_key).next_multiple_of(S::N.max(8)));
    // SAFETY: the caller of `backward_head` promised; everything is padded to whole tiles.
    unsafe {
        let mut bits = [[!0u64; WORDS]; QUERIES];
        if head.dropout.is_some() {
            for i in 0..queries {
                keep_words(s, head, first + i, first_key, &mut bits[i][..keys.div_ceil(64)]);
            }
        }
        for key in (0..keys).step_by(panel) {
            for i in (0..queries).step_by(8) {
                match ((keys - key) / S::N).min(VECTORS) {
                    1 => scores::<S, 1>(s, head, width, space, first, i, first_key, key, &bits),
                    2 => scores::<S, 2>(s, head, width, space, first, i, first_key, key, &bits),
                    _ => scores::<S, 3>(s, head, width, space, first, i, first_key, key, &bits),
                }
            }
        }
        let (dout, q) = (space.dout.at(first * width), space.q.at(first * width));
        let (dv, dk) = (space.dv.at(first_key * width), space.dk.at(first_key * width));
        for key in (0..keys).step_by(8) {
            gather::<S, true>(s, queries, space.weights.at(key), KEYS, dout, width, dv.add(key * width));
            gather::<S, true>(s, queries, space.dscores.at(key), KEYS, q, width, dk.add(key * width));
        }
        let (k, dq) = (space.k.at(first_key * width), space.dq.at(first * width));
        for i in (0..queries).step_by(8) {
            gather::<S, false>(s, keys, space.dscores.at(i * KEYS), KEYS, k, width, dq.add(i * width));
        }
    }
}

/// Weights and gradients of the scores of eight queries and `V` vectors of keys.
#[inline(always)]
unsafe fn scores<S: Simd, const V: usize>(
    s: S,
    head: &Head,
    width: usize,
    space: &Space,
    first: usize,
    i: usize,
    first_key: usize,
    key: usize,
    bits: &[[u64; WORDS]; QUERIES],
) {
    let panel = VECTORS * S::N;
    // SAFETY: the caller of `backward_head` promised.
    unsafe {
        let row = (first + i) * width;
        let (weights, dscores) = (space.weights.at(i * KEYS + key), space.dscores.at(i * KEYS + key));
        let columns = (first_key + key) * head.size;
        let sums = tile::<S, 8, V, false>(s, head.size, space.q.at(row), width, space.k_columns.at(columns), panel);
        let whole = first_key + key + V * S::N <= head.time;
        for r in 0..8 {
            let lse = s.splat(*space.lse.at(first + i + r));
            for v in 0..V {
                let mut p = exp2(s, s.sub(sums[r][v], lse));
                if !whole {
                    let n = head.time.saturating_sub(first_key + key + v * S::N).min(S::N);
                    p = s.blend_n(p, s.splat(0.0), n);
                }
                s.store(weights.add(r * KEYS + v * S::N), p);
            }
        }
        let sums = tile::<S, 8, V, false>(s, head.size, space.dout.at(row), width, space.v_columns.at(columns), panel);
        let keep_scale = s.splat(head.dropout.map_or(1.0, |(dropout, ..)| dropout.scale()));
        for r in 0..8 {
            let mean = s.splat(*space.mean.at(first + i + r));
            for v in 0..V {
                let at = key + v * S::N;
                let kept = (bits[i + r][at / 64] >> (at % 64)) as u32;
                let p = s.load(weights.add(r * KEYS + v * S::N));
                let dp = s.keep(s.mul(sums[r][v], keep_scale), kept);
                s.store(weights.add(r * KEYS + v * S::N), s.keep(p, kept));
                s.store(dscores.add(r * KEYS + v * S::N), s.mul(p, s.sub(dp, mean)));
            }
        }
    }
}

/// Eight rows of `to` `+= a · b` as [`tile`] means it; rows of `b` and `to` are `width` floats.
#[inline(always)]
unsafe fn gather<S: Simd, const T: bool>(
    s: S,
    depth: usize,
    a: *const f32,
    lda: usize,
    b: *const f32,
    width: usize,
    to: *mut f32,
) {
    // SAFETY: the caller of `backward_head` promised.
    unsafe {
        let mut d = 0;
        while d < width {
            if width - d > S::N {
                let sums = tile::<S, 8, 2, T>(s, depth, a, lda, b.add(d), width);
                add::<S, 2>(s, sums, to.add(d), width);
                d += 2 * S::N;
            } else {
                let sums = tile::<S, 8, 1, T>(s, depth, a, lda, b.add(d), width);
                add::<S, 1>(s, sums, to.add(d), width);
                d += S::N;
            }
        }
    }
}

#[inline(always)]
unsafe fn add<S: Simd, const V: usize>(s: S, sums: [[S::F; V]; 8], to: *mut f32, width: usize) {
    for i in 0..8 {
        for v in 0..V {
            // SAFETY: the caller of `backward_head` promised.
            unsafe {
                let at = to.add(i * width + v * S::N);
                s.store(at, s.add(s.load(at), sums[i][v]));
            }
        }
    }
}
