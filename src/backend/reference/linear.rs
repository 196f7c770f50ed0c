//! Linear map of the last dimension.

use super::Real;
use super::conv1d::column_sums;
use super::memory::{Tensor, accumulate, read, tensor};
use crate::error::{Error, Result};

/// `shape` with another last dimension.
fn with_last(shape: &[usize], last: usize) -> Vec<usize> {
    let mut shape = shape.to_vec();
    shape.pop();
    shape.push(last);
    shape
}

/// The last dimension of `tensor`, which must be `size`.
fn expect_last<T: Real>(op: &'static str, what: &str, tensor: &Tensor<T>, size: usize) -> Result<()> {
    if tensor.shape().last() == Some(&size) {
        return Ok(());
    }
    Err(Error::shape(op, format!("{what} must end in {size}, got shape {:?}", tensor.shape())))
}

pub fn forward<T: Real>(
    inp: &Tensor<T>,
    weight: &Tensor<T>,
    bias: Option<&Tensor<T>>,
    relu: bool,
) -> Result<Tensor<T>> {
    const OP: &str = "linear";
    let [outputs, inputs] = weight.dims(OP)?;
    expect_last(OP, "inp", inp, inputs)?;
    bias.map_or(Ok(()), |bias| bias.expect_shape(OP, "bias", &[outputs]))?;
    let (x, w, bias) = (read(inp), read(weight), bias.map(read));
    let mut out = Vec::new();
    for n in 0..inp.matrix().0 {
        for o in 0..outputs {
            let sum: T = (0..inputs).map(|i| w[o * inputs + i] * x[n * inputs + i]).sum();
            let y = bias.as_ref().map_or(sum, |bias| sum + bias[o]);
            out.push(if relu { y.relu() } else { y });
        }
    }
    Ok(tensor(out, &with_last(inp.shape(), outputs)))
}

pub fn backward_input<T: Real>(dout: &Tensor<T>, weight: &Tensor<T>) -> Result<Tensor<T>> {
    const OP: &str = "linear_backward_input";
    let [outputs, inputs] = weight.dims(OP)?;
    expect_last(OP, "dout", dout, outputs)?;
    let (dy, w) = (read(dout), read(weight));
    let mut dinp = Vec::new();
    for n in 0..dout.matrix().0 {
        for i in 0..inputs {
            dinp.push((0..outputs).map(|o| dy[n * outputs + o] * w[o * inputs + i]).sum());
        }
    }
    Ok(tensor(dinp, &with_last(dout.shape(), inputs)))
}

pub fn backward_weight<T: Real>(
    inp: &Tensor<T>,
    dout: &Tensor<T>,
    dweight: Option<&Tensor<T>>,
    dbias: Option<&Tensor<T>>,
) -> Result<()> {
    const OP: &str = "linear_backward_weight";
    let (rows, inputs) = inp.matrix();
    let outputs = dout.matrix().1;
    dout.expect_shape(OP, "dout", &with_last(inp.shape(), outputs))?;
    let (x, dy) = (read(inp), read(dout));
    if let Some(slot) = dweight {
        slot.expect_shape(OP, "dweight", &[outputs, inputs])?;
        let mut dw = Vec::new();
        for o in 0..outputs {
            for i in 0..inputs {
                dw.push((0..rows).map(|n| dy[n * outputs + o] * x[n * inputs + i]).sum());
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
