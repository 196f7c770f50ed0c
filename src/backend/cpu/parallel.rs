//! Shards over threads. What a shard is never depends on the number of threads, so neither do the bits.

use rayon::prelude::*;

use super::Cpu;
use crate::error::Result;

/// Calls `f` for every shard `0..n`.
pub fn shards(n: usize, f: impl Fn(usize) + Sync + Send) {
    (0..n).into_par_iter().with_max_len(1).for_each(f);
}

/// A pointer that shards may share; each writes its own part only.
#[derive(Clone, Copy)]
pub struct Ptr(pub *mut f32);

// SAFETY: a plain address; every use is unsafe and names its range.
unsafe impl Send for Ptr {}
unsafe impl Sync for Ptr {}

impl Ptr {
    /// Shared, to be read.
    pub fn of(slice: &[f32]) -> Ptr {
        Ptr(slice.as_ptr().cast_mut())
    }
    /// The same memory from element `i` on; may lie outside as long as nobody looks.
    #[inline(always)]
    pub fn skip(self, i: usize) -> Ptr {
        Ptr(self.0.wrapping_add(i))
    }
    /// Address of element `i`.
    ///
    /// # Safety
    /// `i` lies within the allocation.
    #[inline(always)]
    pub unsafe fn at(self, i: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(i) }
    }
    /// Elements `start..start + len`, to be written.
    ///
    /// # Safety
    /// They lie within the allocation and nobody else touches them meanwhile.
    #[inline(always)]
    pub unsafe fn slice<'a>(self, start: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

/// As [`shards`], each with `need` floats of scratch (unspecified content, 64-byte aligned).
pub fn shards_with(cpu: &Cpu, n: usize, need: usize, f: impl Fn(usize, Ptr) + Sync + Send) -> Result<()> {
    let need = need.next_multiple_of(16);
    let scratch = cpu.take(rayon::current_num_threads() * need)?;
    let space = Ptr(scratch.as_ptr());
    shards(n, |i| {
        // Shards start no parallel work of their own, so a thread is in one shard at a time.
        let thread = rayon::current_thread_index().unwrap_or(0);
        // SAFETY: one part per thread of the pool.
        f(i, Ptr(unsafe { space.at(thread * need) }));
    });
    Ok(())
}
