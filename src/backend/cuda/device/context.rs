//! An open device: every kernel found, memory, copies and launches.

use super::driver::{Driver, Function, Shape};
use super::emulator::{Emulated, Flavour};
use super::memory::{Memory, Pool, Usage};
use super::modules::KERNELS;
use super::real::Card;
use crate::error::{Error, Result};
use std::collections::{BTreeSet, HashMap};
use std::ffi::c_void;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

/// A GPU or the emulator, open and with all kernels loaded. Its work is done in the order in which it was asked for.
pub struct Device {
    name: String,
    pub(super) pool: Pool,
    functions: HashMap<&'static str, Function>,
    /// Kernel and shape of the latest launch, for errors that surface later.
    latest: Mutex<(&'static str, Shape)>,
    /// `EPI_LAUNCHED=FILE`: names of the kernels launched, added to the file when the device is dropped.
    launched: Option<(PathBuf, Mutex<BTreeSet<&'static str>>)>,
    /// `EPI_SYNC=1`: wait after each launch, so that an error names the kernel that caused it.
    pub(super) waits: bool,
    /// Work is being recorded.
    pub(super) capturing: AtomicBool,
    pub(super) driver: Driver,
}

/// Shape of a launch: blocks, threads per block, bytes of dynamic shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    pub blocks: [usize; 3],
    pub threads: usize,
    pub shared: usize,
}

impl Grid {
    /// `blocks` of `threads` each, without dynamic shared memory.
    pub fn new(blocks: [usize; 3], threads: usize) -> Self {
        Grid { blocks, threads, shared: 0 }
    }
    /// The same with `bytes` of dynamic shared memory.
    pub fn shared(self, bytes: usize) -> Self {
        Grid { shared: bytes, ..self }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ([x, y, z], [t, u, v]) = (self.grid, self.block);
        write!(f, "grid ({x},{y},{z}), block ({t},{u},{v}), {} bytes of dynamic shared memory", self.shared)
    }
}

impl Device {
    /// Opens GPU number `ordinal`.
    ///
    /// # Errors
    /// Named and with the remedy: no driver, driver too old, no such card, no image for it, a kernel missing.
    pub fn cuda(ordinal: usize) -> Result<Arc<Device>> {
        Self::open(Driver::Real(Card::open(ordinal)?))
    }

    /// Opens the emulator. Seed 0 is the plain order of threads; any other is a schedule of its own, repeatable.
    ///
    /// # Errors
    /// When this program was built without it.
    pub fn emulator(flavour: Flavour, seed: u64) -> Result<Arc<Device>> {
        Self::open(Driver::Emulator(Emulated::new(flavour, seed)?))
    }

    /// Opens the same card (or emulator) once more: a stream and a memory of its own.
    ///
    /// # Errors
    /// As of [`Device::cuda`] and [`Device::emulator`].
    pub fn again(&self) -> Result<Arc<Device>> {
        match &self.driver {
            Driver::Real(card) => Self::cuda(card.ordinal()),
            Driver::Emulator(emulated) => Self::emulator(emulated.flavour(), emulated.seed()),
        }
    }

    fn open(mut driver: Driver) -> Result<Arc<Device>> {
        let functions = KERNELS.iter().map(|&(module, kernel)| Ok((kernel, driver.function(module, kernel)?)));
        let functions = functions.collect::<Result<HashMap<_, _>>>()?;
        Ok(Self::with(driver, functions))
    }

    /// The check flavour with nothing but the emulator's own test kernels.
    #[cfg(emulator)]
    pub fn planted_bugs(kernels: &[&'static str], seed: u64) -> Result<Arc<Device>> {
        let mut driver = Driver::Emulator(Emulated::new(Flavour::Check, seed)?);
        let functions = kernels.iter().map(|&kernel| Ok((kernel, driver.function("planted_bugs", kernel)?)));
        let functions = functions.collect::<Result<HashMap<_, _>>>()?;
        Ok(Self::with(driver, functions))
    }

    fn with(driver: Driver, functions: HashMap<&'static str, Function>) -> Arc<Device> {
        Arc::new(Device {
            name: driver.name(),
            pool: Pool::default(),
            functions,
            latest: Mutex::new(("", nothing())),
            launched: std::env::var_os("EPI_LAUNCHED").map(|file| (file.into(), Mutex::default())),
            waits: std::env::var_os("EPI_SYNC").is_some_and(|v| v == "1"),
            capturing: AtomicBool::new(false),
            driver,
        })
    }

    /// Name of the device for people.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Whether this is the emulator.
    pub fn emulated(&self) -> bool {
        matches!(self.driver, Driver::Emulator(_))
    }
    /// Bytes of shared memory a block can have, static and dynamic together.
    pub fn shared_limit(&self) -> usize {
        self.driver.shared_limit()
    }
    /// Blocks that run at once, one per multiprocessor.
    pub fn multiprocessors(&self) -> usize {
        self.driver.multiprocessors()
    }
    /// Memory in use.
    pub fn usage(&self) -> Usage {
        self.pool.usage()
    }
    /// Bytes that can still be allocated, as far as the driver knows now.
    pub fn free_memory(&self) -> usize {
        self.driver.memory().0 + self.pool.usage().kept
    }
    /// Gives memory that is kept for reuse back to the driver.
    pub fn trim(&self) -> Result<()> {
        self.not_recorded("giving memory back")?;
        self.pool.trim(&self.driver)
    }

    /// Memory of `bytes`, its content undefined (not-a-number in the emulator's check flavour).
    pub fn alloc(self: &Arc<Self>, bytes: usize) -> Result<Memory> {
        let address = self.pool.alloc(&self.driver, bytes)?;
        Ok(Memory::new(self.clone(), address, bytes))
    }
    pub(super) fn give_back(&self, address: u64, bytes: usize) {
        self.pool.free(&self.driver, address, bytes);
    }

    /// Copies `from` into `memory` from byte `offset` on.
    pub fn write(&self, memory: &Memory, offset: usize, from: &[u8]) -> Result<()> {
        self.not_recorded("a copy from the host")?;
        let at = self.range("write", memory, offset, from.len())?;
        // SAFETY: `range` has checked it.
        unsafe { self.driver.write(at, from) }.map_err(|e| self.blame("write", e))
    }
    /// Copies from byte `offset` of `memory` on into `to`; waits for all work.
    pub fn read(&self, to: &mut [u8], memory: &Memory, offset: usize) -> Result<()> {
        self.not_recorded("a copy to the host")?;
        let at = self.range("read", memory, offset, to.len())?;
        // SAFETY: `range` has checked it.
        unsafe { self.driver.read(to, at) }.map_err(|e| self.blame("read", e))
    }
    /// Sets `bytes` of `memory` from byte `offset` on.
    pub fn fill(&self, memory: &Memory, offset: usize, byte: u8, bytes: usize) -> Result<()> {
        let at = self.range("fill", memory, offset, bytes)?;
        // SAFETY: `range` has checked it.
        unsafe { self.driver.fill(at, byte, bytes) }.map_err(|e| self.blame("fill", e))
    }
    /// Copies `bytes` between memories of this device; the ranges do not overlap.
    pub fn copy(&self, to: &Memory, to_offset: usize, from: &Memory, from_offset: usize, bytes: usize) -> Result<()> {
        let target = self.range("copy", to, to_offset, bytes)?;
        let source = self.range("copy", from, from_offset, bytes)?;
        // SAFETY: `range` has checked both.
        unsafe { self.driver.copy(target, source, bytes) }.map_err(|e| self.blame("copy", e))
    }

    fn range(&self, what: &str, memory: &Memory, offset: usize, bytes: usize) -> Result<u64> {
        if !std::ptr::eq(Arc::as_ptr(memory.device()), self) {
            return Err(Error::Device(format!(
                "{what}: the memory belongs to another device, {}",
                memory.device().name
            )));
        }
        match offset.checked_add(bytes) {
            Some(end) if end <= memory.bytes() => Ok(memory.address() + offset as u64),
            _ => Err(Error::Device(format!("{what}: bytes {offset}+{bytes} of a memory of {}", memory.bytes()))),
        }
    }

    /// Starts `kernel`; count and sizes of the arguments are checked against the kernel's own.
    ///
    /// # Safety
    /// The arguments have the types of the kernel's parameters, and addresses among them lead to memory that is large
    /// enough for what the kernel does there and that is dropped only after the launch was asked for.
    pub unsafe fn launch(&self, kernel: &str, grid: Grid, args: &[&[u8]]) -> Result<()> {
        let Some((&name, function)) = self.functions.get_key_value(kernel) else {
            return Err(Error::Device(format!("there is no kernel `{kernel}`")));
        };
        let shape = shape(grid).map_err(|e| Error::Device(format!("{name}: {e}")))?;
        if !args.iter().map(|a| a.len()).eq(function.sizes.iter().copied()) {
            let sizes: Vec<usize> = args.iter().map(|a| a.len()).collect();
            return Err(Error::Device(format!(
                "{name}: arguments of {sizes:?} bytes were passed, the kernel takes {:?}",
                function.sizes
            )));
        }
        if shape.grid.contains(&0) {
            return Ok(()); // nothing to do
        }
        self.note_launch(name, shape);
        if let Some((_, names)) = &self.launched {
            names.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
        }
        let mut pointers: Vec<*mut c_void> = args.iter().map(|a| a.as_ptr().cast_mut().cast()).collect();
        // SAFETY: sizes are checked above, the rest is the caller's promise.
        unsafe { self.driver.launch(function, shape, &mut pointers) }
            .and_then(|()| if self.waits && self.not_recorded("").is_ok() { self.driver.synchronize() } else { Ok(()) })
            .map_err(|e| Error::Device(format!("{name} ({shape}) on {}: {e}", self.name)))
    }

    /// Remembers a launch for errors that surface later.
    pub(super) fn note_launch(&self, name: &'static str, shape: Shape) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = (name, shape);
    }

    /// Waits for all work and reports what failed.
    pub fn synchronize(&self) -> Result<()> {
        self.not_recorded("waiting")?;
        self.driver.synchronize().map_err(|e| self.blame("synchronize", e))
    }

    fn blame(&self, what: &str, error: Error) -> Error {
        let (kernel, shape) = *self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let after = if kernel.is_empty() { String::new() } else { format!(" after {kernel} ({shape})") };
        let hint = if self.waits || kernel.is_empty() { "" } else { "; EPI_SYNC=1 finds the kernel that failed" };
        Error::Device(format!("{what}{after} on {}: {error}{hint}", self.name))
    }
}

/// The shape of what is no launch.
pub(super) fn nothing() -> Shape {
    Shape { grid: [0; 3], block: [0; 3], shared: 0 }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.pool.trim(&self.driver); // a destructor has nobody to tell
        let Some((file, names)) = &self.launched else { return };
        let names: String =
            names.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|n| format!("{n}\n")).collect();
        // A record for people; losing it must not fail the work.
        let _ = std::fs::File::options()
            .append(true)
            .create(true)
            .open(file)
            .and_then(|mut f| f.write_all(names.as_bytes()));
    }
}

fn shape(grid: Grid) -> std::result::Result<Shape, String> {
    let small = |n: usize| u32::try_from(n).map_err(|_| format!("{grid:?} is too large"));
    let [x, y, z] = grid.blocks;
    if x > i32::MAX as usize || y > 65535 || z > 65535 || grid.threads > 1024 {
        return Err(format!("{grid:?} is too large"));
    }
    Ok(Shape { grid: [small(x)?, small(y)?, small(z)?], block: [small(grid.threads)?, 1, 1], shared: grid.shared })
}
