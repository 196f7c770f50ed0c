//! Strided, zero-padded cross-correlation.

use super::Real;
use super::memory::{Tensor, accumulate, read, tensor};
use crate::backend::Conv1d;
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
    spec: Conv1d,
) -> Result<Tensor<T>> {
    const OP: &str = "conv1d";
    let [batch, length, inputs] = inp.dims(OP)?;
    let [outputs, _, kernel] = weight.dims(OP)?;
    weight.expect_shape(OP, "weight", &[outputs, inputs, kernel])?;
    bias.map_or(Ok(()), |bias| bias.expect_shape(OP, "bias", &[outputs]))?;
    let out_length = output_length(OP, spec, length, kernel)?;
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
    if let Some(bias) = bias {
        let bias = read(bias);
        out.iter_mut().enumerate().for_each(|(n, y)| *y += bias[n % outputs]);
    }
    Ok(tensor(out, &[batch, out_length, outputs]))
}

pub fn backward_input<T: Real>(dout: &Tensor<T>, weight: &Tensor<T>, spec: Conv1d, length: usize) -> Result<Tensor<T>> {
    const OP: &str = "conv1d_backward_input";
    let [batch, _, _] = dout.dims(OP)?;
    let [outputs, inputs, kernel] = weight.dims(OP)?;
    let out_length = output_length(OP, spec, length, kernel)?;
    dout.expect_shape(OP, "dout", &[batch, out_length, outputs])?;
    let (dy, w) = (read(dout), read(weight));
    let mut dinp = vec![T::ZERO; batch * length * inputs];
    for b in 0..batch {
        for &(l, k, at) in &meetings(out_length, kernel, length, spec) {
            for o in 0..outputs {
                for i in 0..inputs {
                    dinp[(b * length + at) * inputs + i] +=
                        w[(o * inputs + i) * kernel + k] * dy[(b * out_length + l) * outputs + o];
                }
            }
        }
    }
    Ok(tensor(dinp, &[batch, length, inputs]))
}

pub fn backward_weight<T: Real>(
    inp: &Tensor<T>,
    dout: &Tensor<T>,
    spec: Conv1d,
    dweight: Option<&Tensor<T>>,
    dbias: Option<&Tensor<T>>,
) -> Result<()> {
    const OP: &str = "conv1d_backward_weight";
    let [batch, length, inputs] = inp.dims(OP)?;
    let [_, out_length, outputs] = dout.dims(OP)?;
    dout.expect_shape(OP, "dout", &[batch, out_length, outputs])?;
    let dy = read(dout);
    if let Some(slot) = dweight {
        let [_, _, kernel] = slot.dims(OP)?;
        slot.expect_shape(OP, "dweight", &[outputs, inputs, kernel])?;
        dout.expect_shape(OP, "dout", &[batch, output_length(OP, spec, length, kernel)?, outputs])?;
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
        slot.expect_shape(OP, "dbias", &[outputs])?;
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
