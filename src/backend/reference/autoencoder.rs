//! Reconstruction of DNA, and the normal latent variables of a variational autoencoder.

use super::Real;
use super::dna_conv::onehot;
use super::memory::{Step, Tensor, read, tensor};
use crate::backend::DnaBatch;
use crate::error::Result;
use crate::rng::Noise;

/// `recon` must have four channels for each base.
fn check<T: Real>(op: &'static str, recon: &Tensor<T>, dna: &DnaBatch) -> Result<()> {
    recon.expect_shape(op, "recon", &[dna.batch(), dna.length(), 4])
}

pub fn reconstruction<T: Real>(recon: &Tensor<T>, dna: &DnaBatch) -> Result<Tensor<T>> {
    check("reconstruction", recon, dna)?;
    let (values, target) = (read(recon), read(&onehot(dna)));
    let squares = values.iter().zip(&target).map(|(&y, &x)| (y - x) * (y - x)).sum();
    let codes = (0..dna.batch()).flat_map(|b| dna.codes(b));
    let (mut right, mut known) = (0, 0);
    for (row, code) in values.chunks(4).zip(codes).filter(|(_, code)| *code < 4) {
        let mut best = 0;
        for a in 1..4 {
            if row[a] > row[best] {
                best = a;
            }
        }
        known += 1;
        right += usize::from(best == usize::from(code));
    }
    Ok(tensor(vec![squares, T::count(right), T::count(known)], &[3]))
}

pub fn reconstruction_backward<T: Real>(recon: &Tensor<T>, dna: &DnaBatch, dsquares: &Tensor<T>) -> Result<Tensor<T>> {
    const OP: &str = "reconstruction_backward";
    check(OP, recon, dna)?;
    dsquares.expect_shape(OP, "dsquares", &[1])?;
    let factor = T::of(2.0) * read(dsquares)[0];
    let drecon = read(recon).into_iter().zip(read(&onehot::<T>(dna))).map(|(y, x)| factor * (y - x));
    Ok(tensor(drecon.collect(), recon.shape()))
}

pub fn sample_normal<T: Real>(
    mean: &Tensor<T>,
    log_variance: &Tensor<T>,
    noise: &Noise,
    step: &Step,
) -> Result<Tensor<T>> {
    log_variance.expect_shape("sample_normal", "log_variance", mean.shape())?;
    let (half, step) = (T::of(0.5), step.read().philox_step);
    let pairs = read(mean).into_iter().zip(read(log_variance)).zip(0..);
    let out = pairs.map(|((m, v), e)| m + (half * v).exp() * T::of(noise.at(step, e)));
    Ok(tensor(out.collect(), mean.shape()))
}

pub fn sample_normal_backward<T: Real>(
    log_variance: &Tensor<T>,
    dout: &Tensor<T>,
    noise: &Noise,
    step: &Step,
) -> Result<Tensor<T>> {
    dout.expect_shape("sample_normal_backward", "dout", log_variance.shape())?;
    let (half, step) = (T::of(0.5), step.read().philox_step);
    let pairs = read(dout).into_iter().zip(read(log_variance)).zip(0..);
    let dlog = pairs.map(|((dy, v), e)| dy * (half * v).exp() * T::of(noise.at(step, e)) * half);
    Ok(tensor(dlog.collect(), log_variance.shape()))
}

pub fn kl_divergence<T: Real>(mean: &Tensor<T>, log_variance: &Tensor<T>) -> Result<Tensor<T>> {
    const OP: &str = "kl_divergence";
    let [batch, _] = mean.dims(OP)?;
    log_variance.expect_shape(OP, "log_variance", mean.shape())?;
    let pairs = read(mean).into_iter().zip(read(log_variance));
    let sum: T = pairs.map(|(m, v)| m * m + v.exp() - T::ONE - v).sum();
    Ok(tensor(vec![T::of(0.5) * sum / T::count(batch)], &[1]))
}

pub fn kl_divergence_backward<T: Real>(
    mean: &Tensor<T>,
    log_variance: &Tensor<T>,
    dkl: &Tensor<T>,
) -> Result<(Tensor<T>, Tensor<T>)> {
    const OP: &str = "kl_divergence_backward";
    let [batch, _] = mean.dims(OP)?;
    log_variance.expect_shape(OP, "log_variance", mean.shape())?;
    dkl.expect_shape(OP, "dkl", &[1])?;
    let share = read(dkl)[0] / T::count(batch);
    let dmean = read(mean).into_iter().map(|m| share * m);
    let dlog = read(log_variance).into_iter().map(|v| T::of(0.5) * share * (v.exp() - T::ONE));
    Ok((tensor(dmean.collect(), mean.shape()), tensor(dlog.collect(), mean.shape())))
}
