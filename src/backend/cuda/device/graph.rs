//! Work that is recorded once and done again and again: a CUDA graph, or the emulator's list of the same launches.
//!
//! A recording takes its memory from the pool and keeps it: what it lets go of it uses again itself, and nobody else is given
//! it as long as the graph lives. So every replay finds the addresses that were recorded, and disturbs nothing.

use super::context::{Device, nothing};
use super::driver::{Driver, Function, Shape};
use crate::error::{Error, Result};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// One recorded piece of work on the emulator.
pub enum Work {
    Launch { function: Function, shape: Shape, args: Vec<Vec<u8>> },
    Fill { to: u64, byte: u8, bytes: usize },
    Copy { to: u64, from: u64, bytes: usize },
}

/// A launch, fill or copy that was noted and not done.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Noted {
    /// `fill` and `copy` beside the names of kernels.
    pub kernel: &'static str,
    pub blocks: [u32; 3],
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared: usize,
    /// First argument, as integers: the launch parameters of most kernels. Of `fill` and `copy`, the bytes.
    pub params: Vec<i64>,
}

impl Noted {
    fn new(work: Work) -> Self {
        let moved =
            |kernel, bytes: usize| Noted { kernel, blocks: [0; 3], threads: 0, shared: 0, params: vec![bytes as i64] };
        match work {
            Work::Launch { function, shape, args } => {
                let words = args.first().into_iter().flat_map(|first| first.chunks_exact(4));
                let number = |word: &[u8]| i32::from_le_bytes(word.try_into().expect("four bytes")).into();
                let params = words.map(number).collect();
                let (blocks, threads) = (shape.grid, shape.block[0]);
                Noted { kernel: function.name, blocks, threads, shared: shape.shared, params }
            }
            Work::Fill { bytes, .. } => moved("fill", bytes),
            Work::Copy { bytes, .. } => moved("copy", bytes),
        }
    }
}

/// What a driver has recorded.
pub enum Recorded {
    /// Handle of a `CUgraphExec`.
    Real(usize),
    Emulator(Vec<Work>),
}

/// Recorded work with its memory.
pub struct Graph {
    device: Arc<Device>,
    recorded: Recorded,
    rooms: Reserved,
}

/// Memory of a recording.
#[derive(Default)]
pub(super) struct Reserved {
    /// Let go of by the recorded work, by size: its later parts use it again.
    idle: HashMap<usize, Vec<u64>>,
    /// Taken and not yet let go of.
    live: HashSet<u64>,
    /// Older memory that was let go of meanwhile: recorded work may read it.
    held: Vec<(usize, u64)>,
}

impl Reserved {
    /// A room of the recording's own.
    pub fn reuse(&mut self, size: usize) -> Option<u64> {
        let address = self.idle.get_mut(&size)?.pop()?;
        self.live.insert(address);
        Some(address)
    }
    /// Takes over a room.
    pub fn take(&mut self, address: u64) {
        self.live.insert(address);
    }
    /// A room that was let go of during the recording.
    pub fn give(&mut self, address: u64, size: usize) {
        if self.live.remove(&address) {
            self.idle.entry(size).or_default().push(address);
        } else {
            self.held.push((size, address));
        }
    }
    /// Rooms that the work did not let go of.
    pub fn live(&self) -> usize {
        self.live.len()
    }
    /// All rooms that belong to the recording, with their sizes.
    pub fn drain(&mut self) -> Vec<(usize, u64)> {
        let idle = self.idle.drain().flat_map(|(size, all)| all.into_iter().map(move |address| (size, address)));
        idle.chain(self.held.drain(..)).collect()
    }
}

impl Device {
    /// Records what `work` asks of this device without doing it. It must have been done twice before (what the first time makes
    /// to last may lie in memory that it let go of): a recording may not ask the driver for memory, nor wait, nor copy to or
    /// from the host, and nothing that it makes may outlive it.
    ///
    /// # Errors
    /// Those of `work`, and one that names what it did of these.
    pub fn capture(self: &Arc<Self>, work: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        let wrong = |what: &str| Error::Device(format!("recording a step on {}: {what}", self.name()));
        if self.capturing.swap(true, Ordering::Relaxed) {
            return Err(wrong("another recording is under way"));
        }
        self.pool.begin_capture();
        let done = self.driver.begin_capture().and_then(|()| {
            let done = work();
            let recorded = self.driver.end_capture()?;
            done.inspect_err(|_| self.driver.forget(&recorded))?;
            Ok(recorded)
        });
        let rooms = self.pool.end_capture();
        self.capturing.store(false, Ordering::Relaxed);
        match done {
            Ok(recorded) if rooms.live() == 0 => Ok(Graph { device: self.clone(), recorded, rooms }),
            other => {
                let live = rooms.live();
                let failed = other.map(|recorded| self.driver.forget(&recorded));
                self.pool.give_up(&self.driver, rooms);
                failed.and_then(|()| Err(wrong(&format!("{live} tensors outlive it"))))
            }
        }
    }

    /// What was asked of a device that only notes ([`super::Flavour::Note`]) since the last call.
    pub fn take_noted(&self) -> Vec<Noted> {
        match &self.driver {
            Driver::Emulator(emulated) => emulated.take_noted().into_iter().map(Noted::new).collect(),
            Driver::Real(_) => Vec::new(),
        }
    }

    /// Error when a recording is under way.
    pub(super) fn not_recorded(&self, what: &str) -> Result<()> {
        if self.capturing.load(Ordering::Relaxed) {
            return Err(Error::Device(format!("{what} during the recording of a step on {}", self.name())));
        }
        Ok(())
    }
}

impl Graph {
    /// Does the recorded work, behind everything that was asked for before.
    pub fn replay(&self) -> Result<()> {
        let device = &self.device;
        device.not_recorded("a replay")?;
        device.note_launch("a recorded step", nothing());
        // SAFETY: the recording's own memory is kept by `rooms`, the rest by the caller's promise to `Device::capture`.
        unsafe { device.driver.replay(&self.recorded) }
            .and_then(|()| if device.waits { device.driver.synchronize() } else { Ok(()) })
            .map_err(|e| Error::Device(format!("a recorded step on {}: {e}", device.name())))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.device.driver.forget(&self.recorded);
        self.device.pool.give_up(&self.device.driver, std::mem::take(&mut self.rooms));
    }
}
