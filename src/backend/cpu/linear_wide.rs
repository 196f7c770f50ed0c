//! Linear maps of few rows by a large weight (an autoencoder's 160,000 x 512): bound by memory, so the weight is read once,
//! where it lies, and never packed as a whole, and its gradient goes straight into the slot.

use super::gemm::{Epilogue, Left, Panels, accumulate_transposed, add_parts, block, left_scratch, transposed_scratch};
use super::parallel::{Ptr, shards, shards_with};
use super::simd::kernel;
use super::tile::VECTORS;
use super::{Cpu, Tensor};
use crate::error::Result;

/// Most rows of the input, and fewest elements of the weight.
const ROWS: usize = 256;
const LARGE: usize = 1 << 20;
/// Terms of a sum that one shard adds up.
const PART: usize = 4096;
/// Terms packed at a time.
const DEPTH: usize = 512;
/// Rows of the weight that one shard multiplies.
const HEIGHT: usize = 128;

/// Whether `rows` and a weight of `len` elements are such a map; a function of the shape alone.
pub fn applies(rows: usize, len: usize) -> bool {
    (1..=ROWS).contains(&rows) && len >= LARGE
}

/// Columns of a stripe: rows of it are long enough to stream, a packed block of [`DEPTH`] stays in the second-level cache.
fn stripe(cpu: &Cpu) -> usize {
    4 * cpu.panel()
}

/// `out = relu?(bias + inp weight^T)`: rows of the weight are broadcast, the input is packed.
pub fn forward(
    cpu: &Cpu,
    inp: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    relu: bool,
    out: &Tensor,
) -> Result<()> {
    let (rows, inputs) = inp.matrix();
    let outputs = out.matrix().1;
    let (x, w, y, isa, target) = (cpu.read(inp), cpu.read(weight), cpu.ptr(out), cpu.isa(), cpu.target());
    let packed = (0..inputs).step_by(PART).map(|first| {
        let panels = Panels::new(cpu, PART.min(inputs - first), rows)?;
        panels.fill(0, panels.k, &x[first..], 1, inputs);
        Ok(panels)
    });
    let packed = packed.collect::<Result<Vec<_>>>()?;
    let size = outputs * rows;
    let partial = cpu.take(packed.len() * size)?;
    let (sums, blocks) = (Ptr(partial.as_ptr()), outputs.div_ceil(HEIGHT));
    shards_with(cpu, packed.len() * blocks, left_scratch(cpu, HEIGHT, PART), |shard, space| {
        let (part, first) = (shard / blocks, shard % blocks * HEIGHT);
        let (panels, count) = (&packed[part], HEIGHT.min(outputs - first));
        // SAFETY: each shard has its own rows of its own partial sum.
        unsafe {
            let a = Left::floats(Ptr::of(w).skip(first * inputs + part * PART), inputs, space);
            let c = Ptr(sums.at(part * size + first * rows));
            block(target, [count, panels.k, rows], a, panels.ptr(), c, rows, Epilogue::STORE);
        }
    })?;
    add_parts(sums, packed.len(), size);
    let bias = bias.map(|bias| cpu.read(bias));
    shards(blocks, |shard| {
        let first = shard * HEIGHT;
        let count = HEIGHT.min(outputs - first);
        let sums = partial.slice(first * rows, count * rows);
        for n in 0..rows {
            // SAFETY: each shard has its own columns of the output.
            let row = unsafe { y.slice(n * outputs + first, count) };
            finish(isa, &sums[n..], rows, bias.map(|bias| &bias[first..first + count]), relu, row);
        }
    });
    Ok(())
}

kernel! {
    /// `out[o] = relu?(sums[o * pitch] + bias[o])`
    fn finish<S>(s, sums: &[f32], pitch: usize, bias: Option<&[f32]>, relu: bool, out: &mut [f32]) {
        let _ = s;
        for (o, y) in out.iter_mut().enumerate() {
            let x = sums[o * pitch] + match bias {
                Some(bias) => bias[o],
                None => 0.0,
            };
            // NaN stays.
            *y = if relu && x < 0.0 { 0.0 } else { x };
        }
    }
}

/// `dinp = dout weight`: blocks of the weight are packed as they pass by.
pub fn backward_input(cpu: &Cpu, dout: &Tensor, weight: &Tensor, dinp: &Tensor) -> Result<()> {
    let (rows, outputs) = dout.matrix();
    let inputs = dinp.matrix().1;
    let (dy, w, dx, target) = (Ptr::of(cpu.read(dout)), cpu.read(weight), cpu.ptr(dinp), cpu.target());
    let (parts, stripe) = (outputs.div_ceil(PART), stripe(cpu));
    let stripes = inputs.div_ceil(stripe);
    let partial = if parts > 1 { Some(cpu.take(parts * rows * inputs)?) } else { None };
    let to = partial.as_ref().map_or(dx, |partial| Ptr(partial.as_ptr()));
    let left = left_scratch(cpu, rows, DEPTH).next_multiple_of(16);
    shards_with(cpu, parts * stripes, left + DEPTH * stripe, |shard, space| {
        let (part, column) = (shard / stripes, shard % stripes * stripe);
        let (columns, end) = (stripe.min(inputs - column), outputs.min((part + 1) * PART));
        for first in (part * PART..end).step_by(DEPTH) {
            let depth = DEPTH.min(end - first);
            // SAFETY: the space is this shard's, and so are its columns of its own partial sum.
            unsafe {
                let packed = space.skip(left);
                pack(target, &w[first * inputs + column..], inputs, columns, depth, packed);
                let c = Ptr(to.at(part * rows * inputs + column));
                let epilogue = if first == part * PART { Epilogue::STORE } else { Epilogue::ADD };
                let a = Left::floats(dy.skip(first), outputs, space);
                block(target, [rows, depth, columns], a, packed, c, inputs, epilogue);
            }
        }
    })?;
    if let Some(partial) = partial {
        add_parts(to, parts, rows * inputs);
        // SAFETY: fresh.
        unsafe { dx.slice(0, rows * inputs) }.copy_from_slice(partial.slice(0, rows * inputs));
    }
    Ok(())
}

kernel! {
    /// `columns` of `depth` rows that are `pitch` apart, as [`Panels`].
    unsafe fn pack<S: Product>(s, rows: &[f32], pitch: usize, columns: usize, depth: usize, out: Ptr) {
        let (width, words) = (VECTORS * S::N, depth.div_ceil(S::TERMS));
        for k in 0..words {
            let row = &rows[k * S::TERMS * pitch..];
            let mut column = 0;
            while column < columns {
                let count = width.min(columns - column);
                // SAFETY: the space holds whole panels.
                let to = unsafe { out.slice(column * words + k * width, width) };
                if S::TERMS == 1 {
                    to[..count].copy_from_slice(&row[column..column + count]);
                    to[count..].fill(0.0);
                } else {
                    for v in (0..width).step_by(S::N) {
                        let lanes = S::N.min(count.saturating_sub(v));
                        let at = (column + v).min(columns);
                        let below = if 2 * k + 1 < depth { &row[pitch + at..][..lanes] } else { &[] };
                        // SAFETY: both slices hold so many lanes.
                        unsafe {
                            let low = s.load_n(row[at..][..lanes].as_ptr(), lanes);
                            let high = s.load_n(below.as_ptr(), below.len());
                            s.store(to[v..].as_mut_ptr(), s.zip(low, high));
                        }
                    }
                }
                column += width;
            }
        }
    }
}

/// Slot `dweight += dout^T inp`.
pub fn backward_weight(cpu: &Cpu, inp: &Tensor, dout: &Tensor, dweight: &Tensor) -> Result<()> {
    let (rows, inputs) = inp.matrix();
    let outputs = dout.matrix().1;
    let (x, dy, slot) = (Ptr::of(cpu.read(inp)), Ptr::of(cpu.read(dout)), cpu.ptr(dweight));
    let (target, stripe) = (cpu.target(), stripe(cpu));
    let (blocks, stripes) = (outputs.div_ceil(DEPTH), inputs.div_ceil(stripe));
    shards_with(cpu, blocks * stripes, transposed_scratch(cpu, DEPTH, stripe), |shard, space| {
        let (row, column) = (shard / stripes * DEPTH, shard % stripes * stripe);
        let (m, n) = (DEPTH.min(outputs - row), stripe.min(inputs - column));
        // SAFETY: each shard has its own part of the slot.
        unsafe {
            let c = Ptr(slot.at(row * inputs + column));
            accumulate_transposed(target, rows, m, n, dy.skip(row), outputs, x.skip(column), inputs, c, inputs, space);
        }
    })
}
