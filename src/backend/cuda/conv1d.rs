//! Strided convolution (kernels/conv1d.cu).

use super::dna_conv::Dna;
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
        words: 0,
        slope: 1.0,
    })
}

/// Activations `[B,L,I]`, or DNA as four channels.
struct Inp<'a> {
    dims: [usize; 3],
    address: u64,
    words: usize,
    /// Prefix of the kernels that read it.
    kind: &'a str,
}

fn dense(op: &'static str, inp: &T) -> Result<Inp<'static>> {
    Ok(Inp { dims: inp.dims(op)?, address: at(inp), words: 0, kind: "" })
}

fn bases(dna: &Dna) -> Inp<'static> {
    Inp { dims: [dna.batch, dna.length, 4], address: dna.planes.address(), words: dna.words, kind: "dna_" }
}

pub fn forward(cuda: &Cuda, inp: &T, weight: &T, bias: Option<&T>, leaky: Option<f32>, spec: Conv1d) -> Result<T> {
    correlate(cuda, "conv1d", dense("conv1d", inp)?, weight, bias, leaky, spec)
}

pub fn dna_forward(
    cuda: &Cuda,
    dna: &Dna,
    weight: &T,
    bias: Option<&T>,
    leaky: Option<f32>,
    spec: Conv1d,
) -> Result<T> {
    correlate(cuda, "dna_conv1d", bases(dna), weight, bias, leaky, spec)
}

fn correlate(
    cuda: &Cuda,
    op: &'static str,
    inp: Inp<'_>,
    weight: &T,
    bias: Option<&T>,
    leaky: Option<f32>,
    spec: Conv1d,
) -> Result<T> {
    let [batch, _, inputs] = inp.dims;
    let [outputs, _, kernel] = weight.dims(op)?;
    weight.expect_shape(op, "weight", &[outputs, inputs, kernel])?;
    bias.map_or(Ok(()), |bias| bias.expect_shape(op, "bias", &[outputs]))?;
    let mut p = params(op, spec, inp.dims, outputs, kernel)?;
    (p.words, p.slope) = (int(op, inp.words)?, leaky.unwrap_or(1.0));
    let rows = batch * p.out_length as usize;
    let out = cuda.empty(&[batch, p.out_length as usize, outputs])?;
    let grid = [outputs.div_ceil(64), rows.div_ceil(64), 1];
    let name = format!("{}conv1d_forward", inp.kind);
    launch!(cuda, &name, grid, 256, 0; p, inp.address, at(weight), optional(bias), at(&out))?;
    Ok(out)
}

/// The transposed convolution, which is also the input gradient of the plain one.
pub fn transposed(
    cuda: &Cuda,
    op: &'static str,
    inp: &T,
    weight: &T,
    bias: Option<&T>,
    leaky: Option<f32>,
    spec: Conv1d,
    length: usize,
) -> Result<T> {
    let [batch, _, _] = inp.dims(op)?;
    let [inputs, outputs, kernel] = weight.dims(op)?;
    // The plain convolution goes from our outputs to our inputs.
    let mut p = params(op, spec, [batch, length, outputs], inputs, kernel)?;
    p.slope = leaky.unwrap_or(1.0);
    inp.expect_shape(op, "inp", &[batch, p.out_length as usize, inputs])?;
    bias.map_or(Ok(()), |bias| bias.expect_shape(op, "bias", &[outputs]))?;
    let out = cuda.empty(&[batch, length, outputs])?;
    let rows = batch * (length + spec.padding).div_ceil(spec.stride);
    int(op, rows)?;
    let grid = [outputs.div_ceil(64), rows.div_ceil(64), spec.stride];
    launch!(cuda, "conv1d_transposed", grid, 256, 0; p, at(inp), at(weight), optional(bias), at(&out))?;
    Ok(out)
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
    weight_gradient(cuda, OP, dense(OP, inp)?, dout, spec, dweight, dbias)
}

pub fn dna_backward_weight(
    cuda: &Cuda,
    dna: &Dna,
    dout: &T,
    spec: Conv1d,
    dweight: Option<&T>,
    dbias: Option<&T>,
) -> Result<()> {
    weight_gradient(cuda, "dna_conv1d_backward_weight", bases(dna), dout, spec, dweight, dbias)
}

fn weight_gradient(
    cuda: &Cuda,
    op: &'static str,
    inp: Inp<'_>,
    dout: &T,
    spec: Conv1d,
    dweight: Option<&T>,
    dbias: Option<&T>,
) -> Result<()> {
    let [batch, _, inputs] = inp.dims;
    let [_, out_length, outputs] = dout.dims(op)?;
    dout.expect_shape(op, "dout", &[batch, out_length, outputs])?;
    if let Some(slot) = dweight {
        let [_, _, kernel] = slot.dims(op)?;
        slot.expect_shape(op, "dweight", &[outputs, inputs, kernel])?;
        let mut p = params(op, spec, inp.dims, outputs, kernel)?;
        p.words = int(op, inp.words)?;
        dout.expect_shape(op, "dout", &[batch, p.out_length as usize, outputs])?;
        let (columns, count) = (kernel * inputs, outputs * inputs * kernel);
        let tiles = columns.div_ceil(64) * outputs.div_ceil(64);
        let (chunk, pieces) = chunks(batch * out_length, 256usize.div_ceil(tiles.max(1)), 256, 32);
        p.k_chunk = int(op, chunk)?;
        int(op, pieces * count)?;
        let partial = cuda.scratch::<f32>(pieces * count)?;
        let grid = [columns.div_ceil(64), outputs.div_ceil(64), pieces];
        let name = format!("{}conv1d_backward_weight", inp.kind);
        launch!(cuda, &name, grid, 256, 0; p, inp.address, at(dout), partial.address())?;
        let grid = [count.div_ceil(256), 1, 1];
        launch!(cuda, "conv1d_weight_reduce", grid, 256, 0; p, pieces as i32, partial.address(), at(slot))?;
    }
    if let Some(slot) = dbias {
        slot.expect_shape(op, "dbias", &[outputs])?;
        cuda.column_sums(at(dout), batch * out_length, outputs, at(slot), 0)?;
    }
    Ok(())
}
