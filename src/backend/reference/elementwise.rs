//! Element-wise operators and changes of layout.

use super::Real;
use super::memory::{Step, Tensor, read, tensor};
use crate::backend::tensor::same_shapes;
use crate::error::{Error, Result};
use crate::rng::Dropout;

pub fn relu<T: Real>(inp: &Tensor<T>) -> Result<Tensor<T>> {
    Ok(tensor(read(inp).into_iter().map(T::relu).collect(), inp.shape()))
}

pub fn relu_backward<T: Real>(out: &Tensor<T>, dout: &Tensor<T>) -> Result<Tensor<T>> {
    dout.expect_shape("relu_backward", "dout", out.shape())?;
    let dinp = read(out).into_iter().zip(read(dout)).map(|(y, dy)| if y > T::ZERO { dy } else { T::ZERO });
    Ok(tensor(dinp.collect(), out.shape()))
}

pub fn leaky_relu<T: Real>(inp: &Tensor<T>, slope: f32) -> Result<Tensor<T>> {
    Ok(tensor(read(inp).into_iter().map(|x| x.leaky_relu(T::of(slope.into()))).collect(), inp.shape()))
}

pub fn leaky_relu_backward<T: Real>(out: &Tensor<T>, dout: &Tensor<T>, slope: f32) -> Result<Tensor<T>> {
    dout.expect_shape("leaky_relu_backward", "dout", out.shape())?;
    let slope = T::of(slope.into());
    let dinp = read(out).into_iter().zip(read(dout)).map(|(y, dy)| if y > T::ZERO { dy } else { slope * dy });
    Ok(tensor(dinp.collect(), out.shape()))
}

pub fn dropout<T: Real>(inp: &Tensor<T>, dropout: &Dropout, step: &Step) -> Result<Tensor<T>> {
    let (step, scale) = (step.read().philox_step, T::of(dropout.scale().into()));
    let out = read(inp).into_iter().zip(0..).map(|(x, e)| if dropout.keeps(step, e) { x * scale } else { T::ZERO });
    Ok(tensor(out.collect(), inp.shape()))
}

pub fn concat_length<T: Real>(parts: &[&Tensor<T>]) -> Result<Tensor<T>> {
    const OP: &str = "concat_length";
    let first = parts.first().ok_or_else(|| Error::shape(OP, "nothing to join"))?;
    let [batch, _, channels] = first.dims(OP)?;
    let mut lengths = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        let [_, length, _] = part.dims(OP)?;
        part.expect_shape(OP, &format!("part {i}"), &[batch, length, channels])?;
        lengths.push(length);
    }
    let values: Vec<_> = parts.iter().map(|part| read(part)).collect();
    let mut out = Vec::new();
    for b in 0..batch {
        for (values, length) in values.iter().zip(&lengths) {
            out.extend_from_slice(&values[b * length * channels..][..length * channels]);
        }
    }
    Ok(tensor(out, &[batch, lengths.iter().sum(), channels]))
}

pub fn slice_length<T: Real>(inp: &Tensor<T>, start: usize, length: usize) -> Result<Tensor<T>> {
    const OP: &str = "slice_length";
    let [batch, whole, channels] = inp.dims(OP)?;
    if start + length > whole {
        return Err(Error::shape(OP, format!("positions {start}..{} of {whole}", start + length)));
    }
    let values = read(inp);
    let rows = (0..batch).flat_map(|b| &values[(b * whole + start) * channels..][..length * channels]);
    Ok(tensor(rows.copied().collect(), &[batch, length, channels]))
}

pub fn swap_leading<T: Real>(inp: &Tensor<T>) -> Result<Tensor<T>> {
    let [a, b, channels] = inp.dims("swap_leading")?;
    let values = read(inp);
    let mut out = Vec::with_capacity(values.len());
    for j in 0..b {
        for i in 0..a {
            out.extend_from_slice(&values[(i * b + j) * channels..][..channels]);
        }
    }
    Ok(tensor(out, &[b, a, channels]))
}

pub fn swap_trailing<T: Real>(inp: &Tensor<T>) -> Result<Tensor<T>> {
    let [a, b, c] = inp.dims("swap_trailing")?;
    let values = read(inp);
    let places = (0..a).flat_map(|i| (0..c).flat_map(move |k| (0..b).map(move |j| (i * b + j) * c + k)));
    Ok(tensor(places.map(|at| values[at]).collect(), &[a, c, b]))
}

pub fn position_sum<T: Real>(inp: &Tensor<T>) -> Result<Tensor<T>> {
    let [batch, length, channels] = inp.dims("position_sum")?;
    let values = read(inp);
    let mut out = vec![T::ZERO; batch * channels];
    for b in 0..batch {
        for l in 0..length {
            for c in 0..channels {
                out[b * channels + c] += values[(b * length + l) * channels + c];
            }
        }
    }
    Ok(tensor(out, &[batch, channels]))
}

pub fn position_sum_backward<T: Real>(dout: &Tensor<T>, length: usize) -> Result<Tensor<T>> {
    let [batch, channels] = dout.dims("position_sum_backward")?;
    let values = read(dout);
    let rows = (0..batch).flat_map(|b| (0..length).flat_map(move |_| b * channels..(b + 1) * channels));
    Ok(tensor(rows.map(|i| values[i]).collect(), &[batch, length, channels]))
}

pub fn weighted_sum<T: Real>(terms: &[&Tensor<T>], factors: &[f32]) -> Result<Tensor<T>> {
    let shape = same_shapes("weighted_sum", terms, factors)?;
    let mut out = vec![T::ZERO; shape.iter().product()];
    for (term, &factor) in terms.iter().zip(factors) {
        for (sum, x) in out.iter_mut().zip(read(term)) {
            *sum += T::of(factor.into()) * x;
        }
    }
    Ok(tensor(out, shape))
}
