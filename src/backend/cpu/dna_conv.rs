//! The DNA block straight from 2-bit codes. A filter is a table lookup: taps are taken three at a time, and the sums that
//! each of the 5³ triples (A, C, G, T, N) contributes are tabulated, a vector of channels to a row, so that what
//! the tables of a vector hold of triples without N stays in the first-level cache. Batch norm's statistics follow in closed
//! form from [`Counts`], so scale and shift are folded into the tables and nothing of the size of the convolution's output
//! exists.
//!
//! Backward is exact: with `g` the gradient at the pool's winners, `x` their windows, `W` the filters and `a = γ/σ`,
//! `dW = a [Σ g (x - m)ᵀ - (dγ/σ) W cov(x)]` with `m` the mean window, `dγ = Σ g ŷ`, `dβ = Σ g`. In evaluation mode only
//! `a Σ g xᵀ` remains.

use rayon::prelude::*;

use super::batch_norm::update_running;
use super::dna_counts::Counts;
use super::parallel::{Ptr, shards, shards_with};
use super::simd::kernel;
use super::{Cpu, Step, Tensor, add_to};
use crate::backend::{DnaAffine, DnaBatch, DnaConv, DnaConvGrads};
use crate::error::{Error, Result};
use crate::rng::Dropout;

/// Taps of a table, and its entries.
const GROUP: usize = 3;
const ENTRIES: usize = 125;
/// Samples and channels of a shard of the backward pass.
const SAMPLES: usize = 16;
const CHANNELS: usize = 32;
/// Winner of a window whose output is 0 or dropped: no gradient passes.
const NONE: u8 = u8::MAX;

/// What backward needs.
pub struct Saved {
    /// Offset of the winner within its window `[B,P,C]`, or [`NONE`].
    winners: Vec<u8>,
    /// Statistics that normalised, unless a bias followed.
    norm: Option<Norm>,
}

struct Norm {
    mean: Vec<f64>,
    inv_std: Vec<f64>,
    /// Of the windows, in training only.
    windows: Option<Windows>,
}

fn check(op: &'static str, dna: &DnaBatch, spec: &DnaConv, weight: &Tensor, affine: &DnaAffine<'_, Cpu>) -> Result<()> {
    if !(1..=64).contains(&spec.kernel) || spec.pool == 0 {
        return Err(Error::shape(op, format!("kernel {} must be 1 to 64, pool {} at least 1", spec.kernel, spec.pool)));
    }
    if spec.pool > usize::from(NONE) {
        return Err(Error::Unsupported { op, message: format!("pooling by {}; at most {NONE}", spec.pool) });
    }
    if spec.pooled_length(dna.length()) == 0 {
        return Err(Error::shape(
            op,
            format!("{} bases leave nothing after {} taps and pooling by {}", dna.length(), spec.kernel, spec.pool),
        ));
    }
    weight.expect_shape(op, "weight", &[spec.channels, 4, spec.kernel])?;
    let channels = [spec.channels];
    match affine {
        DnaAffine::Bias(bias) => bias.expect_shape(op, "bias", &channels),
        DnaAffine::BatchNorm { gamma, beta, running_mean, running_var } => {
            gamma.expect_shape(op, "gamma", &channels)?;
            beta.expect_shape(op, "beta", &channels)?;
            running_mean.expect_shape(op, "running_mean", &channels)?;
            running_var.expect_shape(op, "running_var", &channels)?;
            if spec.train && dna.batch() * spec.conv_length(dna.length()) < 2 {
                return Err(Error::shape(op, "training needs at least 2 convolution outputs per channel"));
            }
            Ok(())
        }
    }
}

/// Number of tables.
fn groups(kernel: usize) -> usize {
    kernel.div_ceil(GROUP)
}

/// For each window start and table, the entry is that of three bases; bases past the end count as N.
fn triples(dna: &DnaBatch, b: usize) -> Vec<u8> {
    let codes = dna.codes(b);
    let at = |i: usize| usize::from(codes.get(i).copied().unwrap_or(4));
    (0..codes.len() + GROUP).map(|i| ENTRY[at(i) * 25 + at(i + 1) * 5 + at(i + 2)]).collect()
}

/// The entry of each triple `25 a + 5 b + c`: those of triples without N come first, side by side.
const ENTRY: [u8; ENTRIES] = {
    let (mut entries, mut next, mut i) = ([0; ENTRIES], 0, 0);
    while i < 2 * ENTRIES {
        let triple = i % ENTRIES;
        let known = triple / 25 < 4 && triple / 5 % 5 < 4 && triple % 5 < 4;
        if known == (i < ENTRIES) {
            entries[triple] = next;
            next += 1;
        }
        i += 1;
    }
    entries
};
/// The three bases of each entry.
const BASES: [[usize; GROUP]; ENTRIES] = {
    let (mut bases, mut triple) = ([[0; GROUP]; ENTRIES], 0);
    while triple < ENTRIES {
        bases[ENTRY[triple] as usize] = [triple / 25, triple / 5 % 5, triple % 5];
        triple += 1;
    }
    bases
};

/// Mean `[4K]` and covariance `[4K,4K]` of the one-hot windows of a batch.
struct Windows {
    count: usize,
    mean: Vec<f64>,
    covariance: Vec<f64>,
}

impl Windows {
    fn of(dna: &DnaBatch, kernel: usize) -> Self {
        let Counts { windows: count, first, second } = Counts::of(dna, kernel);
        let (n, total) = (first.len(), count as f64);
        let mean: Vec<f64> = first.iter().map(|s| s / total).collect();
        let covariance = (0..n * n).map(|ij| second[ij] / total - mean[ij / n] * mean[ij % n]).collect();
        Windows { count, mean, covariance }
    }
    /// The covariance times a filter.
    fn through(&self, w: &[f64]) -> Vec<f64> {
        self.covariance.chunks(w.len()).map(|row| dot(row, w)).collect()
    }
    /// Mean and variance of each channel's convolution outputs.
    fn moments(&self, weight: &[f32]) -> (Vec<f64>, Vec<f64>) {
        let channel = |w: &[f32]| {
            let w: Vec<f64> = w.iter().map(|&w| w.into()).collect();
            (dot(&w, &self.mean), dot(&w, &self.through(&w)).max(0.0))
        };
        weight.chunks(self.mean.len()).map(channel).unzip()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Tables `[block][group][entry][lanes]` of filters times `scale`; the first group carries `shift`. With the mean window
/// each table is centred, so that large equal parts cancel before they are rounded.
fn tables(
    cpu: &Cpu,
    weight: &[f32],
    kernel: usize,
    scale: &[f64],
    shift: &[f64],
    mean: Option<&[f64]>,
) -> Result<super::Buffer> {
    let (channels, groups, lanes) = (scale.len(), groups(kernel), cpu.lanes());
    let out = cpu.take(channels.div_ceil(lanes) * groups * ENTRIES * lanes)?;
    let at = Ptr(out.as_ptr());
    shards(channels.div_ceil(lanes) * groups, |shard| {
        let (block, group) = (shard / groups, shard % groups);
        // SAFETY: each table is one shard's.
        let table = unsafe { at.slice(shard * ENTRIES * lanes, ENTRIES * lanes) };
        let slots = GROUP.min(kernel - group * GROUP);
        for (lane, c) in (block * lanes..(block + 1) * lanes).enumerate() {
            // What each base adds at each tap; N adds only what is subtracted from all.
            let mut parts = [[0.0; 5]; GROUP];
            if c < channels {
                for (slot, parts) in parts.iter_mut().enumerate().take(slots) {
                    let k = group * GROUP + slot;
                    for (own, part) in parts.iter_mut().enumerate() {
                        for code in 0..4 {
                            let expected = mean.map_or(0.0, |mean| mean[code * kernel + k]);
                            let seen = if code == own { 1.0 } else { 0.0 };
                            *part += (seen - expected) * f64::from(weight[(c * 4 + code) * kernel + k]);
                        }
                    }
                }
            }
            let (scale, shift) = if c < channels { (scale[c], shift[c]) } else { (0.0, 0.0) };
            for (entry, row) in table.chunks_exact_mut(lanes).enumerate() {
                let sum: f64 = (0..GROUP).map(|slot| parts[slot][BASES[entry][slot]]).sum();
                row[lane] = (scale * sum + if group == 0 { shift } else { 0.0 }) as f32;
            }
        }
    });
    Ok(out)
}

pub fn forward(
    cpu: &Cpu,
    dna: &DnaBatch,
    spec: &DnaConv,
    weight: &Tensor,
    affine: DnaAffine<'_, Cpu>,
    step: &Step,
) -> Result<(Tensor, Saved)> {
    check("dna_conv", dna, spec, weight, &affine)?;
    let (batch, pooled, channels) = (dna.batch(), spec.pooled_length(dna.length()), spec.channels);
    let w = cpu.read(weight);
    let double = |t: &Tensor| cpu.read(t).iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    let (scale, shift, norm) = match affine {
        DnaAffine::Bias(bias) => (vec![1.0; channels], double(bias), None),
        DnaAffine::BatchNorm { gamma, beta, running_mean, running_var } => {
            let windows = spec.train.then(|| Windows::of(dna, spec.kernel));
            let (mean, var) = match &windows {
                Some(windows) => {
                    let (mean, var) = windows.moments(w);
                    // SAFETY: slots of this call.
                    let (old_mean, old_var) = unsafe { (cpu.slot(running_mean), cpu.slot(running_var)) };
                    update_running(old_mean, old_var, &mean, &var, windows.count, spec.momentum);
                    (mean, var)
                }
                None => (double(running_mean), double(running_var)),
            };
            let inv_std: Vec<f64> = var.iter().map(|v| 1.0 / (v + f64::from(spec.eps)).sqrt()).collect();
            let scale: Vec<f64> = double(gamma).iter().zip(&inv_std).map(|(g, i)| g * i).collect();
            // In training the tables are centred.
            let centre = |c: usize| if spec.train { 0.0 } else { scale[c] * mean[c] };
            let shift = double(beta).iter().enumerate().map(|(c, b)| b - centre(c)).collect();
            (scale, shift, Some(Norm { mean, inv_std, windows }))
        }
    };
    let mean = norm.as_ref().and_then(|norm| norm.windows.as_ref()).map(|windows| &windows.mean[..]);
    let tables = tables(cpu, w, spec.kernel, &scale, &shift, mean)?;
    let out = cpu.fresh(&[batch, pooled, channels])?;
    let size = pooled * channels;
    let mut winners = vec![NONE; batch * size];
    let (y, table, places, isa) = (cpu.ptr(&out), Ptr(tables.as_ptr()), Places(winners.as_mut_ptr()), cpu.isa());
    let dropout = spec.dropout.map(|dropout| (dropout, step.read().philox_step));
    shards_with(cpu, batch, 2 * (size / 64 + 3), |b, scratch| {
        // SAFETY: a shard owns its sample's part of the outputs; the scratch holds a bit per output and two words more.
        unsafe {
            let words = std::slice::from_raw_parts_mut(scratch.0.cast::<u64>(), size / 64 + 3);
            let sample = Sample {
                triples: &triples(dna, b),
                first: (b * size) as u64,
                out: Ptr(y.at(b * size)),
                winners: places.at(b * size),
            };
            forward_sample(isa, spec, pooled, table, sample, dropout, words);
        }
    })?;
    Ok((out, Saved { winners, norm }))
}

#[derive(Clone, Copy)]
struct Places(*mut u8);

// SAFETY: a plain address; every use is unsafe and names its range.
unsafe impl Send for Places {}
unsafe impl Sync for Places {}

impl Places {
    /// # Safety
    /// In bounds.
    unsafe fn at(self, i: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(i) }
    }
}

/// One sample of the forward pass.
struct Sample<'a> {
    triples: &'a [u8],
    /// Element of its first output.
    first: u64,
    out: Ptr,
    winners: *mut u8,
}

kernel! {
    unsafe fn forward_sample<S>(s, spec: &DnaConv, pooled: usize, tables: Ptr, sample: Sample<'_>, dropout: Option<(Dropout, u32)>, words: &mut [u64]) {
        let channels = spec.channels;
        let mut keep_scale = 1.0;
        if let Some((dropout, step)) = dropout {
            keep_scale = dropout.scale();
            s.keep_bits(dropout.seed, dropout.stream, step, sample.first / 64 * 8, dropout.threshold(), words);
        }
        let (groups, skew) = (groups(spec.kernel), (sample.first % 64) as usize);
        // SAFETY: the caller's promise.
        unsafe {
            for first in (0..channels).step_by(S::N) {
                let table = Ptr(tables.at(first * groups * ENTRIES));
                let n = S::N.min(channels - first);
                for p in 0..pooled {
                    let mut best = s.splat(f32::NEG_INFINITY);
                    let mut place = s.splat(f32::from(NONE));
                    for j in 0..spec.pool {
                        let start = sample.triples.as_ptr().add(p * spec.pool + j);
                        let mut sum = s.load(table.at(usize::from(*start) * S::N));
                        for g in 1..groups {
                            let entry = g * ENTRIES + usize::from(*start.add(g * GROUP));
                            sum = s.add(sum, s.load(table.at(entry * S::N)));
                        }
                        place = s.if_gt(sum, best, s.splat(j as f32), place);
                        best = s.max(best, sum);
                    }
                    let at = p * channels + first;
                    let mut alive = s.gt(best, s.splat(0.0));
                    if dropout.is_some() {
                        let (word, bit) = ((skew + at) / 64, (skew + at) % 64);
                        let both = u128::from(words[word]) | u128::from(words[word + 1]) << 64;
                        alive &= (both >> bit) as u32;
                    }
                    // NaN is not above 0, but must not vanish.
                    let sick = !s.gt(best, s.splat(f32::NEG_INFINITY));
                    s.store_n(sample.out.at(at), s.mul(s.keep(best, alive | sick), s.splat(keep_scale)), n);
                    let mut lanes = [0.0f32; 16];
                    s.store(lanes.as_mut_ptr(), s.select(alive, place, s.splat(f32::from(NONE))));
                    for i in 0..n {
                        *sample.winners.add(at + i) = lanes[i] as u8;
                    }
                }
            }
        }
    }
}

pub fn backward(
    cpu: &Cpu,
    dna: &DnaBatch,
    spec: &DnaConv,
    weight: &Tensor,
    affine: DnaAffine<'_, Cpu>,
    saved: &Saved,
    dout: &Tensor,
    grads: DnaConvGrads<'_, Cpu>,
) -> Result<()> {
    const OP: &str = "dna_conv_backward";
    check(OP, dna, spec, weight, &affine)?;
    let (batch, pooled, channels) = (dna.batch(), spec.pooled_length(dna.length()), spec.channels);
    dout.expect_shape(OP, "dout", &[batch, pooled, channels])?;
    let taps = 4 * spec.kernel;
    let groups = groups(spec.kernel);
    // Σ g xᵀ [4K] and Σ g as each table has it [groups], for each channel, per shard of samples, added in order.
    let row = taps + groups;
    let (parts, blocks) = (batch.div_ceil(SAMPLES), channels.div_ceil(CHANNELS));
    let mut partial = vec![0.0f64; parts * channels * row];
    let sums = Doubles(partial.as_mut_ptr());
    let dy = cpu.read(dout);
    let keep_scale = f64::from(spec.dropout.map_or(1.0, |dropout| dropout.scale()));
    let triples: Vec<Vec<u8>> = (0..batch).into_par_iter().map(|b| triples(dna, b)).collect();
    shards_with(cpu, parts * blocks, groups * ENTRIES, |shard, scratch| {
        let (part, block) = (shard / blocks, shard % blocks);
        // SAFETY: the scratch is the shard's.
        let table = unsafe { scratch.slice(0, groups * ENTRIES) };
        for c in block * CHANNELS..((block + 1) * CHANNELS).min(channels) {
            table.fill(0.0);
            for b in part * SAMPLES..((part + 1) * SAMPLES).min(batch) {
                let range = b * pooled * channels + c..(b + 1) * pooled * channels;
                scatter(&triples[b], spec, &dy[range.clone()], &saved.winners[range], table);
            }
            // SAFETY: each channel of each part is one shard's.
            let sums = unsafe { std::slice::from_raw_parts_mut(sums.get().add((part * channels + c) * row), row) };
            distribute(spec.kernel, table, sums);
        }
    })?;
    let mut total = vec![0.0f64; channels * row];
    for part in partial.chunks(channels * row) {
        total.iter_mut().zip(part).for_each(|(t, p)| *t += keep_scale * p);
    }
    let w = cpu.read(weight);
    let (mut dw, mut dgamma, mut dbeta) =
        (vec![0.0f32; channels * taps], vec![0.0f32; channels], vec![0.0f32; channels]);
    let gamma = match (&affine, &saved.norm) {
        (DnaAffine::BatchNorm { gamma, .. }, Some(_)) => Some(cpu.read(gamma)),
        (DnaAffine::Bias(_), None) => None,
        _ => return Err(Error::shape(OP, "the affine map is not the one of the forward pass")),
    };
    for (c, sums) in total.chunks(row).enumerate() {
        let (g_x, g) = sums.split_at(taps);
        let w: Vec<f64> = w[c * taps..(c + 1) * taps].iter().map(|&w| w.into()).collect();
        let dw = &mut dw[c * taps..(c + 1) * taps];
        dbeta[c] = g[0] as f32;
        let (Some(norm), Some(gamma)) = (&saved.norm, gamma) else {
            dw.iter_mut().zip(g_x).for_each(|(dw, &g_x)| *dw = g_x as f32);
            continue;
        };
        let inv_std = norm.inv_std[c];
        let scale = f64::from(gamma[c]) * inv_std;
        let Some(windows) = &norm.windows else {
            dgamma[c] = ((dot(&w, g_x) - norm.mean[c] * g[0]) * inv_std) as f32;
            dw.iter_mut().zip(g_x).for_each(|(dw, &g_x)| *dw = (scale * g_x) as f32);
            continue;
        };
        // Centred with the same table's Σ g, so that rounding cancels where the variance is nearly 0.
        let centred: Vec<f64> = (0..taps).map(|j| g_x[j] - windows.mean[j] * g[j % spec.kernel / GROUP]).collect();
        let g_y = dot(&w, &centred) * inv_std;
        dgamma[c] = g_y as f32;
        for ((dw, centred), through) in dw.iter_mut().zip(&centred).zip(windows.through(&w)) {
            *dw = (scale * (centred - g_y * inv_std * through)) as f32;
        }
    }
    for (what, slot, values) in
        [("dgamma", grads.dgamma.filter(|_| gamma.is_some()), &dgamma), ("dbeta", grads.dbeta, &dbeta)]
    {
        if let Some(slot) = slot {
            slot.expect_shape(OP, what, &[channels])?;
            add_to(cpu, slot, values);
        }
    }
    if let Some(slot) = grads.dweight {
        slot.expect_shape(OP, "dweight", weight.shape())?;
        add_to(cpu, slot, &dw);
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Doubles(*mut f64);

// SAFETY: a plain address; every use is unsafe and names its range.
unsafe impl Send for Doubles {}
unsafe impl Sync for Doubles {}

impl Doubles {
    fn get(self) -> *mut f64 {
        self.0
    }
}

/// Adds a channel's gradients, the first of each row of `dout`, to the entries that their windows look up, `[group][entry]`.
fn scatter(triples: &[u8], spec: &DnaConv, dout: &[f32], winners: &[u8], table: &mut [f32]) {
    let rows = dout.chunks(spec.channels).zip(winners.chunks(spec.channels));
    for (p, (dout, winners)) in rows.enumerate() {
        if winners[0] == NONE {
            continue;
        }
        let window = triples[p * spec.pool + usize::from(winners[0])..].iter().step_by(GROUP);
        for (entries, &entry) in table.chunks_exact_mut(ENTRIES).zip(window) {
            entries[usize::from(entry)] += dout[0];
        }
    }
}

/// From a channel's entries to taps: `(Σ g xᵀ [4K], Σ g [groups])`.
fn distribute(kernel: usize, table: &[f32], sums: &mut [f64]) {
    for (group, entries) in table.chunks_exact(ENTRIES).enumerate() {
        for (entry, &g) in entries.iter().enumerate() {
            sums[4 * kernel + group] += f64::from(g);
            for slot in 0..GROUP {
                let (code, k) = (BASES[entry][slot], group * GROUP + slot);
                if code < 4 && k < kernel {
                    sums[code * kernel + k] += f64::from(g);
                }
            }
        }
    }
}
