//! Backward pass of streaming attention: weights are recomputed tile by tile from the log-sum-exp. One (sample, head) per
//! shard, so that dQ, dK and dV are sums in a fixed order.
//!
//! With `P = exp(S - lse)`, dropout mask `M` (scaled) and `D = Σ dout·out` per query:
//! `dV = (P∘M)ᵀ dO`, `dS = P∘(M∘(dO Vᵀ) - D)`, `dQ = dS K / √D`, `dK = dSᵀ Q / √D`. Products of bf16 round all they multiply,
//! weights and gradients of scores too, in pairs along the sum: positions of queries for dK and dV, of keys for dQ.

use super::attention::{Head, Layout, dims, head, keep_words, pack_columns, pack_left, pack_rows};
use super::parallel::{Ptr, shards_with};
use super::simd::math::exp2;
use super::simd::{Simd, kernel};
use super::tile::{VECTORS, tile};
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
    let (dy, dx, target, step) = (Ptr::of(cpu.read(dout)), cpu.ptr(&dqkv), cpu.target(), step.read().philox_step);
    let padded = time.next_multiple_of(KEYS);
    let need = padded * 64 * 8 + padded * 2 + 2 * QUERIES * KEYS;
    shards_with(cpu, batch * heads, need, |i, scratch| {
        // SAFETY: shapes checked; a shard owns its head's part of `dqkv`.
        unsafe {
            let head = head(i, time, spec, step, x, y, l);
            let delta = head.qkv.0.offset_from(x.0) as usize;
            let out = head.out.0.offset_from(y.0) as usize;
            backward_head(target, head, Ptr(dy.at(out)), Ptr(dx.at(delta)), scratch);
        }
    })?;
    Ok(dqkv)
}

/// Packed copies of a head and what is summed up, all zero beyond the head.
struct Space {
    /// Panels of keys and of values.
    columns: [Ptr; 2],
    /// Right sides; queries times [`Head::scale`], `dout` zero where ReLU was.
    k: Ptr,
    q: Ptr,
    dout: Ptr,
    /// Left sides of the same; of floats, the same memory.
    q_left: Ptr,
    dout_left: Ptr,
    /// Rows `[keys][width]`.
    dq: Ptr,
    dk: Ptr,
    dv: Ptr,
    /// Per query: log-sum-exp in units of `log 2` (infinite beyond the head, which makes weights 0), and `D`.
    lse: Ptr,
    mean: Ptr,
    /// `[words of QUERIES][KEYS]`: weights after dropout, unscaled; gradients of the scores.
    weights: Ptr,
    dscores: Ptr,
    /// The latter once more, `[QUERIES][words of KEYS]`, and eight rows of weights before they are rounded; of floats, the same
    /// memory.
    dscores_left: Ptr,
    held: Ptr,
}

kernel! {
    unsafe fn backward_head<S: Product>(s, head: Head, dout: Ptr, dqkv: Ptr, scratch: Ptr) {
        let layout = Layout::of::<S>(&head);
        let Layout { keys, width, .. } = layout;
        // SAFETY: the caller's promise; the parts of the scratch add up to what `backward` took.
        unsafe {
            let (size, rows, packed) = (keys * layout.depth, keys * width, keys / S::TERMS * width);
            let k_columns = scratch;
            let v_columns = Ptr(k_columns.at(size));
            let k = Ptr(v_columns.at(size));
            let q = Ptr(k.at(packed));
            let d = Ptr(q.at(packed));
            let q_left = if S::TERMS == 2 { Ptr(d.at(packed)) } else { q };
            let dout_left = if S::TERMS == 2 { Ptr(q_left.at(packed)) } else { d };
            let dq = Ptr(dout_left.at(packed));
            let dk = Ptr(dq.at(rows));
            let dv = Ptr(dk.at(rows));
            let lse = Ptr(dv.at(rows));
            let mean = Ptr(lse.at(keys));
            let weights = Ptr(mean.at(keys));
            let dscores = Ptr(weights.at(QUERIES / S::TERMS * KEYS));
            let dscores_left = if S::TERMS == 2 { Ptr(dscores.at(QUERIES / 2 * KEYS)) } else { dscores };
            let held = if S::TERMS == 2 { Ptr(dscores_left.at(QUERIES * KEYS / 2)) } else { weights };
            let columns = [k_columns, v_columns];
            let space =
                Space { columns, k, q, dout: d, q_left, dout_left, dq, dk, dv, lse, mean, weights, dscores, dscores_left, held };
            let [from_q, from_k, from_v] = [0, 1, 2].map(|part| head.qkv.skip(head.part(part)));
            pack_columns(s, layout, &head, from_k, head.row, k_columns);
            pack_columns(s, layout, &head, from_v, head.row, v_columns);
            pack_rows(s, layout, &head, from_k, head.row, 1.0, k);
            pack_rows(s, layout, &head, from_q, head.row, head.scale(), q);
            // Rows of dQ hold the floats of `dout` until they are rounded.
            let cut = if S::TERMS == 2 { dq } else { d };
            prepare_queries(s, &head, layout, &space, dout, cut);
            if S::TERMS == 2 {
                pack_left(s, layout, &head, [0, keys], from_q, head.row, head.scale(), q_left);
                pack_left(s, layout, &head, [0, keys], cut, width, 1.0, dout_left);
                pack_rows(s, layout, &head, cut, width, 1.0, d);
            }
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

/// Rows of `dout` into `cut` `[keys][width]`, zero where ReLU was and beyond the head; each query's `lse` and `D`.
#[inline(always)]
unsafe fn prepare_queries<S: Simd>(s: S, head: &Head, layout: Layout, space: &Space, dout: Ptr, cut: Ptr) {
    let Layout { keys, width, .. } = layout;
    // SAFETY: the caller of `backward_head` promised.
    unsafe {
        for t in 0..keys {
            if t >= head.time {
                *space.lse.at(t) = f32::INFINITY;
                *space.mean.at(t) = 0.0;
                cut.slice(t * width, width).fill(0.0);
                continue;
            }
            *space.lse.at(t) = (f64::from(*head.lse.at(t)) * std::f64::consts::LOG2_E) as f32;
            let mut sum = s.splat(0.0);
            for i in (0..head.size).step_by(S::N) {
                let n = S::N.min(head.size - i);
                let y = s.load_n(head.out.at(t * head.out_row + i), n);
                let mut dy = s.load_n(dout.at(t * head.out_row + i), n);
                if head.relu {
                    dy = s.keep(dy, s.gt(y, s.splat(0.0)));
                }
                s.store(cut.at(t * width + i), dy);
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
                    1 => scores::<S, 1>(s, head, layout, space, first, i, first_key, key, &bits),
                    2 => scores::<S, 2>(s, head, layout, space, first, i, first_key, key, &bits),
                    _ => scores::<S, 3>(s, head, layout, space, first, i, first_key, key, &bits),
                }
            }
        }
        let [dout, q] = [space.dout, space.q].map(|rows| rows.at(first / S::TERMS * width));
        let (dv, dk) = (space.dv.at(first_key * width), space.dk.at(first_key * width));
        for key in (0..keys).step_by(8) {
            gather::<S, true>(s, queries / S::TERMS, space.weights.at(key), KEYS, dout, width, dv.add(key * width));
            gather::<S, true>(s, queries / S::TERMS, space.dscores.at(key), KEYS, q, width, dk.add(key * width));
        }
        let (k, dq) = (space.k.at(first_key / S::TERMS * width), space.dq.at(first * width));
        let pitch = KEYS / S::TERMS;
        for i in (0..queries).step_by(8) {
            let dscores = space.dscores_left.at(i * pitch);
            gather::<S, false>(s, keys / S::TERMS, dscores, pitch, k, width, dq.add(i * width));
        }
    }
}

/// Weights and gradients of the scores of eight queries and `V` vectors of keys.
#[inline(always)]
unsafe fn scores<S: Simd, const V: usize>(
    s: S,
    head: &Head,
    layout: Layout,
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
        let Layout { depth, row, .. } = layout;
        let (left, columns) = ((first + i) * row, (first_key + key) * depth);
        let to = i / S::TERMS * KEYS + key;
        let (weights, dscores) = (space.weights.at(to), space.dscores.at(to));
        let (held, pitch) = if S::TERMS == 2 { (space.held.0, panel) } else { (weights, KEYS) };
        let sums = tile::<S, 8, V, false>(s, depth, space.q_left.at(left), row, space.columns[0].at(columns), panel);
        let whole = first_key + key + V * S::N <= head.time;
        for r in 0..8 {
            let lse = s.splat(*space.lse.at(first + i + r));
            for v in 0..V {
                let mut p = exp2(s, s.sub(sums[r][v], lse));
                if !whole {
                    let n = head.time.saturating_sub(first_key + key + v * S::N).min(S::N);
                    p = s.blend_n(p, s.splat(0.0), n);
                }
                s.store(held.add(r * pitch + v * S::N), p);
            }
        }
        let sums = tile::<S, 8, V, false>(s, depth, space.dout_left.at(left), row, space.columns[1].at(columns), panel);
        let keep_scale = s.splat(head.dropout.map_or(1.0, |(dropout, ..)| dropout.scale()));
        for r in (0..8).step_by(S::TERMS) {
            let mut means = [s.splat(0.0); 2];
            for t in 0..S::TERMS {
                means[t] = s.splat(*space.mean.at(first + i + r + t));
            }
            for v in 0..V {
                let at = key + v * S::N;
                let (mut kept, mut slopes) = ([s.splat(0.0); 2], [s.splat(0.0); 2]);
                for t in 0..S::TERMS {
                    let bits = (bits[i + r + t][at / 64] >> (at % 64)) as u32;
                    let p = s.load(held.add((r + t) * pitch + v * S::N));
                    let dp = s.keep(s.mul(sums[r + t][v], keep_scale), bits);
                    kept[t] = s.keep(p, bits);
                    slopes[t] = s.mul(p, s.sub(dp, means[t]));
                    if S::TERMS == 2 {
                        s.store_half(space.dscores_left.at((i + r + t) * KEYS / 2).cast::<u16>().add(at), slopes[t]);
                    }
                }
                if S::TERMS == 2 {
                    (kept[0], slopes[0]) = (s.zip(kept[0], kept[1]), s.zip(slopes[0], slopes[1]));
                }
                let to = r / S::TERMS * KEYS + v * S::N;
                s.store(weights.add(to), kept[0]);
                s.store(dscores.add(to), slopes[0]);
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
