//! Batch norm over all but the last dimension; two passes with sums in double precision.

use rayon::prelude::*;

use super::parallel::shards;
use super::simd::kernel;
use super::{Cpu, Tensor, add_to};
use crate::backend::BatchNorm;
use crate::error::{Error, Result};

/// Rows of a shard.
const ROWS: usize = 256;

pub fn forward(
    cpu: &Cpu,
    inp: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    running_mean: &Tensor,
    running_var: &Tensor,
    spec: BatchNorm,
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "batch_norm";
    let (rows, channels) = inp.matrix();
    for (what, vector) in
        [("gamma", gamma), ("beta", beta), ("running_mean", running_mean), ("running_var", running_var)]
    {
        vector.expect_shape(OP, what, &[channels])?;
    }
    let x = cpu.read(inp);
    let (mean, var) = if spec.train {
        if rows < 2 {
            return Err(Error::shape(
                OP,
                format!(
                    "training needs at least 2 values per channel, got {rows}: use a larger batch or evaluation mode"
                ),
            ));
        }
        let isa = cpu.isa();
        let average = |[sums, _]: [Vec<f64>; 2]| -> Vec<f64> { sums.into_iter().map(|s| s / rows as f64).collect() };
        let mean = average(column_sums(x, channels, |rows, out| sums(isa, rows, out)));
        let var = average(column_sums(x, channels, |rows, out| squares(isa, rows, &mean, out)));
        // SAFETY: slots of this call.
        update_running(
            unsafe { cpu.slot(running_mean) },
            unsafe { cpu.slot(running_var) },
            &mean,
            &var,
            rows,
            spec.momentum,
        );
        (mean, var)
    } else {
        let double = |t| cpu.read(t).iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        (double(running_mean), double(running_var))
    };
    let inv_std = var.iter().map(|&v| (1.0 / (v + f64::from(spec.eps)).sqrt()) as f32);
    let saved: Vec<f32> = mean.iter().map(|&m| m as f32).chain(inv_std).collect();
    let out = cpu.fresh(inp.shape())?;
    let (y, isa, gamma, beta) = (cpu.ptr(&out), cpu.isa(), cpu.read(gamma), cpu.read(beta));
    shards(rows.div_ceil(ROWS), |i| {
        let (start, len) = (i * ROWS * channels, ROWS.min(rows - i * ROWS) * channels);
        // SAFETY: rows of a fresh tensor, one shard's.
        normalise(isa, &x[start..start + len], &saved, gamma, beta, unsafe { y.slice(start, len) });
    });
    Ok((out, cpu.filled(&saved, &[2, channels])?))
}

/// Running statistics after a batch of `count` values per channel with these (biased) statistics.
pub fn update_running(
    running_mean: &mut [f32],
    running_var: &mut [f32],
    mean: &[f64],
    var: &[f64],
    count: usize,
    momentum: f32,
) {
    let momentum = f64::from(momentum);
    let unbiased = count as f64 / (count - 1) as f64;
    for (c, (running_mean, running_var)) in running_mean.iter_mut().zip(running_var).enumerate() {
        *running_mean = ((1.0 - momentum) * f64::from(*running_mean) + momentum * mean[c]) as f32;
        *running_var = ((1.0 - momentum) * f64::from(*running_var) + momentum * var[c] * unbiased) as f32;
    }
}

/// Adds up what `f` makes of each shard of rows, in order: two sums per channel.
fn column_sums(values: &[f32], channels: usize, f: impl Fn(&[f32], &mut [Vec<f64>; 2]) + Sync) -> [Vec<f64>; 2] {
    let zero = || [vec![0.0; channels], vec![0.0; channels]];
    let parts: Vec<_> = values
        .par_chunks((ROWS * channels).max(1))
        .with_max_len(1)
        .map(|rows| {
            let mut out = zero();
            f(rows, &mut out);
            out
        })
        .collect();
    parts.iter().fold(zero(), |mut total, part| {
        for (total, part) in total.iter_mut().zip(part) {
            total.iter_mut().zip(part).for_each(|(t, p)| *t += p);
        }
        total
    })
}

kernel! {
    fn sums<S>(s, rows: &[f32], out: &mut [Vec<f64>; 2]) {
        let _ = s;
        let sums = &mut out[0][..];
        for row in rows.chunks_exact(sums.len()) {
            for (sum, &x) in sums.iter_mut().zip(row) {
                *sum += f64::from(x);
            }
        }
    }
}

kernel! {
    fn squares<S>(s, rows: &[f32], mean: &[f64], out: &mut [Vec<f64>; 2]) {
        let _ = s;
        let sums = &mut out[0][..];
        for row in rows.chunks_exact(sums.len()) {
            for ((sum, &x), &mean) in sums.iter_mut().zip(row).zip(mean) {
                let d = f64::from(x) - mean;
                *sum += d * d;
            }
        }
    }
}

kernel! {
    fn normalise<S>(s, inp: &[f32], saved: &[f32], gamma: &[f32], beta: &[f32], out: &mut [f32]) {
        let _ = s;
        let channels = gamma.len();
        let (mean, inv_std) = saved.split_at(channels);
        for (y, x) in out.chunks_exact_mut(channels).zip(inp.chunks_exact(channels)) {
            for c in 0..channels {
                y[c] = (x[c] - mean[c]) * inv_std[c] * gamma[c] + beta[c];
            }
        }
    }
}

pub fn backward(
    cpu: &Cpu,
    inp: &Tensor,
    gamma: &Tensor,
    saved: &Tensor,
    dout: &Tensor,
    spec: BatchNorm,
    dgamma: Option<&Tensor>,
    dbeta: Option<&Tensor>,
) -> Result<Tensor> {
    const OP: &str = "batch_norm_backward";
    let (rows, channels) = inp.matrix();
    gamma.expect_shape(OP, "gamma", &[channels])?;
    saved.expect_shape(OP, "saved", &[2, channels])?;
    dout.expect_shape(OP, "dout", inp.shape())?;
    let (x, dy, saved, gamma, isa) = (cpu.read(inp), cpu.read(dout), cpu.read(saved), cpu.read(gamma), cpu.isa());
    let base = dy.as_ptr() as usize;
    let totals = column_sums(dy, channels, |part, out| {
        let start = (part.as_ptr() as usize - base) / size_of::<f32>();
        gradient_sums(isa, &x[start..start + part.len()], part, saved, out);
    });
    for (what, slot, sums) in [("dbeta", dbeta, &totals[0]), ("dgamma", dgamma, &totals[1])] {
        if let Some(slot) = slot {
            slot.expect_shape(OP, what, &[channels])?;
            add_to(cpu, slot, &sums.iter().map(|&s| s as f32).collect::<Vec<_>>());
        }
    }
    // In training the batch's mean and deviation move with every input.
    let share = if spec.train { 1.0 / rows as f64 } else { 0.0 };
    let [shift, slope] = totals.map(|sums| sums.iter().map(|&s| (s * share) as f32).collect::<Vec<_>>());
    let dinp = cpu.fresh(inp.shape())?;
    let dx = cpu.ptr(&dinp);
    shards(rows.div_ceil(ROWS), |i| {
        let (start, len) = (i * ROWS * channels, ROWS.min(rows - i * ROWS) * channels);
        let range = start..start + len;
        // SAFETY: rows of a fresh tensor, one shard's.
        let dx = unsafe { dx.slice(start, len) };
        input_gradient(isa, &x[range.clone()], &dy[range], saved, gamma, [&shift, &slope], dx);
    });
    Ok(dinp)
}

kernel! {
    fn gradient_sums<S>(s, inp: &[f32], dout: &[f32], saved: &[f32], out: &mut [Vec<f64>; 2]) {
        let _ = s;
        let channels = saved.len() / 2;
        let (mean, inv_std) = saved.split_at(channels);
        let [sum_dy, sum_dy_normal] = out;
        let (sum_dy, sum_dy_normal) = (&mut sum_dy[..channels], &mut sum_dy_normal[..channels]);
        for (x, dy) in inp.chunks_exact(channels).zip(dout.chunks_exact(channels)) {
            for c in 0..channels {
                let normal = (x[c] - mean[c]) * inv_std[c];
                sum_dy[c] += f64::from(dy[c]);
                sum_dy_normal[c] += f64::from(dy[c]) * f64::from(normal);
            }
        }
    }
}

kernel! {
    fn input_gradient<S>(s, inp: &[f32], dout: &[f32], saved: &[f32], gamma: &[f32], means: [&[f32]; 2], dinp: &mut [f32]) {
        let _ = s;
        let channels = gamma.len();
        let (mean, inv_std) = saved.split_at(channels);
        let [shift, slope] = means;
        for ((dx, x), dy) in dinp.chunks_exact_mut(channels).zip(inp.chunks_exact(channels)).zip(dout.chunks_exact(channels)) {
            for c in 0..channels {
                let normal = (x[c] - mean[c]) * inv_std[c];
                dx[c] = gamma[c] * inv_std[c] * (dy[c] - shift[c] - normal * slope[c]);
            }
        }
    }
}
