//! Attention of copies of one sample that differ in a few rows. What unchanged queries make of unchanged keys is the same in
//! all of them: it is computed once, as an unfinished softmax that each copy carries on over its own keys.

use super::attention::{Head, Layout, QUERIES, pack_columns, pack_left, pack_rows, score, store_weight};
use super::parallel::{Ptr, shards_with};
use super::simd::math::exp2;
use super::simd::{Simd, kernel};
use super::tile::tile;
use super::{Cpu, Tensor};
use crate::backend::Attention;
use crate::error::Result;

/// Keys and values of one head, packed.
#[derive(Clone, Copy)]
struct Keys {
    count: usize,
    /// Panels `[count / panel][words of size][panel]`.
    keys: Ptr,
    /// Rows `[words of count][width]`.
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
    terms: usize,
}

impl Dims {
    fn padded(&self, keys: usize) -> usize {
        keys.next_multiple_of(self.panel)
    }
    /// Floats that `count` packed keys and values take.
    fn packed(&self, count: usize) -> usize {
        self.padded(count) * self.size.div_ceil(self.terms) + self.padded(count) / self.terms * self.width
    }
    /// Where head `head` packs `count` keys into `space`.
    ///
    /// # Safety
    /// `space` holds [`Dims::packed`].
    unsafe fn keys(&self, count: usize, space: Ptr) -> Keys {
        // SAFETY: the caller's promise.
        Keys {
            count,
            keys: space,
            values: Ptr(unsafe { space.at(self.padded(count) * self.size.div_ceil(self.terms)) }),
        }
    }
}

/// See [`crate::backend::Backend::attention_of_copies`].
pub fn forward(cpu: &Cpu, kept: &Tensor, changed: &Tensor, from: usize, spec: &Attention) -> Result<Tensor> {
    let ([batch, rows, row], time) = (changed.dims("attention_of_copies")?, kept.shape()[0]);
    let Attention { heads, head_size: size, relu, .. } = *spec;
    let target = cpu.target();
    let dims = Dims { size, width: size.next_multiple_of(cpu.lanes()), panel: cpu.panel(), terms: target.terms() };
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
    let scores = |keys: usize| QUERIES * (dims.width + keys);
    shards_with(cpu, heads, scores(dims.padded(others)), |head, scratch| {
        // SAFETY: a shard owns its head's part of the shared keys and states.
        unsafe {
            let keys = dims.keys(others, Ptr(packed.at(head * dims.packed(others))));
            pack(target, dims, keys, x.skip(head * size), row);
            let job = Job { keys: [Some(keys), None], end: Some(state(head)), ..job(x.skip(head * size), others) };
            attend(target, dims, job, scratch);
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
            pack(target, dims, fresh, new, row);
            let out = |t: usize| y.skip((b * time + t) * out_row + head * size);
            // Unchanged queries on either side of the changed rows, which go on over the copy's keys.
            for (first, count, at) in [(0, from, 0), (from, others - from, to)] {
                let State { top, sum, values } = state(head);
                let begin =
                    State { top: top.skip(first), sum: sum.skip(first), values: values.skip(first * dims.width) };
                let job = job(x.skip(first * row + head * size), count);
                attend(
                    target,
                    dims,
                    Job { keys: [Some(fresh), None], begin: Some(begin), out: out(at), ..job },
                    scratch,
                );
            }
            let shared = dims.keys(others, Ptr(packed.at(head * dims.packed(others))));
            let job = Job { keys: [Some(shared), Some(fresh)], out: out(from), ..job(new, rows) };
            attend(target, dims, job, scratch);
        }
    })?;
    Ok(out)
}

/// A head of which only queries, keys and values count.
fn plain(time: usize, size: usize, qkv: Ptr, row: usize) -> Head {
    let nowhere = Ptr(std::ptr::null_mut());
    Head { time, size, row, out_row: 0, qkv, out: nowhere, lse: nowhere, relu: false, dropout: None }
}

kernel! {
    /// Packs the keys and values of a head whose queries begin at `rows`.
    unsafe fn pack<S: Product>(s, dims: Dims, to: Keys, rows: Ptr, row: usize) {
        let head = plain(to.count, dims.size, rows, row);
        let layout = Layout::new::<S>(dims.padded(to.count), dims.size);
        // SAFETY: the caller's promise.
        unsafe {
            pack_columns(s, layout, &head, rows.skip(head.part(1)), row, to.keys);
            pack_rows(s, layout, &head, rows.skip(head.part(2)), row, 1.0, to.values);
        }
    }
}

kernel! {
    /// Runs a job; the scratch holds eight queries and their scores against all keys.
    unsafe fn attend<S: Product>(s, dims: Dims, job: Job, scratch: Ptr) {
        let Job { size, .. } = job;
        let (layout, q) = (Layout::new::<S>(0, size), scratch);
        let head = plain(job.count, size, job.queries, job.row);
        // SAFETY: the caller's promise.
        unsafe {
            let scores = Ptr(q.at(QUERIES * layout.row));
            let mut pitch = 0;
            for keys in job.keys.iter().flatten() {
                pitch += dims.padded(keys.count);
            }
            for first in (0..job.count).step_by(QUERIES) {
                let queries = QUERIES.min(job.count - first);
                pack_left(s, layout, &head, [first, QUERIES], job.queries, job.row, job.scale, q);
                let mut top = [s.splat(f32::NEG_INFINITY); QUERIES];
                let mut offset = 0;
                for keys in job.keys.iter().flatten() {
                    for key in (0..keys.count).step_by(dims.panel) {
                        let (b, to) = (keys.keys.at(key * layout.depth), scores.at(offset + key));
                        let left = keys.count - key;
                        if left > 2 * S::N {
                            score::<S, 3>(s, layout, q.0, b, left, pitch, to, &mut top);
                        } else if left > S::N {
                            score::<S, 2>(s, layout, q.0, b, left, pitch, to, &mut top);
                        } else {
                            score::<S, 1>(s, layout, q.0, b, left, pitch, to, &mut top);
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
                            let row = scores.at(i * pitch + offset);
                            let p = exp2(s, s.sub(s.load(row.add(key)), s.splat(most)));
                            sum = s.add(sum, p);
                            store_weight(s, row, key, p);
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
            tile::<S, QUERIES, V, false>(
                s,
                keys.count.div_ceil(S::TERMS),
                scores.add(offset),
                pitch,
                values,
                dims.width,
            )
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
