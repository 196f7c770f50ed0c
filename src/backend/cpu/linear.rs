//! Linear map of the last dimension: one product forward, two backward.

use super::gemm::{Epilogue, Panels, multiply, multiply_transposed};
use super::parallel::{Ptr, shards};
use super::simd::kernel;
use super::{Cpu, Tensor, add_to, linear_wide, with_last};
use crate::error::{Error, Result};

fn expect_last(op: &'static str, what: &str, tensor: &Tensor, size: usize) -> Result<()> {
    if tensor.shape().last() == Some(&size) {
        return Ok(());
    }
    Err(Error::shape(op, format!("{what} must end in {size}, got shape {:?}", tensor.shape())))
}

pub fn forward(cpu: &Cpu, inp: &Tensor, weight: &Tensor, bias: Option<&Tensor>, relu: bool) -> Result<Tensor> {
    const OP: &str = "linear";
    let [outputs, inputs] = weight.dims(OP)?;
    expect_last(OP, "inp", inp, inputs)?;
    bias.map_or(Ok(()), |bias| bias.expect_shape(OP, "bias", &[outputs]))?;
    let out = cpu.fresh(&with_last(inp.shape(), outputs))?;
    if linear_wide::applies(inp.matrix().0, weight.len()) {
        linear_wide::forward(cpu, inp, weight, bias, relu, &out)?;
        return Ok(out);
    }
    let panels = Panels::transposed(cpu, cpu.read(weight), outputs, inputs)?;
    let epilogue = Epilogue { bias: bias.map(|bias| Ptr::of(cpu.read(bias))), relu, ..Epilogue::STORE };
    let x = Ptr::of(cpu.read(inp));
    // SAFETY: shapes checked above; `out` is fresh.
    unsafe { multiply(cpu, inp.matrix().0, x, inputs, &panels, cpu.ptr(&out), outputs, epilogue)? };
    Ok(out)
}

pub fn backward_input(cpu: &Cpu, dout: &Tensor, weight: &Tensor) -> Result<Tensor> {
    const OP: &str = "linear_backward_input";
    let [outputs, inputs] = weight.dims(OP)?;
    expect_last(OP, "dout", dout, outputs)?;
    let dinp = cpu.fresh(&with_last(dout.shape(), inputs))?;
    if linear_wide::applies(dout.matrix().0, weight.len()) {
        linear_wide::backward_input(cpu, dout, weight, &dinp)?;
        return Ok(dinp);
    }
    let panels = Panels::plain(cpu, cpu.read(weight), outputs, inputs)?;
    let dy = Ptr::of(cpu.read(dout));
    // SAFETY: shapes checked above; `dinp` is fresh.
    unsafe { multiply(cpu, dout.matrix().0, dy, outputs, &panels, cpu.ptr(&dinp), inputs, Epilogue::STORE)? };
    Ok(dinp)
}

pub fn backward_weight(
    cpu: &Cpu,
    inp: &Tensor,
    dout: &Tensor,
    dweight: Option<&Tensor>,
    dbias: Option<&Tensor>,
) -> Result<()> {
    const OP: &str = "linear_backward_weight";
    let (rows, inputs) = inp.matrix();
    let outputs = dout.matrix().1;
    dout.expect_shape(OP, "dout", &with_last(inp.shape(), outputs))?;
    let (x, dy) = (cpu.read(inp), cpu.read(dout));
    if let Some(slot) = dweight {
        slot.expect_shape(OP, "dweight", &[outputs, inputs])?;
        if linear_wide::applies(rows, slot.len()) {
            linear_wide::backward_weight(cpu, inp, dout, slot)?;
        } else {
            // SAFETY: shapes checked above.
            let dw =
                unsafe { multiply_transposed(cpu, rows, outputs, inputs, Ptr::of(dy), outputs, Ptr::of(x), inputs)? };
            add_to(cpu, slot, dw.slice(0, outputs * inputs));
        }
    }
    if let Some(slot) = dbias {
        slot.expect_shape(OP, "dbias", &[outputs])?;
        let sums = column_sums(cpu, dy, rows, outputs)?;
        add_to(cpu, slot, sums.slice(0, outputs));
    }
    Ok(())
}

/// Sums of each column, in shards of rows that are added in order.
pub fn column_sums(cpu: &Cpu, values: &[f32], rows: usize, columns: usize) -> Result<super::Buffer> {
    const ROWS: usize = 512;
    let parts = rows.div_ceil(ROWS).max(1);
    let partial = cpu.take(parts * columns)?;
    let (isa, out) = (cpu.isa(), Ptr(partial.as_ptr()));
    shards(parts, |part| {
        let first = (part * ROWS).min(rows);
        let last = (first + ROWS).min(rows);
        // SAFETY: every shard has its own part.
        let sums = unsafe { out.slice(part * columns, columns) };
        sums.fill(0.0);
        add_rows(isa, &values[first * columns..last * columns], sums);
    });
    super::gemm::add_parts(out, parts, columns);
    Ok(partial)
}

kernel! {
    /// `sums += row` for every row of `values`.
    pub fn add_rows<S>(s, values: &[f32], sums: &mut [f32]) {
        let _ = s;
        for row in values.chunks_exact(sums.len().max(1)) {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += *x;
            }
        }
    }
}
