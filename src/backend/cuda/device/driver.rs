//! The two things that can run kernels, behind one set of calls.

use super::emulator::Emulated;
use super::graph::Recorded;
use super::real::Card;
use crate::error::Result;

/// A GPU through its driver, or the emulator.
pub enum Driver {
    Real(Card),
    Emulator(Emulated),
}

/// A kernel that has been found.
#[derive(Clone)]
pub struct Function {
    pub name: &'static str,
    /// Handle of the driver or address in the emulator.
    pub handle: usize,
    /// Bytes of each argument.
    pub sizes: Vec<usize>,
    /// Static shared memory in bytes (0 when unknown).
    pub shared: usize,
}

/// Shape of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: usize,
}

/// One call for both; errors are plain texts that the caller completes.
macro_rules! both {
    ($self:ident, $driver:ident => $call:expr) => {
        match $self {
            Driver::Real($driver) => $call,
            Driver::Emulator($driver) => $call,
        }
    };
}

impl Driver {
    pub fn name(&self) -> String {
        both!(self, d => d.name())
    }
    pub fn multiprocessors(&self) -> usize {
        both!(self, d => d.multiprocessors())
    }
    pub fn shared_limit(&self) -> usize {
        both!(self, d => d.shared_limit())
    }
    /// Whether freed memory may be handed out again; the check flavour wants to see every allocation.
    pub fn pools(&self) -> bool {
        both!(self, d => d.pools())
    }
    pub fn function(&mut self, module: &'static str, kernel: &'static str) -> Result<Function> {
        both!(self, d => d.function(module, kernel))
    }
    /// `None` when there is not enough memory.
    pub fn alloc(&self, bytes: usize) -> Result<Option<u64>> {
        both!(self, d => d.alloc(bytes))
    }
    pub fn free(&self, address: u64) -> Result<()> {
        both!(self, d => d.free(address))
    }
    /// Free and total bytes.
    pub fn memory(&self) -> (usize, usize) {
        both!(self, d => d.memory())
    }
    /// # Safety
    /// `address .. address + from.len()` is device memory.
    pub unsafe fn write(&self, address: u64, from: &[u8]) -> Result<()> {
        // SAFETY: as promised by the caller.
        both!(self, d => unsafe { d.write(address, from) })
    }
    /// # Safety
    /// `address .. address + to.len()` is device memory.
    pub unsafe fn read(&self, to: &mut [u8], address: u64) -> Result<()> {
        // SAFETY: as promised by the caller.
        both!(self, d => unsafe { d.read(to, address) })
    }
    /// # Safety
    /// `address .. address + bytes` is device memory.
    pub unsafe fn fill(&self, address: u64, byte: u8, bytes: usize) -> Result<()> {
        // SAFETY: as promised by the caller.
        both!(self, d => unsafe { d.fill(address, byte, bytes) })
    }
    /// # Safety
    /// Both ranges of `bytes` are device memory.
    pub unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        // SAFETY: as promised by the caller.
        both!(self, d => unsafe { d.copy(to, from, bytes) })
    }
    /// # Safety
    /// The arguments have the kernel's types and point to memory that it may use.
    pub unsafe fn launch(&self, function: &Function, shape: Shape, args: &mut [*mut std::ffi::c_void]) -> Result<()> {
        // SAFETY: as promised by the caller.
        both!(self, d => unsafe { d.launch(function, shape, args) })
    }
    /// From here on, launches, fills and copies are recorded and not done.
    pub fn begin_capture(&self) -> Result<()> {
        both!(self, d => d.begin_capture())
    }
    /// Ends it, however the work went.
    pub fn end_capture(&self) -> Result<Recorded> {
        both!(self, d => d.end_capture())
    }
    /// # Safety
    /// The memory that the recorded work uses is still there.
    pub unsafe fn replay(&self, recorded: &Recorded) -> Result<()> {
        // SAFETY: as promised by the caller.
        both!(self, d => unsafe { d.replay(recorded) })
    }
    /// Gives a recording back, once.
    pub fn forget(&self, recorded: &Recorded) {
        both!(self, d => d.forget(recorded))
    }
    pub fn synchronize(&self) -> Result<()> {
        both!(self, d => d.synchronize())
    }
}
