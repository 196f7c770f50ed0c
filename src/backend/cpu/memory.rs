//! Reference-counted, 64-byte-aligned memory that returns to a pool, so that steps reuse each other's buffers. The pool keeps no
//! more than what was in use at once needs: unused blocks go back to the system when others would come on top of them.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::MmapMut;

use crate::error::{Error, Result};

/// A cache line and a vector register.
const ALIGN: usize = 64;
/// Blocks above this size are padded to whole pages.
const PAGE: usize = 4096;
/// Blocks from this size on ask for huge pages: a step of an autoencoder would otherwise take a million page faults, and its
/// long rows more entries than the processor keeps of a page table.
const HUGE: usize = 1 << 22;
/// Bytes that blocks, used or not, may take beyond the most that was in use at once.
const SLACK: usize = 1 << 23;

/// Memory of the CPU backend: `len` floats, shared by clones.
#[derive(Clone)]
pub struct Buffer(Arc<Block>);

struct Block {
    /// There until the block is dropped.
    memory: Option<Memory>,
    pool: Arc<Pool>,
}

/// One allocation, zeroed at first, so every float is initialised whatever is read before it is written.
struct Memory {
    start: NonNull<f32>,
    bytes: usize,
    /// The pages of a large block; others come from the heap.
    pages: Option<MmapMut>,
}

// SAFETY: a plain allocation without thread affinity. Writes go through `Buffer::slot`, whose caller promises that nothing
// else looks at that range meanwhile, as the contract of slots in `backend::mod` says.
unsafe impl Send for Memory {}
unsafe impl Sync for Memory {}

impl Memory {
    fn allocate(bytes: usize) -> Result<Self> {
        let refused = || Error::Device(format!("out of memory: no {bytes} bytes left; try a smaller batch"));
        if bytes >= HUGE {
            let mut pages = MmapMut::map_anon(bytes).map_err(|_| refused())?;
            // Where the system has no huge pages, ordinary ones serve.
            #[cfg(target_os = "linux")]
            let _ = pages.advise(memmap2::Advice::HugePage);
            let start = NonNull::new(pages.as_mut_ptr().cast()).ok_or_else(refused)?;
            return Ok(Memory { start, bytes, pages: Some(pages) });
        }
        let layout = Layout::from_size_align(bytes, ALIGN).map_err(|e| Error::Device(e.to_string()))?;
        // SAFETY: `bytes` is at least ALIGN.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }.cast()).ok_or_else(refused)?;
        Ok(Memory { start, bytes, pages: None })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.pages.is_none() {
            // SAFETY: made by `allocate` with this layout.
            unsafe { dealloc(self.start.as_ptr().cast(), Layout::from_size_align_unchecked(self.bytes, ALIGN)) }
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.pool.give(memory);
        }
    }
}

impl Buffer {
    fn memory(&self) -> &Memory {
        self.0.memory.as_ref().expect("there until the block is dropped")
    }
    /// First element.
    pub fn as_ptr(&self) -> *mut f32 {
        self.memory().start.as_ptr()
    }
    /// Whether this is the only handle.
    pub fn is_unique(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
    /// Elements `start..start + len`.
    pub fn slice(&self, start: usize, len: usize) -> &[f32] {
        assert!((start + len) * 4 <= self.memory().bytes, "view beyond the buffer");
        // SAFETY: in bounds, initialised; slots do not overlap other arguments of a call (contract of the backend).
        unsafe { std::slice::from_raw_parts(self.as_ptr().add(start), len) }
    }
    /// The same elements, to be written.
    ///
    /// # Safety
    /// Nobody else reads or writes them during the borrow: the buffer is fresh, or the caller's contract says so.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slot(&self, start: usize, len: usize) -> &mut [f32] {
        assert!((start + len) * 4 <= self.memory().bytes, "view beyond the buffer");
        // SAFETY: in bounds, initialised; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr().add(start), len) }
    }
}

/// Unused blocks, and how much is in use.
#[derive(Default)]
pub struct Pool(Mutex<Shelf>);

#[derive(Default)]
struct Shelf {
    /// Unused blocks by size, each with the time of its return.
    blocks: BTreeMap<usize, Vec<(u64, Memory)>>,
    /// Bytes of them.
    unused: usize,
    /// Bytes in use, and the most there ever were.
    used: usize,
    most: usize,
    clock: u64,
}

impl Pool {
    /// Memory for `len` floats; what it holds is unspecified (but initialised).
    pub fn take(self: &Arc<Self>, len: usize) -> Result<Buffer> {
        let bytes = match len.max(1).checked_mul(4) {
            Some(bytes) if bytes < PAGE => bytes.next_multiple_of(ALIGN),
            Some(bytes) if bytes < isize::MAX as usize - PAGE => bytes.next_multiple_of(PAGE),
            _ => return Err(Error::Device(format!("a tensor of {len} elements does not fit into memory"))),
        };
        let found = self.shelf().take(bytes);
        let memory = match found {
            Some(memory) => memory,
            None => Memory::allocate(bytes).inspect_err(|_| self.shelf().used -= bytes)?,
        };
        Ok(Buffer(Arc::new(Block { memory: Some(memory), pool: self.clone() })))
    }
    fn shelf(&self) -> std::sync::MutexGuard<'_, Shelf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn give(&self, memory: Memory) {
        let mut shelf = self.shelf();
        shelf.used -= memory.bytes;
        shelf.unused += memory.bytes;
        shelf.clock += 1;
        let now = shelf.clock;
        shelf.blocks.entry(memory.bytes).or_default().push((now, memory));
    }
}

impl Shelf {
    /// The smallest block that fits without wasting more than an eighth; counts it, or a new one of `bytes`, as used and makes
    /// room for that.
    fn take(&mut self, bytes: usize) -> Option<Memory> {
        let fitting = self.blocks.range_mut(bytes..=bytes + bytes / 8).find(|(_, blocks)| !blocks.is_empty());
        let found = fitting.and_then(|(_, blocks)| blocks.pop()).map(|(_, memory)| memory);
        let size = found.as_ref().map_or(bytes, |memory| memory.bytes);
        self.used += size;
        self.most = self.most.max(self.used);
        match found {
            Some(_) => self.unused -= size,
            None => self.make_room(),
        }
        found
    }
    /// Frees the blocks that have been unused for longest until all blocks together fit.
    fn make_room(&mut self) {
        while self.used + self.unused > self.most + SLACK {
            let oldest = |blocks: &Vec<(u64, Memory)>| blocks.iter().map(|(time, _)| *time).min();
            let Some((_, size)) = self.blocks.iter().filter_map(|(&size, b)| Some((oldest(b)?, size))).min() else {
                return;
            };
            // Blocks of one size were returned in this order.
            self.blocks.get_mut(&size).expect("found just now").remove(0);
            self.unused -= size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_blocks_never_come_on_top_of_the_most_in_use() {
        const BIG: usize = 4 * SLACK / 4;
        let pool = Arc::new(Pool::default());
        let total = || {
            let shelf = pool.shelf();
            (shelf.used + shelf.unused, shelf.unused)
        };
        let (first, second) = (pool.take(BIG).unwrap(), pool.take(BIG).unwrap());
        drop((first, second));
        assert_eq!(total(), (8 * SLACK, 8 * SLACK), "kept for the next step");
        let reused = pool.take(BIG - BIG / 16).unwrap();
        assert_eq!(total(), (8 * SLACK, 4 * SLACK), "a block that is a little too large serves");
        let other = pool.take(BIG / 2).unwrap();
        assert_eq!(total(), (6 * SLACK, 0), "of another size: the unused block makes room");
        drop((reused, other));
        assert_eq!(pool.shelf().used, 0);
    }
}
