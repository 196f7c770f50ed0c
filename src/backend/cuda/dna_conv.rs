//! The DNA block (kernels/dna_conv.cu): statistics in closed form, then one pass.

use super::params::{DnaConvParams, dropout_params};
use super::{Cuda, Memory, Step, T, at, int, optional};
use crate::backend::{DnaAffine, DnaBatch, DnaConv, DnaConvGrads};
use crate::error::{Error, Result};
use std::sync::Arc;

/// Bit planes on the device, `[B,3,words]`.
#[derive(Clone)]
pub struct Dna {
    pub(super) planes: Arc<Memory>,
    pub(super) batch: usize,
    pub(super) length: usize,
    pub(super) words: usize,
}

/// What backward needs.
pub struct Saved {
    /// `[B,P,C]` bytes: place of the maximum in its window, 255 where ReLU cut it.
    winner: Memory,
    /// `[K,K,16]` base-pair counts; only with batch statistics.
    counts: Option<Memory>,
    /// `[2,C]` f64: mean and 1/sqrt(var + eps).
    moments: Memory,
    batch_norm: bool,
}

const BIAS: i32 = 0;
const RUNNING: i32 = 1;
const BATCH: i32 = 2;
/// Samples per block of `dna_count`.
const COUNT_SAMPLES: usize = 8;
/// Pooled positions of a warp and channels of a block of wide look-ups.
const WIDE_POSITIONS: usize = 16;
const WIDE_CHANNELS: usize = 8;
/// Dynamic shared memory that every supported card gives a block.
const SHARED_LIMIT: usize = 99 << 10;

pub fn upload(cuda: &Cuda, batch: &DnaBatch) -> Result<Dna> {
    let planes: Vec<u64> = (0..batch.batch())
        .flat_map(|b| {
            let (low, high, known) = batch.planes(b);
            [low, high, known]
        })
        .flatten()
        .copied()
        .collect();
    let planes = Arc::new(cuda.upload(&planes)?);
    Ok(Dna { planes, batch: batch.batch(), length: batch.length(), words: batch.words() })
}

fn params(
    op: &'static str,
    dna: &Dna,
    spec: &DnaConv,
    weight: &T,
    affine: &DnaAffine<'_, Cuda>,
) -> Result<DnaConvParams> {
    if !(1..=64).contains(&spec.kernel) || spec.pool == 0 {
        return Err(Error::shape(op, format!("kernel {} must be 1 to 64, pool {} at least 1", spec.kernel, spec.pool)));
    }
    if spec.pool > 255 {
        return Err(Error::Unsupported { op, message: format!("pooling by {}; at most 255", spec.pool) });
    }
    let (conv_length, pooled) = (spec.conv_length(dna.length), spec.pooled_length(dna.length));
    if pooled == 0 {
        return Err(Error::shape(
            op,
            format!("{} bases leave nothing after {} taps and pooling by {}", dna.length, spec.kernel, spec.pool),
        ));
    }
    weight.expect_shape(op, "weight", &[spec.channels, 4, spec.kernel])?;
    let channels = [spec.channels];
    let mode = match affine {
        DnaAffine::Bias(bias) => {
            bias.expect_shape(op, "bias", &channels)?;
            BIAS
        }
        DnaAffine::BatchNorm { gamma, beta, running_mean, running_var } => {
            gamma.expect_shape(op, "gamma", &channels)?;
            beta.expect_shape(op, "beta", &channels)?;
            running_mean.expect_shape(op, "running_mean", &channels)?;
            running_var.expect_shape(op, "running_var", &channels)?;
            if spec.train && dna.batch * conv_length < 2 {
                return Err(Error::shape(op, "training needs at least 2 convolution outputs per channel"));
            }
            if spec.train { BATCH } else { RUNNING }
        }
    };
    int(op, dna.batch * conv_length)?;
    int(op, dna.batch * pooled)?;
    Ok(DnaConvParams {
        dropout: dropout_params(spec.dropout.as_ref()),
        batch: int(op, dna.batch)?,
        length: int(op, dna.length)?,
        words: int(op, dna.words)?,
        channels: int(op, spec.channels)?,
        kernel: int(op, spec.kernel)?,
        pool: int(op, spec.pool)?,
        conv_length: int(op, conv_length)?,
        pooled: int(op, pooled)?,
        slices: 0,
        mode,
        eps: spec.eps,
        momentum: spec.momentum,
    })
}

/// Addresses of gamma, beta and the running statistics; 0 where there are none.
fn addresses(affine: &DnaAffine<'_, Cuda>) -> [u64; 4] {
    match affine {
        DnaAffine::Bias(bias) => [0, at(bias), 0, 0],
        DnaAffine::BatchNorm { gamma, beta, running_mean, running_var } => {
            [at(gamma), at(beta), at(running_mean), at(running_var)]
        }
    }
}

/// The kernel of wide look-ups for this block, and its table's bytes: lines of 128.
fn wide(spec: &DnaConv) -> Option<(&'static str, usize)> {
    match (spec.kernel, spec.pool) {
        (13, 6) => Some(("dna_conv_forward_13_6", 256 * 128)),
        (40, 20) => Some(("dna_conv_forward_40_20", (256 + 2 * 64) * 128)),
        _ => None,
    }
}

/// Base-pair counts of the whole batch.
fn count(cuda: &Cuda, dna: &Dna, p: &DnaConvParams) -> Result<Memory> {
    let (kernel, slices) = (p.kernel as usize, dna.batch.div_ceil(COUNT_SAMPLES));
    let p = DnaConvParams { slices: slices as i32, ..*p };
    let size = kernel * kernel * 16;
    let (partial, counts) = (cuda.scratch::<i32>(slices * size)?, cuda.scratch::<i32>(size)?);
    launch!(cuda, "dna_count", [kernel, slices, 1], 256, 0; p, dna.planes.address(), partial.address())?;
    launch!(cuda, "dna_count_merge", [size.div_ceil(256), 1, 1], 256, 0; p, partial.address(), counts.address())?;
    Ok(counts)
}

pub fn forward(
    cuda: &Cuda,
    dna: &Dna,
    spec: &DnaConv,
    weight: &T,
    affine: DnaAffine<'_, Cuda>,
    step: &Step,
) -> Result<(T, Saved)> {
    let p = params("dna_conv", dna, spec, weight, &affine)?;
    let (channels, pooled) = (spec.channels, p.pooled as usize);
    let counts = if p.mode == BATCH { Some(count(cuda, dna, &p)?) } else { None };
    let moments = cuda.scratch::<f64>(2 * channels)?;
    let folded = cuda.scratch::<f32>(3 * channels)?;
    let [gamma, beta, mean, var] = addresses(&affine);
    let counted = counts.as_ref().map_or(0, Memory::address);
    launch!(cuda, "dna_conv_fold", [channels, 1, 1], 128, 0;
        p, counted, at(weight), gamma, beta, mean, var, moments.address(), folded.address())?;

    let out = cuda.empty(&[dna.batch, pooled, channels])?;
    let winner = cuda.scratch::<u8>(dna.batch * pooled * channels)?;
    let run = |kernel: &str, grid: [usize; 3], chunk: usize, shared: usize| {
        launch!(cuda, kernel, grid, 256, shared;
            p, chunk as i32, step.address(), dna.planes.address(), at(weight), folded.address(), at(&out), winner.address())
    };
    if let Some((kernel, shared)) = wide(spec) {
        // Four blocks for every multiprocessor: a table is worth the look-ups of some thousand positions.
        let (tasks, tiles) = ((dna.batch * pooled).div_ceil(WIDE_POSITIONS), channels.div_ceil(WIDE_CHANNELS));
        let chunk = tasks.div_ceil((4 * cuda.device().multiprocessors() / tiles).max(1));
        run(kernel, [tasks.div_ceil(chunk), tiles, 1], chunk, shared)?;
    } else {
        let chunk = (384 / spec.pool).clamp(1, pooled);
        let shared = |group: usize, rows: usize| {
            (spec.kernel.div_ceil(group) * rows * 32 * 4) + (chunk * spec.pool + spec.kernel).next_multiple_of(16)
        };
        let (kernel, shared) = match shared(2, 25) {
            bytes if bytes <= SHARED_LIMIT => ("dna_conv_forward_2", bytes),
            _ => ("dna_conv_forward_1", shared(1, 5)),
        };
        run(kernel, [pooled.div_ceil(chunk), channels.div_ceil(32), dna.batch], chunk, shared)?;
    }
    Ok((out, Saved { winner, counts, moments, batch_norm: p.mode != BIAS }))
}

pub fn backward(
    cuda: &Cuda,
    dna: &Dna,
    spec: &DnaConv,
    weight: &T,
    affine: DnaAffine<'_, Cuda>,
    saved: &Saved,
    dout: &T,
    grads: DnaConvGrads<'_, Cuda>,
    step: &Step,
) -> Result<()> {
    const OP: &str = "dna_conv_backward";
    let mut p = params(OP, dna, spec, weight, &affine)?;
    if saved.batch_norm != (p.mode != BIAS) || (p.mode == BATCH) != saved.counts.is_some() {
        return Err(Error::shape(OP, "the affine map is not the one of the forward pass"));
    }
    let (channels, pooled) = (spec.channels, p.pooled as usize);
    dout.expect_shape(OP, "dout", &[dna.batch, pooled, channels])?;
    for (what, slot, shape) in [
        ("dweight", grads.dweight, &[channels, 4, spec.kernel][..]),
        ("dgamma", grads.dgamma, &[channels]),
        ("dbeta", grads.dbeta, &[channels]),
    ] {
        slot.map_or(Ok(()), |slot| slot.expect_shape(OP, what, shape))?;
    }
    let entries = 4 * spec.kernel + 1;
    let rows = dna.batch * pooled;
    let per_slice = rows.div_ceil(64).max(64);
    let slices = rows.div_ceil(per_slice);
    p.slices = int(OP, slices)?;
    let warps = (SHARED_LIMIT / 2 / (entries * 32 * 4)).clamp(1, 8);
    let partial = cuda.scratch::<f32>(slices * entries * channels)?;
    let grid = [slices, channels.div_ceil(32), 1];
    launch!(cuda, "dna_conv_backward_partial", grid, warps * 32, warps * entries * 32 * 4;
        p, per_slice as i32, step.address(), dna.planes.address(), saved.winner.address(), at(dout), partial.address())?;
    let [gamma, ..] = addresses(&affine);
    let counts = saved.counts.as_ref().map_or(0, Memory::address);
    launch!(cuda, "dna_conv_backward_finish", [channels, 1, 1], 128, 0;
        p, partial.address(), counts, saved.moments.address(), at(weight), gamma,
        optional(grads.dweight), optional(grads.dgamma), optional(grads.dbeta))
}
