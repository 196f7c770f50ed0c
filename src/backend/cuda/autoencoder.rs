//! Reconstruction of DNA and normal latent variables (kernels/autoencoder.cu).

use super::dna_conv::Dna;
use super::params::{LatentParams, NoiseParams, ReconstructionParams};
use super::{Cuda, Step, T, at, chunks, int};
use crate::error::Result;
use crate::rng::Noise;

/// Launch parameters and the number of chunks.
fn params(op: &'static str, recon: &T, dna: &Dna) -> Result<(ReconstructionParams, usize)> {
    recon.expect_shape(op, "recon", &[dna.batch, dna.length, 4])?;
    int(op, recon.len())?;
    let bases = dna.batch * dna.length;
    let (chunk, pieces) = chunks(bases, 256, 1024, 256);
    let p = ReconstructionParams {
        bases: int(op, bases)?,
        length: int(op, dna.length)?,
        words: int(op, dna.words)?,
        chunk: int(op, chunk)?,
    };
    Ok((p, pieces))
}

pub fn reconstruction(cuda: &Cuda, recon: &T, dna: &Dna) -> Result<T> {
    let (p, pieces) = params("reconstruction", recon, dna)?;
    let (out, partial) = (cuda.empty(&[3])?, cuda.scratch::<f64>(3 * pieces)?);
    let planes = dna.planes.address();
    launch!(cuda, "reconstruction_partial", [pieces, 1, 1], 256, 0; p, at(recon), planes, partial.address())?;
    launch!(cuda, "reconstruction_finish", [1, 1, 1], 32, 0; pieces as i32, partial.address(), at(&out))?;
    Ok(out)
}

pub fn reconstruction_backward(cuda: &Cuda, recon: &T, dna: &Dna, dsquares: &T) -> Result<T> {
    const OP: &str = "reconstruction_backward";
    let (p, _) = params(OP, recon, dna)?;
    dsquares.expect_shape(OP, "dsquares", &[1])?;
    let drecon = cuda.empty(recon.shape())?;
    let grid = Cuda::spread(recon.len());
    let planes = dna.planes.address();
    launch!(cuda, "reconstruction_backward", grid, 256, 0; p, at(recon), planes, at(dsquares), at(&drecon))?;
    Ok(drecon)
}

fn noise_params(op: &'static str, noise: &Noise, count: usize) -> Result<NoiseParams> {
    Ok(NoiseParams { seed: noise.seed, stream: noise.stream, count: int(op, count)? })
}

pub fn sample_normal(cuda: &Cuda, mean: &T, log_variance: &T, noise: &Noise, step: &Step) -> Result<T> {
    const OP: &str = "sample_normal";
    log_variance.expect_shape(OP, "log_variance", mean.shape())?;
    let (out, p) = (cuda.empty(mean.shape())?, noise_params(OP, noise, mean.len())?);
    let grid = Cuda::spread(mean.len());
    launch!(cuda, "sample_normal_forward", grid, 256, 0; p, step.address(), at(mean), at(log_variance), at(&out))?;
    Ok(out)
}

pub fn sample_normal_backward(cuda: &Cuda, log_variance: &T, dout: &T, noise: &Noise, step: &Step) -> Result<T> {
    const OP: &str = "sample_normal_backward";
    dout.expect_shape(OP, "dout", log_variance.shape())?;
    let (dlog, p) = (cuda.empty(dout.shape())?, noise_params(OP, noise, dout.len())?);
    let grid = Cuda::spread(dout.len());
    launch!(cuda, "sample_normal_backward", grid, 256, 0; p, step.address(), at(log_variance), at(dout), at(&dlog))?;
    Ok(dlog)
}

fn latent(op: &'static str, mean: &T, log_variance: &T) -> Result<LatentParams> {
    let [batch, size] = mean.dims(op)?;
    log_variance.expect_shape(op, "log_variance", mean.shape())?;
    int(op, mean.len())?;
    Ok(LatentParams { batch: int(op, batch)?, size: int(op, size)? })
}

pub fn kl_divergence(cuda: &Cuda, mean: &T, log_variance: &T) -> Result<T> {
    let (p, out) = (latent("kl_divergence", mean, log_variance)?, cuda.empty(&[1])?);
    launch!(cuda, "kl_forward", [1, 1, 1], 256, 0; p, at(mean), at(log_variance), at(&out))?;
    Ok(out)
}

pub fn kl_divergence_backward(cuda: &Cuda, mean: &T, log_variance: &T, dkl: &T) -> Result<(T, T)> {
    const OP: &str = "kl_divergence_backward";
    let p = latent(OP, mean, log_variance)?;
    dkl.expect_shape(OP, "dkl", &[1])?;
    let (dmean, dlog) = (cuda.empty(mean.shape())?, cuda.empty(mean.shape())?);
    let grid = Cuda::spread(mean.len());
    launch!(cuda, "kl_backward", grid, 256, 0; p, at(mean), at(log_variance), at(dkl), at(&dmean), at(&dlog))?;
    Ok((dmean, dlog))
}
