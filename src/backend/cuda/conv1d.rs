//! Strided convolution (kernels/conv1d.cu).

use super::params::Conv;
use super::{Cuda, T, at, chunks, int, optional};
use crate::backend::Conv1d;
use crate::error::{Error, Result};

/// Launch parameters for `inp` `[B,L,I]` and a weight of `[O,I,K]`; the output must have positions.
fn params(op: &'static str, spec: Conv1d, inp: [usize; 3], outputs: usize, kernel: usize) -> Result<Conv> {
    let [batch, length, inputs] = inp;
    if spec.stride == 0 || kernel == 0 {
        return Err(Error::shape(op, format!("stride {} and kernel {kernel} must be at least 1", spec.stride)));
    }
    let out_length = spec.output_length(length, kernel);
    if out_length == 0 {
        let message = format!("{kernel} taps do not fit into {length} positions padded by {}", spec.padding);
        return Err(Error::shape(op, message));
    }
    int(op, batch * length * inputs.max(1))?;
    int(op, batch * out_length * outputs.max(1))?;
    int(op, outputs * inputs * kernel)?;
    Ok(Conv {
        batch: int(op, batch)?,
        length: int(op, length)?,
        inputs: int(op, inputs)?,
        outputs: int(op, outputs)?,
        kernel: int(op, kernel)?,
        stride: int(op, spec.stride)?,
        padding: int(op, spec.padding)?,
        out_length: int(op, out_length)?,
        k_chunk: 0,
    })
}

pub fn forward(cuda: &Cuda, inp: &T, weight: &T, bias: Option<&T>, spec: Conv1d) -> Result<T> {
    const OP: &str = "conv1d";
    let dims @ [batch, _, inputs] = inp.dims(OP)?;
    let [outputs, _, kernel] = weight.dims(OP)?;
    weight.expect_shape(OP, "weight", &[outputs, inputs, kernel])?;
    bias.map_or(Ok(()), |bias| bias.expect_shape(OP, "bias", &[outputs]))?;
    let p = params(OP, spec, dims, outputs, kernel)?;
    let rows = batch * p.out_length as usize;
    let out = cuda.empty(&[batch, p.out_length as usize, outputs])?;
    let grid = [outputs.div_ceil(64), rows.div_ceil(64), 1];
    launch!(cuda, "conv1d_forward", grid, 256, 0; p, at(inp), at(weight), optional(bias), at(&out))?;
    Ok(out)
}

pub fn backward_input(cuda: &Cuda, dout: &T, weight: &T, spec: Conv1d, length: usize) -> Result<T> {
    const OP: &str = "conv1d_backward_input";
    let [batch, _, _] = dout.dims(OP)?;
    let [outputs, inputs, kernel] = weight.dims(OP)?;
    let p = params(OP, spec, [batch, length, inputs], outputs, kernel)?;
    dout.expect_shape(OP, "dout", &[batch, p.out_length as usize, outputs])?;
    let dinp = cuda.empty(&[batch, length, inputs])?;
    let grid = [inputs.div_ceil(64), (batch * length).div_ceil(64), 1];
    launch!(cuda, "conv1d_backward_input", grid, 256, 0; p, at(dout), at(weight), at(&dinp))?;
    Ok(dinp)
}

pub fn backward_weight(
    cuda: &Cuda,
    inp: &T,
    dout: &T,
    spec: Conv1d,
    dweight: Option<&T>,
    dbias: Option<&T>,
) -> Result<()> {
    const OP: &str = "conv1d_backward_weight";
    let dims @ [batch, _, inputs] = inp.dims(OP)?;
    let [_, out_length, outputs] = dout.dims(OP)?;
    dout.expect_shape(OP, "dout", &[batch, out_length, outputs])?;
    if let Some(slot) = dweight {
        let [_, _, kernel] = slot.dims(OP)?;
        slot.expect_shape(OP, "dweight", &[outputs, inputs, kernel])?;
        let mut p = params(OP, spec, dims, outputs, kernel)?;
        dout.expect_shape(OP, "dout", &[batch, p.out_length as usize, outputs])?;
        let (columns, count) = (kernel * inputs, outputs * inputs * kernel);
        let tiles = columns.div_ceil(64) * outputs.div_ceil(64);
        let (chunk, pieces) = chunks(batch * out_length, 256usize.div_ceil(tiles.max(1)), 256, 32);
        p.k_chunk = int(OP, chunk)?;
        int(OP, pieces * count)?;
        let partial = cuda.scratch::<f32>(pieces * count)?;
        let grid = [columns.div_ceil(64), outputs.div_ceil(64), pieces];
        launch!(cuda, "conv1d_backward_weight", grid, 256, 0; p, at(inp), at(dout), partial.address())?;
        let grid = [count.div_ceil(256), 1, 1];
        launch!(cuda, "conv1d_weight_reduce", grid, 256, 0; p, pieces as i32, partial.address(), at(slot))?;
    }
    if let Some(slot) = dbias {
        slot.expect_shape(OP, "dbias", &[outputs])?;
        cuda.column_sums(at(dout), batch * out_length, outputs, at(slot), 0)?;
    }
    Ok(())
}
