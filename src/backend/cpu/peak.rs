//! What this processor can do at best, for rooflines.

use std::time::Instant;

use rayon::prelude::*;

use super::Cpu;
use super::simd::{kernel, word};
use crate::backend::cost::Ceilings;

/// Independent accumulators: enough to hide a latency of 4 to 5 cycles on two ports, few enough for 16 registers.
const CHAINS: usize = 12;
const ROUNDS: usize = 1 << 24;

kernel! {
    /// `CHAINS * ROUNDS` multiply-adds of vectors that never leave their registers, as products make them; returns the terms of a
    /// vector.
    fn multiply_adds<S: Product>(s, out: &mut f32) -> usize {
        let (factor, term) = (s.splat(0.999_f32), s.splat(0.001_f32));
        let mut sums = [s.splat(*out); CHAINS];
        let pair = s.splat(word(0.001, -0.001));
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = if S::TERMS == 1 { s.fma(*sum, factor, term) } else { s.multiply_add(pair, pair, *sum) };
            }
        }
        *out = sums.into_iter().map(|v| s.sum(v)).sum();
        S::N * S::TERMS
    }
}

/// Ceilings over the threads of the current rayon pool: multiply-adds in registers, and a triad `a = b + c` larger than the caches.
pub fn ceilings(cpu: &Cpu) -> Ceilings {
    let threads = rayon::current_num_threads();
    let best = |work: &dyn Fn() -> f64| (0..5).map(|_| work()).fold(0.0, f64::max);
    let target = cpu.target();
    let flops = best(&|| {
        let started = Instant::now();
        let terms: usize = rayon::broadcast(|_| {
            let mut value = 1.0;
            let terms = multiply_adds(target, &mut value);
            std::hint::black_box(value);
            terms
        })
        .into_iter()
        .sum();
        (2 * CHAINS * ROUNDS * terms) as f64 / started.elapsed().as_secs_f64()
    });
    let len = (4 * last_cache()).clamp(192 << 20, 1536 << 20) / 12;
    let chunk = len.div_ceil(8 * threads);
    let (mut a, b, c) = (vec![0f32; len], vec![1f32; len], vec![2f32; len]);
    let bytes = (0..4).map(|_| {
        let started = Instant::now();
        a.par_chunks_mut(chunk).zip(b.par_chunks(chunk)).zip(c.par_chunks(chunk)).for_each(|((a, b), c)| {
            for ((a, b), c) in a.iter_mut().zip(b).zip(c) {
                *a = *b + *c;
            }
        });
        std::hint::black_box(&a);
        12.0 * len as f64 / started.elapsed().as_secs_f64()
    });
    Ceilings { flops, bytes: bytes.fold(0.0, f64::max) }
}

/// Bytes of the largest cache, as Linux tells; 32 MiB elsewhere.
fn last_cache() -> usize {
    let size = |level: usize| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{level}/size");
        std::fs::read_to_string(path).ok()?.trim().strip_suffix('K')?.parse::<usize>().ok()
    };
    (0..5).filter_map(size).max().map_or(32 << 20, |kib| kib << 10)
}
