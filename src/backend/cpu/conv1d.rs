//! Convolution as plain products: in channels-last layout the window of an output is one contiguous row of `K * I` floats
//! of the padded input, so overlapping rows take the place of an im2col matrix. The input gradient is one such product per
//! phase of the stride.

use super::gemm::{Epilogue, Panels, accumulate_transposed, add_parts, block, transposed_scratch};
use super::linear::column_sums;
use super::parallel::{Ptr, shards};
use super::{Cpu, Tensor, add_to};
use crate::backend::Conv1d;
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

/// `sample` with `before` and `after` zeros around it, in `space`.
fn pad<'a>(sample: &[f32], before: usize, after: usize, space: &'a mut [f32]) -> &'a [f32] {
    let space = &mut space[..before + sample.len() + after];
    space[..before].fill(0.0);
    space[before..before + sample.len()].copy_from_slice(sample);
    space[before + sample.len()..].fill(0.0);
    space
}

pub fn forward(cpu: &Cpu, inp: &Tensor, weight: &Tensor, bias: Option<&Tensor>, spec: Conv1d) -> Result<Tensor> {
    const OP: &str = "conv1d";
    let [batch, length, inputs] = inp.dims(OP)?;
    let [outputs, _, kernel] = weight.dims(OP)?;
    weight.expect_shape(OP, "weight", &[outputs, inputs, kernel])?;
    bias.map_or(Ok(()), |bias| bias.expect_shape(OP, "bias", &[outputs]))?;
    let out_length = output_length(OP, spec, length, kernel)?;
    let out = cpu.fresh(&[batch, out_length, outputs])?;
    let panels = Panels::new(cpu, kernel * inputs, outputs)?;
    for k in 0..kernel {
        panels.fill(k * inputs, inputs, &cpu.read(weight)[k.min(weight.len())..], kernel, inputs * kernel);
    }
    let (x, y, isa) = (cpu.read(inp), cpu.ptr(&out), cpu.isa());
    let epilogue = Epilogue { bias: bias.map(|bias| Ptr::of(cpu.read(bias))), ..Epilogue::STORE };
    let (edge, size) = (spec.padding * inputs, length * inputs);
    let space = cpu.take(batch * if edge > 0 { size + 2 * edge } else { 0 })?;
    let room = Ptr(space.as_ptr());
    shards(batch, |b| {
        let sample = &x[b * size..(b + 1) * size];
        // SAFETY: each sample has its own space and its own output; the last window ends within the padded sample.
        unsafe {
            let row = match edge {
                0 => sample,
                _ => pad(sample, edge, edge, room.slice(b * (size + 2 * edge), size + 2 * edge)),
            };
            let (a, c) = (Ptr::of(row), Ptr(y.at(b * out_length * outputs)));
            let dims = [out_length, kernel * inputs, outputs];
            block(isa, dims, a, spec.stride * inputs, panels.ptr(), c, outputs, epilogue);
        }
    });
    Ok(out)
}

pub fn backward_input(cpu: &Cpu, dout: &Tensor, weight: &Tensor, spec: Conv1d, length: usize) -> Result<Tensor> {
    const OP: &str = "conv1d_backward_input";
    let [batch, _, _] = dout.dims(OP)?;
    let [outputs, inputs, kernel] = weight.dims(OP)?;
    let out_length = output_length(OP, spec, length, kernel)?;
    dout.expect_shape(OP, "dout", &[batch, out_length, outputs])?;
    let dinp = cpu.fresh(&[batch, length, inputs])?;
    let Conv1d { stride, padding } = spec;
    // Input `stride * m + r - padding` meets tap `r + stride * j` in output `m - j`: for each phase `r` a product over the
    // rows `m - taps + 1 ..= m` of dout, padded so that they all exist.
    let taps = |r: usize| kernel.saturating_sub(r).div_ceil(stride);
    let before = (taps(0) - 1) * outputs;
    let rows = (length + padding).div_ceil(stride);
    let after = rows.saturating_sub(out_length) * outputs;
    let size = out_length * outputs;
    let mut phases = Vec::new();
    for r in 0..stride.min(length + padding) {
        let panels = Panels::new(cpu, taps(r) * outputs, inputs)?;
        for j in 0..taps(r) {
            let at = r + stride * j;
            panels.fill((taps(r) - 1 - j) * outputs, outputs, &cpu.read(weight)[at..], inputs * kernel, kernel);
        }
        phases.push(panels);
    }
    let (dy, dx, isa) = (cpu.read(dout), cpu.ptr(&dinp), cpu.isa());
    let space = cpu.take(batch * (before + size + after))?;
    let room = Ptr(space.as_ptr());
    shards(batch, |b| {
        let all = before + size + after;
        // SAFETY: each sample has its own space and its own rows of dinp.
        unsafe {
            let padded = pad(&dy[b * size..(b + 1) * size], before, after, room.slice(b * all, all));
            for (r, panels) in phases.iter().enumerate() {
                // First and one past the last `m` whose input exists.
                let first = padding.saturating_sub(r).div_ceil(stride);
                let last = (length + padding).saturating_sub(r).div_ceil(stride);
                if first >= last {
                    continue;
                }
                let to = dx.at((b * length + stride * first + r - padding) * inputs);
                if panels.k == 0 {
                    for m in 0..last - first {
                        Ptr(to).slice(m * stride * inputs, inputs).fill(0.0);
                    }
                    continue;
                }
                // Row `m` begins `taps - 1` rows of dout earlier; `before` covers the most taps.
                let a = Ptr::of(&padded[first * outputs + before + outputs - panels.k..]);
                let dims = [last - first, panels.k, inputs];
                block(isa, dims, a, outputs, panels.ptr(), Ptr(to), stride * inputs, Epilogue::STORE);
            }
        }
    });
    Ok(dinp)
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
    let [batch, length, inputs] = inp.dims(OP)?;
    let [_, out_length, outputs] = dout.dims(OP)?;
    dout.expect_shape(OP, "dout", &[batch, out_length, outputs])?;
    let (x, dy) = (cpu.read(inp), cpu.read(dout));
    if let Some(slot) = dweight {
        let [_, _, kernel] = slot.dims(OP)?;
        slot.expect_shape(OP, "dweight", &[outputs, inputs, kernel])?;
        dout.expect_shape(OP, "dout", &[batch, output_length(OP, spec, length, kernel)?, outputs])?;
        // Samples per shard such that there are at most 16 partial sums.
        let group = batch.div_ceil(16).max(1);
        let parts = batch.div_ceil(group).max(1);
        let (m, edge, size) = (kernel * inputs, spec.padding * inputs, length * inputs);
        let partial = cpu.take(parts * m * outputs)?;
        let padded = size + 2 * edge;
        let need = padded + transposed_scratch(cpu, m, outputs);
        let room = cpu.take(parts * need)?;
        let (isa, sums, space) = (cpu.isa(), Ptr(partial.as_ptr()), Ptr(room.as_ptr()));
        shards(parts, |part| {
            // SAFETY: each shard has its own partial sum and its own space.
            unsafe {
                let sum = sums.slice(part * m * outputs, m * outputs);
                sum.fill(0.0);
                let (room, scratch) = (space.slice(part * need, padded), Ptr(space.at(part * need + padded)));
                for b in part * group..((part + 1) * group).min(batch) {
                    let a = Ptr::of(pad(&x[b * size..(b + 1) * size], edge, edge, room));
                    let d = Ptr::of(&dy[b * out_length * outputs..]);
                    let c = Ptr(sum.as_mut_ptr());
                    let step = spec.stride * inputs;
                    accumulate_transposed(isa, out_length, m, outputs, a, step, d, outputs, c, outputs, scratch);
                }
            }
        });
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
        slot.expect_shape(OP, "dbias", &[outputs])?;
        let sums = column_sums(cpu, dy, batch * out_length, outputs)?;
        add_to(cpu, slot, sums.slice(0, outputs));
    }
    Ok(())
}
