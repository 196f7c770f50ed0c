//! Strided, zero-padded cross-correlation.

use super::Real;
use super::dna_conv::onehot;
use super::memory::{Tensor, accumulate, read, tensor};
use crate::backend::{Conv1d, DnaBatch};
use crate::error::{Error, Result};

/// Every (output position, tap, input position) that meets inside the input.
fn meetings(out_length: usize, kernel: usize, length: usize, spec: Conv1d) -> Vec<(usize, usize, usize)> {
    let mut list = Vec::new();
    for l in 0..out_length {
        for k in 0..kernel {
            if let Some(at) = (l * spec.stride + k).checked_sub(spec.padding).filter(|&at| at < length) {
                list.push((l, k, at));
            }
        }
    }
    list
}

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

pub fn forward<T: Real>(
    inp: &Tensor<T>,
    weight: &Tensor<T>,
    bias: Option<&Tensor<T>>,
    leaky: Option<f32>,
    spec: Conv1d,
) -> Result<Tensor<T>> {
    correlate("conv1d", inp, weight, bias, leaky, spec)
}

fn correlate<T: Real>(
    op: &'static str,
    inp: &Tensor<T>,
    weight: &Tensor<T>,
    bias: Option<&Tensor<T>>,
    leaky: Option<f32>,
    spec: Conv1d,
) -> Result<Tensor<T>> {
    let [batch, length, inputs] = inp.dims(op)?;
    let [outputs, _, kernel] = weight.dims(op)?;
    weight.expect_shape(op, "weight", &[outputs, inputs, kernel])?;
    bias.map_or(Ok(()), |bias| bias.expect_shape(op, "bias", &[outputs]))?;
    let out_length = output_length(op, spec, length, kernel)?;
    let (x, w) = (read(inp), read(weight));
    let mut out = vec![T::ZERO; batch * out_length * outputs];
    for b in 0..batch {
        for &(l, k, at) in &meetings(out_length, kernel, length, spec) {
            for o in 0..outputs {
                for i in 0..inputs {
                    out[(b * out_length + l) * outputs + o] +=
                        w[(o * inputs + i) * kernel + k] * x[(b * length + at) * inputs + i];
                }
            }
        }
    }
    finish(&mut out, outputs, bias, leaky);
    Ok(tensor(out, &[batch, out_length, outputs]))
}

/// Bias and LeakyReLU.
fn finish<T: Real>(out: &mut [T], channels: usize, bias: Option<&Tensor<T>>, leaky: Option<f32>) {
    if let Some(bias) = bias {
        let bias = read(bias);
        out.iter_mut().enumerate().for_each(|(n, y)| *y += bias[n % channels]);
    }
    if let Some(slope) = leaky {
        out.iter_mut().for_each(|y| *y = y.leaky_relu(T::of(slope.into())));
    }
}

/// The transposed convolution, which is also the input gradient of the plain one.
pub fn transposed<T: Real>(
    op: &'static str,
    inp: &Tensor<T>,
    weight: &Tensor<T>,
    bias: Option<&Tensor<T>>,
    leaky: Option<f32>,
    spec: Conv1d,
    length: usize,
) -> Result<Tensor<T>> {
    let [batch, _, _] = inp.dims(op)?;
    let [inputs, outputs, kernel] = weight.dims(op)?;
    let inp_length = output_length(op, spec, length, kernel)?;
    inp.expect_shape(op, "inp", &[batch, inp_length, inputs])?;
    bias.map_or(Ok(()), |bias| bias.expect_shape(op, "bias", &[outputs]))?;
    let (x, w) = (read(inp), read(weight));
    let mut out = vec![T::ZERO; batch * length * outputs];
    for b in 0..batch {
        for &(l, k, at) in &meetings(inp_length, kernel, length, spec) {
            for i in 0..inputs {
                for o in 0..outputs {
                    out[(b * length + at) * outputs + o] +=
                        w[(i * outputs + o) * kernel + k] * x[(b * inp_length + l) * inputs + i];
                }
            }
        }
    }
    finish(&mut out, outputs, bias, leaky);
    Ok(tensor(out, &[batch, length, outputs]))
}

pub fn dna_forward<T: Real>(
    dna: &DnaBatch,
    weight: &Tensor<T>,
    bias: Option<&Tensor<T>>,
    leaky: Option<f32>,
    spec: Conv1d,
) -> Result<Tensor<T>> {
    correlate("dna_conv1d", &onehot(dna), weight, bias, leaky, spec)
}

pub fn dna_backward_weight<T: Real>(
    dna: &DnaBatch,
    dout: &Tensor<T>,
    spec: Conv1d,
    dweight: Option<&Tensor<T>>,
    dbias: Option<&Tensor<T>>,
) -> Result<()> {
    weight_gradient("dna_conv1d_backward_weight", &onehot(dna), dout, spec, dweight, dbias)
}

pub fn backward_weight<T: Real>(
    inp: &Tensor<T>,
    dout: &Tensor<T>,
    spec: Conv1d,
    dweight: Option<&Tensor<T>>,
    dbias: Option<&Tensor<T>>,
) -> Result<()> {
    weight_gradient("conv1d_backward_weight", inp, dout, spec, dweight, dbias)
}

fn weight_gradient<T: Real>(
    op: &'static str,
    inp: &Tensor<T>,
    dout: &Tensor<T>,
    spec: Conv1d,
    dweight: Option<&Tensor<T>>,
    dbias: Option<&Tensor<T>>,
) -> Result<()> {
    let [batch, length, inputs] = inp.dims(op)?;
    let [_, out_length, outputs] = dout.dims(op)?;
    dout.expect_shape(op, "dout", &[batch, out_length, outputs])?;
    let dy = read(dout);
    if let Some(slot) = dweight {
        let [_, _, kernel] = slot.dims(op)?;
        slot.expect_shape(op, "dweight", &[outputs, inputs, kernel])?;
        dout.expect_shape(op, "dout", &[batch, output_length(op, spec, length, kernel)?, outputs])?;
        let x = read(inp);
        let mut dw = vec![T::ZERO; outputs * inputs * kernel];
        for b in 0..batch {
            for &(l, k, at) in &meetings(out_length, kernel, length, spec) {
                for o in 0..outputs {
                    for i in 0..inputs {
                        dw[(o * inputs + i) * kernel + k] +=
                            dy[(b * out_length + l) * outputs + o] * x[(b * length + at) * inputs + i];
                    }
                }
            }
        }
        accumulate(slot, &dw);
    }
    if let Some(slot) = dbias {
        slot.expect_shape(op, "dbias", &[outputs])?;
        accumulate(slot, &column_sums(&dy, outputs));
    }
    Ok(())
}

/// Sums of each column of a matrix with `columns` columns.
pub fn column_sums<T: Real>(values: &[T], columns: usize) -> Vec<T> {
    let mut sums = vec![T::ZERO; columns];
    values.iter().enumerate().for_each(|(n, &value)| sums[n % columns] += value);
    sums
}
