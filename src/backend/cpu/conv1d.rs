//! Convolution as plain products: in channels-last layout the window of an output is one contiguous row of `K * I` floats
//! of the padded input, so overlapping rows take the place of an im2col matrix. A transposed convolution (and so the input
//! gradient) is one such product per phase of the stride. Shards copy the windows of a block of outputs, edges and all, into
//! memory that stays in the second-level cache; one-hot DNA exists nowhere else.

use super::gemm::halve_in_place;
use super::gemm::{BLOCK, Epilogue, Left, Panels, ROWS, accumulate_transposed, add_parts, block, transposed_scratch};
use super::linear::column_sums;
use super::parallel::{Ptr, shards, shards_with};
use super::{Cpu, Tensor, add_to};
use crate::backend::{Conv1d, DnaBatch};
use crate::error::{Error, Result};

/// Output positions, which must exist.
fn output_length(op: &'static str, spec: Conv1d, length: usize, kernel: usize) -> Result<usize> {
    if spec.stride == 0 || kernel == 0 {
        return Err(Error::shape(op, format!("stride {} and kernel {kernel} must be at least 1", spec.stride)));
    }
    match spec.output_length(length, kernel) {
        0 => Err(Error::shape(
            op,
            format!("{kernel} taps do not fit into {length} positions padded by {}", spec.padding),
        )),
        n => Ok(n),
    }
}

/// Sequences whose positions are rows of channels.
trait Sequences: Sync {
    /// Batch, length, channels.
    fn shape(&self) -> [usize; 3];
    /// Positions from `from` on of sequence `b` into the rows of `out`, `row` floats each; the rest of a row, and rows outside
    /// the sequence, are zeros.
    fn copy(&self, b: usize, from: isize, row: usize, out: &mut [f32]);
}

/// Activations `[B,L,C]`.
struct Dense<'a> {
    values: &'a [f32],
    shape: [usize; 3],
}

impl Sequences for Dense<'_> {
    fn shape(&self) -> [usize; 3] {
        self.shape
    }
    fn copy(&self, b: usize, from: isize, row: usize, out: &mut [f32]) {
        let [_, length, channels] = self.shape;
        let rows = out.len() / row.max(1);
        let before = (-from).clamp(0, rows as isize) as usize;
        let first = (from + before as isize) as usize;
        let inside = length.saturating_sub(first).min(rows - before);
        out[..before * row].fill(0.0);
        let (within, after) = out[before * row..].split_at_mut(inside * row);
        if inside > 0 {
            let values = &self.values[(b * length + first) * channels..][..inside * channels];
            if row == channels {
                within.copy_from_slice(values);
            } else {
                for (to, from) in within.chunks_exact_mut(row).zip(values.chunks_exact(channels)) {
                    to[..channels].copy_from_slice(from);
                    to[channels..].fill(0.0);
                }
            }
        }
        after.fill(0.0);
    }
}

/// One-hot DNA, four channels.
struct OneHot<'a>(&'a DnaBatch);

impl Sequences for OneHot<'_> {
    fn shape(&self) -> [usize; 3] {
        [self.0.batch(), self.0.length(), 4]
    }
    fn copy(&self, b: usize, from: isize, row: usize, out: &mut [f32]) {
        let (low, high, known) = self.0.planes(b);
        out.fill(0.0);
        for (row, at) in out.chunks_exact_mut(row).zip(from..) {
            if at < 0 || at as usize >= self.0.length() {
                continue;
            }
            let (word, bit) = (at as usize / 64, at as usize % 64);
            if known[word] >> bit & 1 == 1 {
                row[(low[word] >> bit & 1 | (high[word] >> bit & 1) << 1) as usize] = 1.0;
            }
        }
    }
}

fn dense<'a>(cpu: &Cpu, op: &'static str, tensor: &'a Tensor) -> Result<Dense<'a>> {
    Ok(Dense { shape: tensor.dims(op)?, values: cpu.read(tensor) })
}

pub fn forward(
    cpu: &Cpu,
    inp: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    leaky: Option<f32>,
    spec: Conv1d,
) -> Result<Tensor> {
    correlate(cpu, "conv1d", &dense(cpu, "conv1d", inp)?, weight, bias, leaky, spec)
}

pub fn dna_forward(
    cpu: &Cpu,
    dna: &DnaBatch,
    weight: &Tensor,
    bias: Option<&Tensor>,
    leaky: Option<f32>,
    spec: Conv1d,
) -> Result<Tensor> {
    correlate(cpu, "dna_conv1d", &OneHot(dna), weight, bias, leaky, spec)
}

/// Floats of a position of a copy of a sequence with `inputs` channels: whole words, so that every window begins with one.
fn channels(cpu: &Cpu, inputs: usize) -> usize {
    inputs.next_multiple_of(cpu.target().terms())
}

fn correlate(
    cpu: &Cpu,
    op: &'static str,
    inp: &impl Sequences,
    weight: &Tensor,
    bias: Option<&Tensor>,
    leaky: Option<f32>,
    spec: Conv1d,
) -> Result<Tensor> {
    let [batch, length, inputs] = inp.shape();
    let [outputs, _, kernel] = weight.dims(op)?;
    weight.expect_shape(op, "weight", &[outputs, inputs, kernel])?;
    bias.map_or(Ok(()), |bias| bias.expect_shape(op, "bias", &[outputs]))?;
    let out_length = output_length(op, spec, length, kernel)?;
    let out = cpu.fresh(&[batch, out_length, outputs])?;
    let (target, channels) = (cpu.target(), channels(cpu, inputs));
    let panels = Panels::new(cpu, kernel * channels, outputs)?;
    for k in 0..kernel {
        panels.fill(k * channels, inputs, &cpu.read(weight)[k.min(weight.len())..], kernel, inputs * kernel);
    }
    let y = cpu.ptr(&out);
    let epilogue = Epilogue { bias: bias.map(|bias| Ptr::of(cpu.read(bias))), leaky, ..Epilogue::STORE };
    let window = |rows: usize| ((rows - 1) * spec.stride + kernel) * channels;
    let blocks = out_length.div_ceil(ROWS);
    shards_with(cpu, batch * blocks, window(ROWS.min(out_length)), |shard, space| {
        let (b, first) = (shard / blocks, shard % blocks * ROWS);
        let rows = ROWS.min(out_length - first);
        // SAFETY: the space is this shard's, its rows of the output too; the last window ends within the copy.
        unsafe {
            let copy = space.slice(0, window(rows));
            inp.copy(b, (first * spec.stride) as isize - spec.padding as isize, channels, copy);
            halve_in_place(target, space, copy.len());
            let c = Ptr(y.at((b * out_length + first) * outputs));
            let dims = [rows, kernel * channels, outputs];
            let a = Left::words(space, spec.stride * channels / target.terms());
            block(target, dims, a, panels.ptr(), c, outputs, epilogue);
        }
    })?;
    Ok(out)
}

/// The products that make up a transposed convolution: output `stride * m + r - padding` meets tap `r + stride * j` in input
/// `m - j`, so phase `r` is a product over the rows `m - taps + 1 ..= m` of the input.
struct Phase {
    /// Offset of the outputs, and how many there are side by side.
    r: usize,
    width: usize,
    panels: Panels,
}

/// Taps of phase `r`.
fn taps(r: usize, kernel: usize, stride: usize) -> usize {
    kernel.saturating_sub(r).div_ceil(stride)
}

/// One product per phase, or a single one for all where few channels would leave most of a panel empty.
fn phases(cpu: &Cpu, weight: &Tensor, spec: Conv1d, length: usize) -> Result<Vec<Phase>> {
    let [inputs, outputs, kernel] = weight.dims("conv_transpose1d")?;
    let Conv1d { stride, padding } = spec;
    let (values, channels) = (cpu.read(weight), channels(cpu, inputs));
    let all = taps(0, kernel, stride);
    if stride > 1 && stride * outputs <= cpu.panel() && padding.is_multiple_of(stride) && outputs > 0 {
        let mut matrix = vec![0.0; all * channels * stride * outputs];
        for (n, &w) in values.iter().enumerate() {
            let (i, o, k) = (n / kernel / outputs, n / kernel % outputs, n % kernel);
            let (r, j) = (k % stride, k / stride);
            matrix[(((all - 1 - j) * channels + i) * stride + r) * outputs + o] = w;
        }
        let panels = Panels::plain(cpu, &matrix, all * channels, stride * outputs)?;
        return Ok(vec![Phase { r: 0, width: stride, panels }]);
    }
    let one = |r: usize| {
        let taps = taps(r, kernel, stride);
        let panels = Panels::new(cpu, taps * channels, outputs)?;
        for j in 0..taps {
            let at = (r + stride * j).min(values.len());
            panels.fill((taps - 1 - j) * channels, inputs, &values[at..], outputs * kernel, kernel);
        }
        Ok(Phase { r, width: 1, panels })
    };
    (0..stride.min(length + padding)).map(one).collect()
}

/// The transposed convolution, which is also the input gradient of the plain one.
pub fn transposed(
    cpu: &Cpu,
    op: &'static str,
    inp: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    leaky: Option<f32>,
    spec: Conv1d,
    length: usize,
) -> Result<Tensor> {
    let [batch, _, _] = inp.dims(op)?;
    let [inputs, outputs, kernel] = weight.dims(op)?;
    let inp_length = output_length(op, spec, length, kernel)?;
    inp.expect_shape(op, "inp", &[batch, inp_length, inputs])?;
    bias.map_or(Ok(()), |bias| bias.expect_shape(op, "bias", &[outputs]))?;
    let out = cpu.fresh(&[batch, length, outputs])?;
    let Conv1d { stride, padding } = spec;
    let phases = phases(cpu, weight, spec, length)?;
    // A bias for each output that lies side by side.
    let bias = bias.map(|bias| cpu.read(bias).repeat(phases.iter().map(|p| p.width).max().unwrap_or(1)));
    let epilogue = Epilogue { bias: bias.as_deref().map(Ptr::of), leaky, ..Epilogue::STORE };
    let (x, y, target, channels) = (dense(cpu, op, inp)?, cpu.ptr(&out), cpu.target(), channels(cpu, inputs));
    let before = taps(0, kernel, stride) - 1;
    let (low, high) = (padding.saturating_sub(stride - 1).div_ceil(stride), (length + padding).div_ceil(stride));
    let blocks = (high - low).div_ceil(ROWS);
    shards_with(cpu, batch * blocks, (ROWS.min(high - low) + before) * channels, |shard, space| {
        let (b, start) = (shard / blocks, low + shard % blocks * ROWS);
        let end = (start + ROWS).min(high);
        // SAFETY: the space is this shard's; outputs of different `m` are different rows.
        unsafe {
            let copy = space.slice(0, (end - start + before) * channels);
            x.copy(b, start as isize - before as isize, channels, copy);
            halve_in_place(target, space, copy.len());
            for Phase { r, width, panels } in &phases {
                // The `m` in this block whose outputs exist, all `width` of them or some.
                let exist = |r: usize| (length + padding).saturating_sub(r).div_ceil(stride).min(end);
                let first = padding.saturating_sub(*r).div_ceil(stride).max(start);
                let (whole, last) = (exist(r + width - 1), exist(*r));
                let product = |first: usize, last: usize, columns: usize| {
                    if first < last {
                        // Row `m` begins `taps - 1` rows of the input earlier; `before` covers the most taps.
                        let a = ((first - start + before + 1) * channels - panels.k) / target.terms();
                        let a = Left::words(space.skip(a), channels / target.terms());
                        let c = Ptr(y.at((b * length + stride * first + r - padding) * outputs));
                        let dims = [last - first, panels.k, columns * outputs];
                        block(target, dims, a, panels.ptr(), c, stride * outputs, epilogue);
                    }
                };
                product(first, whole, *width);
                product(whole.max(first), last, (length + padding - r) % stride);
            }
        }
    })?;
    Ok(out)
}

pub fn backward_weight(
    cpu: &Cpu,
    inp: &Tensor,
    dout: &Tensor,
    spec: Conv1d,
    dweight: Option<&Tensor>,
    dbias: Option<&Tensor>,
) -> Result<()> {
    const OP: &str = "conv1d_backward_weight";
    weight_gradient(cpu, OP, &dense(cpu, OP, inp)?, dout, spec, dweight, dbias)
}

pub fn dna_backward_weight(
    cpu: &Cpu,
    dna: &DnaBatch,
    dout: &Tensor,
    spec: Conv1d,
    dweight: Option<&Tensor>,
    dbias: Option<&Tensor>,
) -> Result<()> {
    weight_gradient(cpu, "dna_conv1d_backward_weight", &OneHot(dna), dout, spec, dweight, dbias)
}

/// Most partial sums over samples, and shards below which each of them is cut by taps too.
const PARTS: usize = 16;
const FEW: usize = 8;

fn weight_gradient(
    cpu: &Cpu,
    op: &'static str,
    inp: &impl Sequences,
    dout: &Tensor,
    spec: Conv1d,
    dweight: Option<&Tensor>,
    dbias: Option<&Tensor>,
) -> Result<()> {
    let [batch, length, inputs] = inp.shape();
    let [_, out_length, outputs] = dout.dims(op)?;
    dout.expect_shape(op, "dout", &[batch, out_length, outputs])?;
    let dy = cpu.read(dout);
    if let Some(slot) = dweight {
        let [_, _, kernel] = slot.dims(op)?;
        slot.expect_shape(op, "dweight", &[outputs, inputs, kernel])?;
        dout.expect_shape(op, "dout", &[batch, output_length(op, spec, length, kernel)?, outputs])?;
        let group = batch.div_ceil(PARTS).max(1);
        let parts = batch.div_ceil(group).max(1);
        let m = kernel * inputs;
        let stripe = if parts < FEW { kernel.div_ceil(4) } else { kernel };
        let stripes = kernel.div_ceil(stripe);
        let partial = cpu.take(parts * m * outputs)?;
        // Blocks of equal size, so that the last one is not a stub.
        let depth = out_length.div_ceil(out_length.div_ceil(BLOCK));
        let window = ((depth - 1) * spec.stride + stripe) * inputs;
        let need = window.next_multiple_of(16) + transposed_scratch(cpu, stripe * inputs, outputs);
        let (target, sums) = (cpu.target(), Ptr(partial.as_ptr()));
        shards_with(cpu, parts * stripes, need, |shard, space| {
            let (part, tap) = (shard / stripes, shard % stripes * stripe);
            let taps = stripe.min(kernel - tap);
            // SAFETY: each shard has its own rows of its own partial sum, and its own space.
            unsafe {
                let sum = sums.slice((part * m + tap * inputs) * outputs, taps * inputs * outputs);
                sum.fill(0.0);
                let scratch = space.skip(window.next_multiple_of(16));
                for b in part * group..((part + 1) * group).min(batch) {
                    for first in (0..out_length).step_by(depth) {
                        let rows = depth.min(out_length - first);
                        let copy = space.slice(0, ((rows - 1) * spec.stride + taps) * inputs);
                        inp.copy(b, (first * spec.stride + tap) as isize - spec.padding as isize, inputs, copy);
                        let d = Ptr::of(&dy[(b * out_length + first) * outputs..]);
                        let (a, lda, c) = (Ptr::of(copy), spec.stride * inputs, Ptr(sum.as_mut_ptr()));
                        accumulate_transposed(
                            target,
                            rows,
                            taps * inputs,
                            outputs,
                            a,
                            lda,
                            d,
                            outputs,
                            c,
                            outputs,
                            scratch,
                        );
                    }
                }
            }
        })?;
        add_parts(sums, parts, m * outputs);
        let (sum, slot) = (partial.slice(0, m * outputs), cpu.ptr(slot));
        shards(outputs, |o| {
            // SAFETY: each output channel is one shard's.
            let dw = unsafe { slot.slice(o * m, m) };
            for i in 0..inputs {
                for k in 0..kernel {
                    dw[i * kernel + k] += sum[(k * inputs + i) * outputs + o];
                }
            }
        });
    }
    if let Some(slot) = dbias {
        slot.expect_shape(op, "dbias", &[outputs])?;
        let sums = column_sums(cpu, dy, batch * out_length, outputs)?;
        add_to(cpu, slot, sums.slice(0, outputs));
    }
    Ok(())
}
