//! Attention of copies of one sample that differ in a few rows. What unchanged queries make of unchanged keys is the same in
//! all of them: it is computed once, as an unfinished softmax that each copy carries on over its own keys.

use super::attention::{Head, Layout, pack_columns, pack_rows};
use super::gemm::{VECTORS, tile};
use super::parallel::{Ptr, shards_with};
use super::simd::math::exp2;
use super::simd::{Simd, kernel};
use super::{Cpu, Tensor};
use crate::backend::Attention;
use crate::error::Result;

/// Queries that are worked on together.
const QUERIES: usize = 8;

/// Keys and values of one head, packed.
#[derive(Clone, Copy)]
struct Keys {
    count: usize,
    /// Panels `[count / panel][size][panel]`.
    keys: Ptr,
    /// Rows `[count][width]`.
    values: Ptr,
}

/// An unfinished softmax a query: largest score (in units of `log 2`), sum of the weights, weighted sum `[width]` of values.
#[derive(Clone, Copy)]
struct State {
    top: Ptr,
    sum: Ptr,
    values: Ptr,
}

/// Some queries of one head against up to two sets of keys.
#[derive(Clone, Copy)]
struct Job {
    size: usize,
    scale: f32,
    queries: Ptr,
    count: usize,
    /// Floats from one query to the next.
    row: usize,
    keys: [Option<Keys>; 2],
    /// Goes on from here.
    begin: Option<State>,
    /// Stops here; otherwise the softmax is finished into `out`, rows `out_row` apart.
    end: Option<State>,
    out: Ptr,
    out_row: usize,
    relu: bool,
}

/// Sizes of a call.
#[derive(Clone, Copy)]
struct Dims {
    size: usize,
    /// Values are padded to so many floats.
    width: usize,
    panel: usize,
}

impl Dims {
    fn padded(&self, keys: usize) -> usize {
        keys.next_multiple_of(self.panel)
    }
    /// Floats that `count` packed keys and values take.
    fn packed(&self, count: usize) -> usize {
        self.padded(count) * (self.size + self.width)
    }
    /// Where head `head` packs `count` keys into `space`.
    ///
    /// # Safety
    /// `space` holds [`Dims::packed`].
    unsafe fn keys(&self, count: usize, space: Ptr) -> Keys {
        // SAFETY: the caller's promise.
        Keys { count, keys: space, values: Ptr(unsafe { space.at(self.padded(count) * self.size) }) }
    }
}

/// See [`crate::backend::Backend::attention_of_copies`].
pub fn forward(cpu: &Cpu, kept: &Tensor, changed: &Tensor, from: usize, spec: &Attention) -> Result<Tensor> {
    let ([batch, rows, row], time) = (changed.dims("attention_of_copies")?, kept.shape()[0]);
    let Attention { heads, head_size: size, relu, .. } = *spec;
    let (lanes, isa) = (cpu.panel() / VECTORS, cpu.isa());
    let dims = Dims { size, width: size.next_multiple_of(lanes), panel: cpu.panel() };
    let (others, to, out_row) = (time - rows, from + rows, heads * size);
    let scale = (std::f64::consts::LOG2_E / (size as f64).sqrt()) as f32;
    // Unchanged rows side by side.
    let unchanged = cpu.take((others * row).max(1))?;
    let old = cpu.read(kept);
    // SAFETY: just taken, and nobody else has it.
    let side_by_side = unsafe { Ptr(unchanged.as_ptr()).slice(0, others * row) };
    side_by_side[..from * row].copy_from_slice(&old[..from * row]);
    side_by_side[from * row..].copy_from_slice(&old[to * row..]);
    let shared = cpu.take((heads * dims.packed(others)).max(1))?;
    let states = cpu.take((heads * others * (2 + dims.width)).max(1))?;
    let out = cpu.fresh(&[batch, time, out_row])?;
    let (x, y, packed, begun) = (Ptr(unchanged.as_ptr()), cpu.ptr(&out), Ptr(shared.as_ptr()), Ptr(states.as_ptr()));
    // SAFETY: offsets stay within what was taken above.
    let state = |head: usize| unsafe {
        let top = begun.at(head * others * (2 + dims.width));
        State { top: Ptr(top), sum: Ptr(top.add(others)), values: Ptr(top.add(2 * others)) }
    };
    let job = |queries: Ptr, count: usize| Job {
        size,
        scale,
        queries,
        count,
        row,
        keys: [None; 2],
        begin: None,
        end: None,
        out: y,
        out_row,
        relu,
    };
    let scores = |keys: usize| QUERIES * (size + keys);
    shards_with(cpu, heads, scores(dims.padded(others)), |head, scratch| {
        // SAFETY: a shard owns its head's part of the shared keys and states.
        unsafe {
            let keys = dims.keys(others, Ptr(packed.at(head * dims.packed(others))));
            pack(isa, dims, keys, x.skip(head * size), row);
            let job = Job { keys: [Some(keys), None], end: Some(state(head)), ..job(x.skip(head * size), others) };
            attend(isa, dims, job, scratch);
        }
    })?;
    let need = dims.packed(rows) + scores(dims.padded(others) + dims.padded(rows));
    let new = Ptr::of(cpu.read(changed));
    shards_with(cpu, batch * heads, need, |shard, scratch| {
        let (b, head) = (shard / heads, shard % heads);
        // SAFETY: a shard owns its head's part of its copy's output, and its own scratch.
        unsafe {
            let new = new.skip(b * rows * row + head * size);
            let fresh = dims.keys(rows, scratch);
            let scratch = Ptr(scratch.at(dims.packed(rows)));
            pack(isa, dims, fresh, new, row);
            let out = |t: usize| y.skip((b * time + t) * out_row + head * size);
            // Unchanged queries on either side of the changed rows, which go on over the copy's keys.
            for (first, count, at) in [(0, from, 0), (from, others - from, to)] {
                let State { top, sum, values } = state(head);
                let begin =
                    State { top: top.skip(first), sum: sum.skip(first), values: values.skip(first * dims.width) };
                let job = job(x.skip(first * row + head * size), count);
                attend(isa, dims, Job { keys: [Some(fresh), None], begin: Some(begin), out: out(at), ..job }, scratch);
            }
            let shared = dims.keys(others, Ptr(packed.at(head * dims.packed(others))));
            let job = Job { keys: [Some(shared), Some(fresh)], out: out(from), ..job(new, rows) };
            attend(isa, dims, job, scratch);
        }
    })?;
    Ok(out)
}

kernel! {
    /// Packs the keys and values of a head whose queries begin at `rows`.
    unsafe fn pack<S>(s, dims: Dims, to: Keys, rows: Ptr, row: usize) {
        let nowhere = Ptr(std::ptr::null_mut());
        let head = Head {
            time: to.count,
            size: dims.size,
            row,
            out_row: 0,
            qkv: rows,
            out: nowhere,
            lse: nowhere,
            relu: false,
            dropout: None,
        };
        let layout = Layout { keys: dims.padded(to.count), width: dims.width };
        // SAFETY: the caller's promise.
        unsafe {
            pack_columns(dims.panel, layout, &head, rows.skip(head.part(1)), row, to.keys);
            pack_rows(s, layout, &head, rows.skip(head.part(2)), row, 1.0, to.values);
        }
    }
}

kernel! {
    /// Runs a job; the scratch holds eight queries and their scores against all keys.
    unsafe fn attend<S>(s, dims: Dims, job: Job, scratch: Ptr) {
        let Job { size, .. } = job;
        let q = scratch.0;
        // SAFETY: the caller's promise.
        unsafe {
            let scores = Ptr(q.add(QUERIES * size));
            let mut pitch = 0;
            for keys in job.keys.iter().flatten() {
                pitch += dims.padded(keys.count);
            }
            for first in (0..job.count).step_by(QUERIES) {
                let queries = QUERIES.min(job.count - first);
                for i in 0..QUERIES {
                    for d in 0..size {
                        let x = if i < queries { *job.queries.at((first + i) * job.row + d) } else { 0.0 };
                        *q.add(i * size + d) = x * job.scale;
                    }
                }
                let mut top = [s.splat(f32::NEG_INFINITY); QUERIES];
                let mut offset = 0;
                for keys in job.keys.iter().flatten() {
                    for key in (0..keys.count).step_by(dims.panel) {
                        let (b, to) = (keys.keys.at(key * size), scores.at(offset + key));
                        let left = keys.count - key;
                        if left > 2 * S::N {
                            score::<S, 3>(s, size, q, b, dims.panel, left, pitch, to, &mut top);
                        } else if left > S::N {
                            score::<S, 2>(s, size, q, b, dims.panel, left, pitch, to, &mut top);
                        } else {
                            score::<S, 1>(s, size, q, b, dims.panel, left, pitch, to, &mut top);
                        }
                    }
                    offset += dims.padded(keys.count);
                }
                let (mut factor, mut carried) = ([0.0; QUERIES], [0.0; QUERIES]);
                for i in 0..queries {
                    let mut most = s.largest(top[i]);
                    let mut before = 0.0;
                    if let Some(begin) = job.begin {
                        let old = *begin.top.at(first + i);
                        most = most.max(old);
                        carried[i] = s.largest(exp2(s, s.splat(old - most)));
                        before = carried[i] * *begin.sum.at(first + i);
                    }
                    let mut sum = s.splat(0.0);
                    let mut offset = 0;
                    for keys in job.keys.iter().flatten() {
                        for key in (0..keys.count).step_by(S::N) {
                            let at = scores.at(i * pitch + offset + key);
                            let p = exp2(s, s.sub(s.load(at), s.splat(most)));
                            sum = s.add(sum, p);
                            s.store(at, p);
                        }
                        offset += dims.padded(keys.count);
                    }
                    let sum = s.sum(sum) + before;
                    factor[i] = 1.0 / sum;
                    if let Some(end) = job.end {
                        *end.top.at(first + i) = most;
                        *end.sum.at(first + i) = sum;
                    }
                }
                let mut d = 0;
                while d < size {
                    if size - d > S::N {
                        let sums = weighted::<S, 2>(s, &dims, &job, scores.0, pitch, d);
                        emit(s, &dims, &job, first, queries, d, sums, &factor, &carried);
                        d += 2 * S::N;
                    } else {
                        let sums = weighted::<S, 1>(s, &dims, &job, scores.0, pitch, d);
                        emit(s, &dims, &job, first, queries, d, sums, &factor, &carried);
                        d += S::N;
                    }
                }
            }
        }
    }
}

/// Scores of eight queries against `V` vectors of keys, `left` of which are there, and their running maxima.
#[inline(always)]
unsafe fn score<S: Simd, const V: usize>(
    s: S,
    size: usize,
    q: *const f32,
    k: *const f32,
    panel: usize,
    left: usize,
    pitch: usize,
    to: *mut f32,
    top: &mut [S::F; QUERIES],
) {
    // SAFETY: the caller of `attend` promised.
    unsafe {
        let sums = tile::<S, QUERIES, V, false>(s, size, q, size, k, panel);
        for i in 0..QUERIES {
            for v in 0..V {
                let n = left.saturating_sub(v * S::N).min(S::N);
                let x = if n == S::N { sums[i][v] } else { s.blend_n(sums[i][v], s.splat(f32::NEG_INFINITY), n) };
                top[i] = s.max(top[i], x);
                s.store(to.add(i * pitch + v * S::N), x);
            }
        }
    }
}

/// Values `d..` summed by weight over all keys of the job.
#[inline(always)]
unsafe fn weighted<S: Simd, const V: usize>(
    s: S,
    dims: &Dims,
    job: &Job,
    scores: *const f32,
    pitch: usize,
    d: usize,
) -> [[S::F; V]; QUERIES] {
    let mut total = [[s.splat(0.0); V]; QUERIES];
    let mut offset = 0;
    for keys in job.keys.iter().flatten() {
        // SAFETY: the caller of `attend` promised.
        let sums = unsafe {
            let values = keys.values.at(d);
            tile::<S, QUERIES, V, false>(s, keys.count, scores.add(offset), pitch, values, dims.width)
        };
        for i in 0..QUERIES {
            for v in 0..V {
                total[i][v] = s.add(total[i][v], sums[i][v]);
            }
        }
        offset += dims.padded(keys.count);
    }
    total
}

/// Adds what was carried over to the sums of values `d..`, and finishes or keeps them.
#[inline(always)]
unsafe fn emit<S: Simd, const V: usize>(
    s: S,
    dims: &Dims,
    job: &Job,
    first: usize,
    queries: usize,
    d: usize,
    sums: [[S::F; V]; QUERIES],
    factor: &[f32; QUERIES],
    carried: &[f32; QUERIES],
) {
    for i in 0..queries {
        for v in 0..V {
            let at = d + v * S::N;
            let mut y = sums[i][v];
            // SAFETY: the caller of `attend` promised; padded widths hold whole vectors.
            unsafe {
                if let Some(begin) = job.begin {
                    y = s.fma(s.splat(carried[i]), s.load(begin.values.at((first + i) * dims.width + at)), y);
                }
                if let Some(end) = job.end {
                    s.store(end.values.at((first + i) * dims.width + at), y);
                    continue;
                }
                y = s.mul(y, s.splat(factor[i]));
                if job.relu {
                    y = s.max(s.splat(0.0), y);
                }
                s.store_n(job.out.at((first + i) * job.out_row + at), y, S::N.min(job.size - at));
            }
        }
    }
}
