//! Reconstruction of DNA, and the normal latent variables of a variational autoencoder.

use super::parallel::{Ptr, shards};
use super::{Cpu, Step, Tensor};
use crate::backend::DnaBatch;
use crate::error::Result;
use crate::rng::Noise;

fn check(op: &'static str, recon: &Tensor, dna: &DnaBatch) -> Result<()> {
    recon.expect_shape(op, "recon", &[dna.batch(), dna.length(), 4])
}

pub fn reconstruction(cpu: &Cpu, recon: &Tensor, dna: &DnaBatch) -> Result<Tensor> {
    check("reconstruction", recon, dna)?;
    let (values, length) = (cpu.read(recon), dna.length());
    let mut sums = vec![[0.0f64; 3]; dna.batch()];
    let each = sums.as_mut_ptr() as usize;
    shards(dna.batch(), |b| {
        let mut sum = [0.0; 3];
        for (i, row) in values[b * length * 4..(b + 1) * length * 4].chunks_exact(4).enumerate() {
            let code = usize::from(dna.code(b, i));
            let mut best = 0;
            for a in 0..4 {
                let difference = f64::from(row[a]) - if a == code { 1.0 } else { 0.0 };
                sum[0] += difference * difference;
                if row[a] > row[best] {
                    best = a;
                }
            }
            if code < 4 {
                sum[1] += if best == code { 1.0 } else { 0.0 };
                sum[2] += 1.0;
            }
        }
        // SAFETY: each sample has its own sums.
        unsafe { *(each as *mut [f64; 3]).add(b) = sum };
    });
    let total = |n: usize| sums.iter().map(|sum| sum[n]).sum::<f64>() as f32;
    cpu.filled(&[total(0), total(1), total(2)], &[3])
}

pub fn reconstruction_backward(cpu: &Cpu, recon: &Tensor, dna: &DnaBatch, dsquares: &Tensor) -> Result<Tensor> {
    const OP: &str = "reconstruction_backward";
    check(OP, recon, dna)?;
    dsquares.expect_shape(OP, "dsquares", &[1])?;
    let drecon = cpu.fresh(recon.shape())?;
    let (values, to, factor) = (cpu.read(recon), cpu.ptr(&drecon), 2.0 * cpu.read(dsquares)[0]);
    let size = dna.length() * 4;
    shards(dna.batch(), |b| {
        // SAFETY: each sample is one shard's.
        let out = unsafe { to.slice(b * size, size) };
        for (i, (out, row)) in out.chunks_exact_mut(4).zip(values[b * size..].chunks_exact(4)).enumerate() {
            let code = usize::from(dna.code(b, i));
            for a in 0..4 {
                out[a] = factor * (row[a] - if a == code { 1.0 } else { 0.0 });
            }
        }
    });
    Ok(drecon)
}

/// Elements of a shard.
const CHUNK: usize = 1 << 12;

/// `f(e, noise)` for every element.
fn noisy(
    cpu: &Cpu,
    shape: &[usize],
    noise: &Noise,
    step: &Step,
    f: impl Fn(usize, f64) -> f64 + Sync,
) -> Result<Tensor> {
    let out = cpu.fresh(shape)?;
    let (y, step): (Ptr, _) = (cpu.ptr(&out), step.read().philox_step);
    shards(out.len().div_ceil(CHUNK), |chunk| {
        let first = chunk * CHUNK;
        // SAFETY: chunks are disjoint.
        let values = unsafe { y.slice(first, CHUNK.min(out.len() - first)) };
        for (e, y) in (first..).zip(values) {
            *y = f(e, noise.at(step, e as u64)) as f32;
        }
    });
    Ok(out)
}

pub fn sample_normal(cpu: &Cpu, mean: &Tensor, log_variance: &Tensor, noise: &Noise, step: &Step) -> Result<Tensor> {
    log_variance.expect_shape("sample_normal", "log_variance", mean.shape())?;
    let (m, v) = (cpu.read(mean), cpu.read(log_variance));
    noisy(cpu, mean.shape(), noise, step, |e, noise| f64::from(m[e]) + (0.5 * f64::from(v[e])).exp() * noise)
}

pub fn sample_normal_backward(
    cpu: &Cpu,
    log_variance: &Tensor,
    dout: &Tensor,
    noise: &Noise,
    step: &Step,
) -> Result<Tensor> {
    dout.expect_shape("sample_normal_backward", "dout", log_variance.shape())?;
    let (dy, v) = (cpu.read(dout), cpu.read(log_variance));
    noisy(cpu, dout.shape(), noise, step, |e, noise| 0.5 * f64::from(dy[e]) * (0.5 * f64::from(v[e])).exp() * noise)
}

pub fn kl_divergence(cpu: &Cpu, mean: &Tensor, log_variance: &Tensor) -> Result<Tensor> {
    const OP: &str = "kl_divergence";
    let [batch, _] = mean.dims(OP)?;
    log_variance.expect_shape(OP, "log_variance", mean.shape())?;
    let pairs = cpu.read(mean).iter().zip(cpu.read(log_variance)).map(|(&m, &v)| (f64::from(m), f64::from(v)));
    let sum: f64 = pairs.map(|(m, v)| m * m + v.exp_m1() - v).sum();
    cpu.filled(&[(0.5 * sum / batch as f64) as f32], &[1])
}

pub fn kl_divergence_backward(
    cpu: &Cpu,
    mean: &Tensor,
    log_variance: &Tensor,
    dkl: &Tensor,
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "kl_divergence_backward";
    let [batch, _] = mean.dims(OP)?;
    log_variance.expect_shape(OP, "log_variance", mean.shape())?;
    dkl.expect_shape(OP, "dkl", &[1])?;
    let share = f64::from(cpu.read(dkl)[0]) / batch as f64;
    let dmean: Vec<f32> = cpu.read(mean).iter().map(|&m| (share * f64::from(m)) as f32).collect();
    let dlog: Vec<f32> = cpu.read(log_variance).iter().map(|&v| (0.5 * share * f64::from(v).exp_m1()) as f32).collect();
    Ok((cpu.filled(&dmean, mean.shape())?, cpu.filled(&dlog, mean.shape())?))
}
