//! One bidirectional LSTM layer. A shard is one direction of a slice of the batch: its recurrences need nobody else's, so
//! there is no synchronisation inside a layer, and the packed `W_hh` stays in the core's cache.
//!
//! Forward, a shard alternates between a chunk of input projections (one product) and that chunk's time steps. Backward,
//! it first goes through its saved gates once more for the cell states and its output, which cost less to compute than to keep;
//! then the gates' gradients replace the gates. Weight and input gradients are large products afterwards.

use super::gemm::{Epilogue, Left, Panels, left_scratch, multiply, multiply_transposed, product, transposed_scratch};
use super::gemm::{accumulate_transposed, add_parts};
use super::linear::column_sums;
use super::parallel::{Ptr, shards, shards_with};
use super::simd::math::{sigmoid, tanh};
use super::simd::{Simd, kernel};
use super::{Buffer, Cpu, Tensor, add_to};
use crate::backend::{Gate, LstmWeights};
use crate::error::{Error, Result};

type Weights = [LstmWeights<Cpu>; 2];

/// Samples of a shard.
const SLICE: usize = 16;
/// Time steps whose input projections are computed at once.
const CHUNK: usize = 16;

/// Activated gates `[B,T,2,4H]` (i, f, g, o; forward direction first).
pub struct Saved {
    gates: Buffer,
}

/// Sizes of a layer.
#[derive(Clone, Copy)]
struct Dims {
    batch: usize,
    time: usize,
    inputs: usize,
    hidden: usize,
}

impl Dims {
    fn of(op: &'static str, inp: &Tensor, weights: &Weights) -> Result<Self> {
        let [batch, time, inputs] = inp.dims(op)?;
        let [_, hidden] = weights[0].weight_hh.dims(op)?;
        if time == 0 || hidden == 0 {
            return Err(Error::shape(op, format!("{time} time steps of {hidden} hidden units")));
        }
        let dims = Dims { batch, time, inputs, hidden };
        dims.check(op, weights)?;
        Ok(dims)
    }
    fn check(&self, op: &'static str, weights: &Weights) -> Result<()> {
        let rows = 4 * self.hidden;
        for w in weights {
            w.weight_ih.expect_shape(op, "weight_ih", &[rows, self.inputs])?;
            w.weight_hh.expect_shape(op, "weight_hh", &[rows, self.hidden])?;
            w.bias_ih.expect_shape(op, "bias_ih", &[rows])?;
            w.bias_hh.as_ref().map_or(Ok(()), |bias| bias.expect_shape(op, "bias_hh", &[rows]))?;
        }
        Ok(())
    }
    /// Slices of the batch; times two directions, the number of shards.
    fn slices(&self) -> usize {
        self.batch.div_ceil(SLICE)
    }
    /// First sample and number of samples of shard `shard`, and its direction.
    fn shard(&self, shard: usize) -> (usize, usize, usize) {
        let first = shard / 2 * SLICE;
        (first, SLICE.min(self.batch - first), shard % 2)
    }
}

/// One shard, as its kernels see it.
#[derive(Clone, Copy)]
struct Shard {
    dims: Dims,
    samples: usize,
    direction: usize,
    gate: Gate,
    /// First sample of the slice in `[B,T,2H]` (at this direction's half) and in `[B,T,I]`. Backward, `out` is made again.
    out: Ptr,
    inp: Ptr,
    gates: Ptr,
    /// Cell states: of the current step `[SLICE,H]` forward, of all steps `[T,SLICE,H]` backward.
    cells: Ptr,
}

impl Shard {
    /// The time step that comes `n`-th in this direction.
    fn time(&self, n: usize) -> usize {
        if self.direction == 0 { n } else { self.dims.time - 1 - n }
    }
}

pub fn forward(cpu: &Cpu, inp: &Tensor, weights: &Weights, gate: Gate, save: bool) -> Result<(Tensor, Option<Saved>)> {
    let dims = Dims::of("lstm", inp, weights)?;
    let Dims { batch, time, inputs, hidden } = dims;
    let out = cpu.fresh(&[batch, time, 2 * hidden])?;
    let mut packed = Vec::new();
    for w in weights {
        let mut bias = cpu.read(&w.bias_ih).to_vec();
        if let Some(more) = &w.bias_hh {
            bias.iter_mut().zip(cpu.read(more)).for_each(|(b, m)| *b += m);
        }
        let input = Panels::transposed(cpu, cpu.read(&w.weight_ih), 4 * hidden, inputs)?;
        let state = Panels::transposed(cpu, cpu.read(&w.weight_hh), 4 * hidden, hidden)?;
        packed.push((input, state, bias));
    }
    // Without saving, a shard needs the gates of one chunk.
    let span = if save { time } else { CHUNK.min(time) };
    let count = if save { batch * 2 } else { dims.slices() * 2 * SLICE };
    let gates = cpu.take(count * span * 4 * hidden)?;
    let cells = cpu.take(dims.slices() * 2 * SLICE * hidden)?;
    let (x, y, target) = (Ptr::of(cpu.read(inp)), cpu.ptr(&out), cpu.target());
    let (gates_at, cells_at) = (Ptr(gates.as_ptr()), Ptr(cells.as_ptr()));
    let need = left_scratch(cpu, CHUNK, inputs).max(left_scratch(cpu, SLICE, hidden));
    shards_with(cpu, 2 * dims.slices(), need, |shard, space| {
        let (first, samples, direction) = dims.shard(shard);
        // SAFETY: a shard owns its samples' rows (of its direction) of every buffer it writes.
        unsafe {
            let gates = match save {
                true => gates_at.at((first * time * 2 + direction) * 4 * hidden),
                false => gates_at.at(shard * SLICE * span * 4 * hidden),
            };
            let cells = cells_at.at(shard * SLICE * hidden);
            let out = Ptr(y.at(first * time * 2 * hidden + direction * hidden));
            let inp = Ptr(x.at(first * time * inputs));
            let shard = Shard { dims, samples, direction, gate, out, inp, gates: Ptr(gates), cells: Ptr(cells) };
            let (input, state, bias) = &packed[direction];
            forward_shard(target, shard, save, input.ptr(), state.ptr(), Ptr::of(bias), space);
        }
    })?;
    Ok((out, save.then_some(Saved { gates })))
}

kernel! {
    /// All time steps of a shard. `space` is for the left sides of products.
    unsafe fn forward_shard<S: Product>(s, shard: Shard, save: bool, w_ih: Ptr, w_hh: Ptr, bias: Ptr, space: Ptr) {
        let Shard { dims: Dims { time, inputs, hidden, .. }, samples, .. } = shard;
        // Floats from one time step to the next, and from one sample to the next.
        let span = if save { time } else { CHUNK.min(time) };
        let width = if save { 8 * hidden } else { 4 * hidden };
        let pitch = span * width;
        // SAFETY: the caller's promise.
        unsafe {
            for begin in (0..time).step_by(CHUNK) {
                let count = CHUNK.min(time - begin);
                // In memory a chunk runs forward in time in both directions.
                let earliest = shard.time(begin).min(shard.time(begin + count - 1));
                let origin = if save { earliest } else { 0 };
                let epilogue = Epilogue { bias: Some(bias), ..Epilogue::STORE };
                for b in 0..samples {
                    let from = Left::floats(Ptr(shard.inp.at((b * time + earliest) * inputs)), inputs, space);
                    let to = Ptr(shard.gates.at(b * pitch + origin * width));
                    product(s, [count, inputs, 4 * hidden], from, w_ih, to, width, epilogue);
                }
                for n in begin..begin + count {
                    let t = shard.time(n);
                    let gates = Ptr(shard.gates.at((t - earliest + origin) * width));
                    if n > 0 {
                        let h = Ptr(shard.out.at(shard.time(n - 1) * 2 * hidden));
                        let h = Left::floats(h, time * 2 * hidden, space);
                        product(s, [samples, hidden, 4 * hidden], h, w_hh, gates, pitch, Epilogue::ADD);
                    }
                    for b in 0..samples {
                        let cell = shard.cells.at(b * hidden);
                        let out = shard.out.at((b * time + t) * 2 * hidden);
                        forward_cell(s, hidden, shard.gate, gates.at(b * pitch), cell, n == 0, out);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn squash<S: Simd>(s: S, gate: Gate, x: S::F) -> S::F {
    match gate {
        Gate::Sigmoid => sigmoid(s, x),
        Gate::HardSigmoid => {
            let y = s.fma(s.splat(0.2), x, s.splat(0.5));
            s.min(s.splat(1.0), s.max(s.splat(0.0), y))
        }
    }
}

/// The cell state that follows `before` (`None`: there is no state before).
#[inline(always)]
fn next_cell<S: Simd>(s: S, i: S::F, f: S::F, g: S::F, before: Option<S::F>) -> S::F {
    let c = s.mul(i, g);
    before.map_or(c, |before| s.fma(f, before, c))
}

/// Activates one sample's gates in place; advances its cell state and writes its output. `first`: there is no state before.
#[inline(always)]
unsafe fn forward_cell<S: Simd>(
    s: S,
    hidden: usize,
    gate: Gate,
    gates: *mut f32,
    cell: *mut f32,
    first: bool,
    out: *mut f32,
) {
    // SAFETY: the caller of `forward_shard` promised; `n` lanes are left of each of the four gates.
    unsafe {
        for j in (0..hidden).step_by(S::N) {
            let n = S::N.min(hidden - j);
            let [pi, pf, pg, po] =
                [gates.add(j), gates.add(hidden + j), gates.add(2 * hidden + j), gates.add(3 * hidden + j)];
            let i = squash(s, gate, s.load_n(pi, n));
            let f = squash(s, gate, s.load_n(pf, n));
            let g = tanh(s, s.load_n(pg, n));
            let o = squash(s, gate, s.load_n(po, n));
            let c = next_cell(s, i, f, g, if first { None } else { Some(s.load_n(cell.add(j), n)) });
            s.store_n(pi, i, n);
            s.store_n(pf, f, n);
            s.store_n(pg, g, n);
            s.store_n(po, o, n);
            s.store_n(cell.add(j), c, n);
            s.store_n(out.add(j), s.mul(o, tanh(s, c)), n);
        }
    }
}

pub fn backward(
    cpu: &Cpu,
    inp: &Tensor,
    weights: &Weights,
    gate: Gate,
    saved: Saved,
    dout: &Tensor,
    grads: Option<&Weights>,
    need_input: bool,
) -> Result<Option<Tensor>> {
    const OP: &str = "lstm_backward";
    let dims = Dims::of(OP, inp, weights)?;
    let Dims { batch, time, inputs, hidden } = dims;
    dout.expect_shape(OP, "dout", &[batch, time, 2 * hidden])?;
    grads.map_or(Ok(()), |grads| dims.check(OP, grads))?;
    let target = cpu.target();
    let mut packed = Vec::new();
    for w in weights {
        packed.push(Panels::plain(cpu, cpu.read(&w.weight_hh), 4 * hidden, hidden)?);
    }
    let Saved { gates } = saved;
    let out = cpu.take(batch * time * 2 * hidden)?;
    {
        let (dy, y, x) = (Ptr::of(cpu.read(dout)), Ptr(out.as_ptr()), Ptr::of(cpu.read(inp)));
        let gates = Ptr(gates.as_ptr());
        let left = left_scratch(cpu, SLICE, 4 * hidden).next_multiple_of(16);
        shards_with(cpu, 2 * dims.slices(), left + (2 + time) * SLICE * hidden, |index, words| {
            let space = words.skip(left);
            let (first, samples, direction) = dims.shard(index);
            let row = first * time * 2 + direction;
            // SAFETY: a shard owns its samples' rows (of its direction) of gates and output, and its own space.
            unsafe {
                let shard = Shard {
                    dims,
                    samples,
                    direction,
                    gate,
                    out: Ptr(y.at(row * hidden)),
                    inp: x,
                    gates: Ptr(gates.at(row * 4 * hidden)),
                    cells: Ptr(space.at(2 * SLICE * hidden)),
                };
                backward_shard(target, shard, Ptr(dy.at(row * hidden)), packed[direction].ptr(), space, words);
            }
        })?;
    }
    let (rows, width) = (batch * time, 8 * hidden);
    let dgates = Ptr(gates.as_ptr());
    if let Some(slots) = grads {
        let x = Ptr::of(cpu.read(inp));
        // SAFETY: `dgates` is `[B*T, 8H]`, `inp` `[B*T, I]`.
        let dw = unsafe { multiply_transposed(cpu, rows, width, inputs, dgates, width, x, inputs)? };
        let bias = column_sums(cpu, gates.slice(0, rows * width), rows, width)?;
        let state = state_gradients(cpu, dims, dgates, Ptr(out.as_ptr()))?;
        for (d, slots) in slots.iter().enumerate() {
            let half = 4 * hidden;
            add_to(cpu, &slots.weight_ih, dw.slice(d * half * inputs, half * inputs));
            add_to(cpu, &slots.weight_hh, state.slice(d * half * hidden, half * hidden));
            add_to(cpu, &slots.bias_ih, bias.slice(d * half, half));
            if let Some(slot) = &slots.bias_hh {
                add_to(cpu, slot, bias.slice(d * half, half));
            }
        }
    }
    if !need_input {
        return Ok(None);
    }
    let panels = Panels::new(cpu, width, inputs)?;
    for (d, w) in weights.iter().enumerate() {
        panels.fill(d * 4 * hidden, 4 * hidden, cpu.read(&w.weight_ih), inputs, 1);
    }
    let dinp = cpu.fresh(&[batch, time, inputs])?;
    // SAFETY: `dgates` is `[B*T, 8H]`; `dinp` is fresh.
    unsafe { multiply(cpu, rows, dgates, width, &panels, cpu.ptr(&dinp), inputs, Epilogue::STORE)? };
    Ok(Some(dinp))
}

/// Both directions' `Σ dgates[t] h[t before]`, `[2,4H,H]`, in shards of samples that are added in order.
fn state_gradients(cpu: &Cpu, dims: Dims, dgates: Ptr, out: Ptr) -> Result<Buffer> {
    let Dims { batch, time, hidden, .. } = dims;
    let size = 4 * hidden * hidden;
    let group = batch.div_ceil(16).max(1);
    let parts = batch.div_ceil(group).max(1);
    let partial = cpu.take(parts * 2 * size)?;
    let need = transposed_scratch(cpu, 4 * hidden, hidden);
    let space = cpu.take(parts * 2 * need)?;
    let (sums, scratch, target) = (Ptr(partial.as_ptr()), Ptr(space.as_ptr()), cpu.target());
    shards(parts * 2, |shard| {
        let (part, d) = (shard / 2, shard % 2);
        // SAFETY: each shard has its own partial sum and scratch; rows stay within the samples.
        unsafe {
            sums.slice(shard * size, size).fill(0.0);
            for b in part * group..((part + 1) * group).min(batch) {
                let (row, h) = (b * time + (1 - d), b * time + d);
                let a = dgates.skip((row * 2 + d) * 4 * hidden);
                let h = out.skip((h * 2 + d) * hidden);
                let (c, scratch) = (Ptr(sums.at(shard * size)), Ptr(scratch.at(shard * need)));
                accumulate_transposed(
                    target,
                    time - 1,
                    4 * hidden,
                    hidden,
                    a,
                    8 * hidden,
                    h,
                    2 * hidden,
                    c,
                    hidden,
                    scratch,
                );
            }
        }
    });
    add_parts(sums, parts, 2 * size);
    Ok(partial)
}

kernel! {
    /// All time steps of a shard, last first: turns gates into their gradients. `space` holds `dh` and `dc`, `[2,SLICE,H]`, and
    /// `words` the left sides of products.
    unsafe fn backward_shard<S: Product>(s, shard: Shard, dout: Ptr, w_hh: Ptr, space: Ptr, words: Ptr) {
        let Shard { dims: Dims { time, hidden, .. }, samples, .. } = shard;
        let pitch = time * 8 * hidden;
        // SAFETY: the caller's promise.
        unsafe {
            let (dh, dc) = (space, Ptr(space.at(SLICE * hidden)));
            space.slice(0, 2 * SLICE * hidden).fill(0.0);
            for n in 0..time {
                for b in 0..samples {
                    let row = b * time + shard.time(n);
                    let (gates, out) = (shard.gates.at(row * 8 * hidden), shard.out.at(row * 2 * hidden));
                    cell_states(s, hidden, gates, shard.cells.at((n * SLICE + b) * hidden), n == 0, out);
                }
            }
            for n in (0..time).rev() {
                let t = shard.time(n);
                if n + 1 < time {
                    let after = Ptr(shard.gates.at(shard.time(n + 1) * 8 * hidden));
                    let after = Left::floats(after, pitch, words);
                    product(s, [samples, 4 * hidden, hidden], after, w_hh, dh, hidden, Epilogue::STORE);
                }
                for b in 0..samples {
                    let row = b * time + t;
                    let cell = shard.cells.at((n * SLICE + b) * hidden);
                    backward_cell(
                        s,
                        hidden,
                        shard.gate,
                        shard.gates.at(row * 8 * hidden),
                        cell,
                        (n > 0).then(|| cell.sub(SLICE * hidden).cast_const()),
                        dout.at(row * 2 * hidden),
                        dh.at(b * hidden),
                        dc.at(b * hidden),
                    );
                }
            }
        }
    }
}

/// One sample's cell state and output from its activated gates and the state [`SLICE`] rows before; the bits of
/// [`forward_cell`].
#[inline(always)]
unsafe fn cell_states<S: Simd>(s: S, hidden: usize, gates: *const f32, cell: *mut f32, first: bool, out: *mut f32) {
    // SAFETY: the caller of `backward_shard` promised.
    unsafe {
        for j in (0..hidden).step_by(S::N) {
            let n = S::N.min(hidden - j);
            let load = |gate: usize| s.load_n(gates.add(gate * hidden + j), n);
            let before = if first { None } else { Some(s.load_n(cell.sub(SLICE * hidden).add(j), n)) };
            let c = next_cell(s, load(0), load(1), load(2), before);
            s.store_n(cell.add(j), c, n);
            s.store_n(out.add(j), s.mul(load(3), tanh(s, c)), n);
        }
    }
}

/// `dy` times the derivative of [`squash`] where its value is `y`.
#[inline(always)]
fn squash_slope<S: Simd>(s: S, gate: Gate, y: S::F, dy: S::F) -> S::F {
    match gate {
        Gate::Sigmoid => s.mul(dy, s.fnma(y, y, y)),
        Gate::HardSigmoid => {
            let inside = s.gt(y, s.splat(0.0)) & s.gt(s.splat(1.0), y);
            s.keep(s.mul(dy, s.splat(0.2)), inside)
        }
    }
}

/// Replaces one sample's gates by their gradients; `dc` goes from one step to the one before.
#[inline(always)]
unsafe fn backward_cell<S: Simd>(
    s: S,
    hidden: usize,
    gate: Gate,
    gates: *mut f32,
    cell: *const f32,
    before: Option<*const f32>,
    dout: *const f32,
    dh: *const f32,
    dc: *mut f32,
) {
    // SAFETY: the caller of `backward_shard` promised; `n` lanes are left of each of the four gates.
    unsafe {
        for j in (0..hidden).step_by(S::N) {
            let n = S::N.min(hidden - j);
            let [pi, pf, pg, po] =
                [gates.add(j), gates.add(hidden + j), gates.add(2 * hidden + j), gates.add(3 * hidden + j)];
            let (i, f, g, o) = (s.load_n(pi, n), s.load_n(pf, n), s.load_n(pg, n), s.load_n(po, n));
            let tanh_c = tanh(s, s.load_n(cell.add(j), n));
            let dh = s.add(s.load_n(dh.add(j), n), s.load_n(dout.add(j), n));
            let through = s.mul(dh, o);
            let d = s.fma(through, s.fnma(tanh_c, tanh_c, s.splat(1.0)), s.load_n(dc.add(j), n));
            let c_before = match before {
                Some(before) => s.load_n(before.add(j), n),
                None => s.splat(0.0),
            };
            s.store_n(pi, squash_slope(s, gate, i, s.mul(d, g)), n);
            s.store_n(pf, squash_slope(s, gate, f, s.mul(d, c_before)), n);
            s.store_n(pg, s.mul(s.mul(d, i), s.fnma(g, g, s.splat(1.0))), n);
            s.store_n(po, squash_slope(s, gate, o, s.mul(dh, tanh_c)), n);
            s.store_n(dc.add(j), s.mul(d, f), n);
        }
    }
}
