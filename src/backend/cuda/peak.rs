//! What this card can do at best, for rooflines.

use super::{Cuda, Precision};
use crate::backend::cost::Ceilings;
use crate::error::Result;
use std::time::Instant;

/// Threads of a block.
const THREADS: usize = 256;

/// Ceilings of the card: multiply-adds in registers (of the tensor cores in bf16), and a copy larger than the caches.
/// Nothing on the emulator, whose speed means nothing.
pub fn ceilings(cuda: &Cuda) -> Result<Option<Ceilings>> {
    if cuda.device.emulated() {
        return Ok(None);
    }
    let blocks = 16 * cuda.device.multiprocessors();
    let out = cuda.scratch::<f32>(blocks * THREADS)?;
    let rounds = 1usize << 14;
    let mut flops = 0f64;
    for _ in 0..6 {
        cuda.device.synchronize()?;
        let started = Instant::now();
        let work = match cuda.precision {
            Precision::F32 => {
                launch!(cuda, "peak_fma", [blocks, 1, 1], THREADS, 0; rounds as i32, 0.999f32, 0.001f32, out.address())?;
                32 * THREADS
            }
            Precision::Bf16 => {
                launch!(cuda, "peak_mma", [blocks, 1, 1], THREADS, 0; rounds as i32, 0x3C00_3C00u32, out.address())?;
                32768 * THREADS / 32
            }
        };
        cuda.device.synchronize()?;
        flops = flops.max((rounds * work * blocks) as f64 / started.elapsed().as_secs_f64());
    }
    let size = 512 << 20;
    let (from, to) = (cuda.scratch::<u8>(size)?, cuda.scratch::<u8>(size)?);
    cuda.device.fill(&from, 0, 1, size)?;
    let mut bytes = 0f64;
    for _ in 0..6 {
        cuda.device.synchronize()?;
        let started = Instant::now();
        for _ in 0..4 {
            cuda.device.copy(&to, 0, &from, 0, size)?;
        }
        cuda.device.synchronize()?;
        bytes = bytes.max((4 * 2 * size) as f64 / started.elapsed().as_secs_f64());
    }
    Ok(Some(Ceilings { flops, bytes }))
}
