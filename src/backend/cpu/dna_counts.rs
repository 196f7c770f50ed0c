//! How often pairs of bases meet: the exact first and second moments of one-hot windows, by popcount over bit planes.

use rayon::prelude::*;

use crate::backend::DnaBatch;

/// Over all `windows` of `K` bases of a batch: `first[j] = Σ x_j` and `second[i*n + j] = Σ x_i x_j`, `n = 4K`, element
/// `j = base*K + tap` as in a filter `[4,K]`. Whole numbers, exact in f64.
pub struct Counts {
    pub windows: usize,
    pub first: Vec<f64>,
    pub second: Vec<f64>,
}

impl Counts {
    pub fn of(dna: &DnaBatch, kernel: usize) -> Self {
        let windows = dna.length() + 1 - kernel;
        // lag[d][a*4 + b][k] = windows with base a at tap k and b at tap k + d. Sums of whole numbers: order is free.
        let zero = || vec![0u64; kernel * 16 * kernel];
        let lags =
            (0..dna.batch()).into_par_iter().map(|b| sample(dna, b, kernel, windows)).reduce(zero, |mut total, one| {
                total.iter_mut().zip(one).for_each(|(t, x)| *t += x);
                total
            });
        let n = 4 * kernel;
        let (mut first, mut second) = (vec![0.0; n], vec![0.0; n * n]);
        for d in 0..kernel {
            for (pair, counts) in lags[d * 16 * kernel..(d + 1) * 16 * kernel].chunks(kernel).enumerate() {
                for k in 0..kernel - d {
                    let (i, j) = (pair / 4 * kernel + k, pair % 4 * kernel + k + d);
                    second[i * n + j] = counts[k] as f64;
                    second[j * n + i] = counts[k] as f64;
                    if i == j {
                        first[i] = counts[k] as f64;
                    }
                }
            }
        }
        Counts { windows: windows * dna.batch(), first, second }
    }
}

/// The counts of sequence `b`, `[lag][pair][tap]`.
fn sample(dna: &DnaBatch, b: usize, kernel: usize, windows: usize) -> Vec<u64> {
    let (low, high, known) = dna.planes(b);
    let plane = |base: usize| -> Vec<u64> {
        let side = |bits: u64, set: bool| if set { bits } else { !bits };
        let words = low.iter().zip(high).zip(known);
        words.map(|((&l, &h), &k)| k & side(l, base & 1 == 1) & side(h, base & 2 == 2)).collect()
    };
    let planes = [0, 1, 2, 3].map(plane);
    let codes = dna.codes(b);
    let mut out = vec![0u64; kernel * 16 * kernel];
    for d in 0..kernel {
        // Tap 0: positions below `windows`. From one tap to the next the range of positions moves by one.
        let ahead = [0, 1, 2, 3].map(|base: usize| shifted(&planes[base], d));
        for pair in 0..16 {
            out[(d * 16 + pair) * kernel] = both(&planes[pair / 4], &ahead[pair % 4], windows);
        }
        for k in 1..kernel - d {
            for pair in 0..16 {
                let at = (d * 16 + pair) * kernel + k;
                out[at] = out[at - 1];
            }
            let pair = |p: usize| {
                let (a, b) = (usize::from(codes[p]), usize::from(codes[p + d]));
                (a < 4 && b < 4).then_some((d * 16 + a * 4 + b) * kernel + k)
            };
            if let Some(at) = pair(k - 1) {
                out[at] -= 1;
            }
            if let Some(at) = pair(k - 1 + windows) {
                out[at] += 1;
            }
        }
    }
    out
}

/// Bit `i` of the result is bit `i + d` (`d < 64`) of `plane`.
fn shifted(plane: &[u64], d: usize) -> Vec<u64> {
    let next = |i: usize| plane.get(i + 1).copied().unwrap_or(0);
    (0..plane.len()).map(|i| if d == 0 { plane[i] } else { plane[i] >> d | next(i) << (64 - d) }).collect()
}

/// Positions below `end` where both planes have a bit.
fn both(a: &[u64], b: &[u64], end: usize) -> u64 {
    let (whole, rest) = (end / 64, end % 64);
    let mut count: u64 = a[..whole].iter().zip(&b[..whole]).map(|(a, b)| u64::from((a & b).count_ones())).sum();
    if rest > 0 {
        count += u64::from((a[whole] & b[whole] & ((1 << rest) - 1)).count_ones());
    }
    count
}
