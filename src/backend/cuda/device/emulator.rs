//! The emulator as a driver (kernels/emulator): the same kernels, compiled for this processor.

use super::driver::{Function, Shape};
use super::graph::{Recorded, Work};
use crate::error::{Error, Result};
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// How closely the emulator looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// Optimised; what `--device emulator` uses.
    Fast,
    /// Every memory access is checked: bounds, initialisation, races, missing waits. Ten times slower.
    Check,
    /// Nothing is done; launches are noted as a card with so many multiprocessors would get them.
    Note { multiprocessors: usize },
}

/// Whether this program contains the emulator.
pub const EMULATOR: bool = cfg!(emulator);

/// An open emulator.
pub struct Emulated {
    flavour: Flavour,
    seed: u64,
    /// What is being recorded.
    recording: Mutex<Option<Vec<Work>>>,
    /// Next address when nothing is done.
    next: AtomicU64,
}

#[cfg(emulator)]
mod ffi {
    use std::ffi::{c_char, c_int, c_void};
    unsafe extern "C" {
        pub fn epi_emulator_kernel(check: c_int, name: *const c_char) -> *const c_void;
        pub fn epi_emulator_kernel_args(kernel: *const c_void, sizes: *mut *const u32) -> usize;
        pub fn epi_emulator_launch(
            kernel: *const c_void,
            grid: *const u32,
            block: *const u32,
            shared: usize,
            args: *mut *mut c_void,
            seed: u64,
            workers: u32,
            error: *mut c_char,
            room: usize,
        ) -> c_int;
        pub fn epi_emulator_alloc(check: c_int, bytes: usize, error: *mut c_char, room: usize) -> *mut c_void;
        pub fn epi_emulator_free(check: c_int, at: *mut c_void, error: *mut c_char, room: usize) -> c_int;
        pub fn epi_emulator_write(
            check: c_int,
            to: *mut c_void,
            from: *const c_void,
            n: usize,
            error: *mut c_char,
            room: usize,
        ) -> c_int;
        pub fn epi_emulator_read(
            check: c_int,
            to: *mut c_void,
            from: *const c_void,
            n: usize,
            error: *mut c_char,
            room: usize,
        ) -> c_int;
        pub fn epi_emulator_fill(
            check: c_int,
            to: *mut c_void,
            byte: c_int,
            n: usize,
            error: *mut c_char,
            room: usize,
        ) -> c_int;
        pub fn epi_emulator_copy(
            check: c_int,
            to: *mut c_void,
            from: *const c_void,
            n: usize,
            error: *mut c_char,
            room: usize,
        ) -> c_int;
        pub fn epi_emulator_memory(check: c_int, free: *mut usize, total: *mut usize);
        pub fn epi_emulator_shared_limit() -> usize;
        pub fn epi_emulator_params(index: usize, size: *mut usize) -> *const c_char;
    }
}

#[cfg(emulator)]
mod linked {
    use super::*;
    use std::ffi::{CStr, CString, c_char, c_int};

    /// Runs a call that writes its error into a buffer.
    fn call(f: impl FnOnce(*mut c_char, usize) -> c_int) -> Result<()> {
        let mut text = [0 as c_char; 2048];
        if f(text.as_mut_ptr(), text.len()) == 0 {
            return Ok(());
        }
        // SAFETY: the emulator writes a terminated string that fits.
        Err(Error::Device(unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned()))
    }

    impl Emulated {
        pub fn new(flavour: Flavour, seed: u64) -> Result<Self> {
            let noted = matches!(flavour, Flavour::Note { .. }).then(Vec::new);
            Ok(Emulated { flavour, seed, recording: Mutex::new(noted), next: AtomicU64::new(1 << 40) })
        }
        fn check(&self) -> c_int {
            (self.flavour == Flavour::Check).into()
        }
        pub fn shared_limit(&self) -> usize {
            // SAFETY: a constant.
            unsafe { ffi::epi_emulator_shared_limit() }
        }
        pub fn function(&mut self, module: &'static str, kernel: &'static str) -> Result<Function> {
            let name = CString::new(kernel).map_err(|e| Error::Device(e.to_string()))?;
            // SAFETY: the name is terminated; the table of kernels is complete before main.
            let found = unsafe { ffi::epi_emulator_kernel(self.check(), name.as_ptr()) };
            if found.is_null() {
                return Err(Error::Device(format!(
                    "kernel `{kernel}` of kernels/{module}.cu is missing in the emulator"
                )));
            }
            let mut sizes = std::ptr::null();
            // SAFETY: `found` is a kernel; it has as many sizes as the call returns, and they are constant.
            let sizes = unsafe {
                let count = ffi::epi_emulator_kernel_args(found, &mut sizes);
                std::slice::from_raw_parts(sizes, count)
            };
            let sizes = sizes.iter().map(|&s| s as usize).collect();
            Ok(Function { name: kernel, handle: found as usize, sizes, shared: 0 })
        }
        pub fn alloc(&self, bytes: usize) -> Result<Option<u64>> {
            if self.notes() {
                let room = bytes.next_multiple_of(256) as u64;
                return Ok(Some(self.next.fetch_add(room, Ordering::Relaxed)));
            }
            let mut address = std::ptr::null_mut();
            let result = call(|error, room| {
                // SAFETY: `error` has `room` bytes.
                address = unsafe { ffi::epi_emulator_alloc(self.check(), bytes, error, room) };
                address.is_null().into()
            });
            match result {
                Ok(()) => Ok(Some(address as u64)),
                Err(Error::Device(text)) if text.starts_with("out of memory") => Ok(None),
                Err(e) => Err(e),
            }
        }
        pub fn free(&self, address: u64) -> Result<()> {
            if self.notes() {
                return Ok(());
            }
            // SAFETY: the emulator knows its buffers and refuses other addresses.
            call(|e, room| unsafe { ffi::epi_emulator_free(self.check(), address as *mut c_void, e, room) })
        }
        pub fn memory(&self) -> (usize, usize) {
            let (mut free, mut total) = (0, 0);
            // SAFETY: two places to write to.
            unsafe { ffi::epi_emulator_memory(self.check(), &mut free, &mut total) };
            (free, total)
        }
        pub unsafe fn write(&self, to: u64, from: &[u8]) -> Result<()> {
            if self.notes() {
                return Ok(());
            }
            let (n, from) = (from.len(), from.as_ptr().cast());
            // SAFETY: the host side is a slice; the emulator checks its own side.
            call(|e, room| unsafe { ffi::epi_emulator_write(self.check(), to as *mut c_void, from, n, e, room) })
        }
        pub unsafe fn read(&self, to: &mut [u8], from: u64) -> Result<()> {
            if self.notes() {
                to.fill(0);
                return Ok(());
            }
            let (n, to) = (to.len(), to.as_mut_ptr().cast());
            // SAFETY: the host side is a slice; the emulator checks its own side.
            call(|e, room| unsafe { ffi::epi_emulator_read(self.check(), to, from as *const c_void, n, e, room) })
        }
        pub unsafe fn fill(&self, to: u64, byte: u8, n: usize) -> Result<()> {
            if self.recorded(|| Work::Fill { to, byte, bytes: n }) {
                return Ok(());
            }
            // SAFETY: the emulator checks the range.
            call(|e, room| unsafe { ffi::epi_emulator_fill(self.check(), to as *mut c_void, byte.into(), n, e, room) })
        }
        pub unsafe fn copy(&self, to: u64, from: u64, n: usize) -> Result<()> {
            if self.recorded(|| Work::Copy { to, from, bytes: n }) {
                return Ok(());
            }
            // SAFETY: the emulator checks both ranges.
            call(|e, room| unsafe {
                ffi::epi_emulator_copy(self.check(), to as *mut c_void, from as *const c_void, n, e, room)
            })
        }
        pub unsafe fn launch(&self, function: &Function, shape: Shape, args: &mut [*mut c_void]) -> Result<()> {
            // SAFETY: the device has checked that the arguments have the sizes of the kernel's.
            let bytes = |(at, &n): (&*mut c_void, &usize)| unsafe { std::slice::from_raw_parts(at.cast(), n) }.to_vec();
            let copies = || args.iter().zip(&function.sizes).map(bytes).collect();
            if self.recorded(|| Work::Launch { function: function.clone(), shape, args: copies() }) {
                return Ok(());
            }
            let (grid, block) = (shape.grid.as_ptr(), shape.block.as_ptr());
            let result = call(|error, room| {
                // SAFETY: `handle` is a kernel, `args` has the count and sizes it wants (checked by the device).
                unsafe {
                    let kernel = function.handle as *const c_void;
                    let (args, seed) = (args.as_mut_ptr(), self.seed);
                    ffi::epi_emulator_launch(kernel, grid, block, shape.shared, args, seed, 0, error, room)
                }
            });
            match result {
                Err(Error::Device(text)) if self.seed != 0 => {
                    Err(Error::Device(format!("{text} [seed {}]", self.seed)))
                }
                other => other,
            }
        }
    }

    /// Name and size of every launch parameter as the C++ compiler sees them.
    pub fn params_sizes() -> Vec<(String, usize)> {
        let mut size = 0;
        // SAFETY: the emulator returns terminated constant strings, and null after the last.
        let row = |i| unsafe {
            let name = ffi::epi_emulator_params(i, &mut size);
            (!name.is_null()).then(|| (CStr::from_ptr(name).to_string_lossy().into_owned(), size))
        };
        (0..).map_while(row).collect()
    }
}

#[cfg(not(emulator))]
mod linked {
    use super::*;

    fn absent<T>() -> Result<T> {
        let remedy =
            "this program was built without the emulator, which needs Linux on x86-64 and GCC 12 or later (set CXX)";
        Err(Error::Device(remedy.into()))
    }
    impl Emulated {
        pub fn new(flavour: Flavour, seed: u64) -> Result<Self> {
            let _ = Emulated { flavour, seed, recording: Mutex::default(), next: AtomicU64::new(0) };
            absent()
        }
        pub fn shared_limit(&self) -> usize {
            0
        }
        pub fn function(&mut self, _: &'static str, _: &'static str) -> Result<Function> {
            absent()
        }
        pub fn alloc(&self, _: usize) -> Result<Option<u64>> {
            absent()
        }
        pub fn free(&self, _: u64) -> Result<()> {
            absent()
        }
        pub fn memory(&self) -> (usize, usize) {
            (0, 0)
        }
        pub unsafe fn write(&self, _: u64, _: &[u8]) -> Result<()> {
            absent()
        }
        pub unsafe fn read(&self, _: &mut [u8], _: u64) -> Result<()> {
            absent()
        }
        pub unsafe fn fill(&self, _: u64, _: u8, _: usize) -> Result<()> {
            absent()
        }
        pub unsafe fn copy(&self, _: u64, _: u64, _: usize) -> Result<()> {
            absent()
        }
        pub unsafe fn launch(&self, _: &Function, _: Shape, _: &mut [*mut c_void]) -> Result<()> {
            absent()
        }
    }
    /// Nothing: there is no C++ side.
    pub fn params_sizes() -> Vec<(String, usize)> {
        Vec::new()
    }
}
pub use linked::params_sizes;

impl Emulated {
    pub fn name(&self) -> String {
        match (self.flavour, self.seed) {
            (Flavour::Note { multiprocessors }, _) => format!("launches for {multiprocessors} multiprocessors"),
            (Flavour::Fast, 0) => "emulator".into(),
            (Flavour::Check, 0) => "emulator (check)".into(),
            (Flavour::Fast, seed) => format!("emulator (schedule {seed})"),
            (Flavour::Check, seed) => format!("emulator (check, schedule {seed})"),
        }
    }
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }
    pub fn seed(&self) -> u64 {
        self.seed
    }
    pub fn multiprocessors(&self) -> usize {
        match self.flavour {
            Flavour::Note { multiprocessors } => multiprocessors,
            _ => 4, // few blocks a launch keep it fast; more than one keeps it honest
        }
    }
    pub fn pools(&self) -> bool {
        self.flavour != Flavour::Check
    }
    /// Whether nothing is to be done.
    fn notes(&self) -> bool {
        matches!(self.flavour, Flavour::Note { .. })
    }
    /// What was noted since the last call.
    pub fn take_noted(&self) -> Vec<Work> {
        let mut recording = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        recording.as_mut().filter(|_| self.notes()).map_or_else(Vec::new, std::mem::take)
    }
    pub fn synchronize(&self) -> Result<()> {
        Ok(())
    }
    /// Whether `work` was recorded, and so is not to be done now.
    fn recorded(&self, work: impl FnOnce() -> Work) -> bool {
        let mut recording = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        recording.as_mut().map(|list| list.push(work())).is_some()
    }
    pub fn begin_capture(&self) -> Result<()> {
        *self.recording.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
        Ok(())
    }
    pub fn end_capture(&self) -> Result<Recorded> {
        let list = self.recording.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(Recorded::Emulator(list.unwrap_or_default()))
    }
    pub unsafe fn replay(&self, recorded: &Recorded) -> Result<()> {
        let Recorded::Emulator(list) = recorded else { unreachable!("recorded by another driver") };
        for work in list {
            // SAFETY: as it was when this was recorded, by the caller's promise.
            match work {
                Work::Launch { function, shape, args } => {
                    let mut args: Vec<*mut c_void> = args.iter().map(|a| a.as_ptr().cast_mut().cast()).collect();
                    let name = |e| Error::Device(format!("{} ({shape}): {e}", function.name));
                    unsafe { self.launch(function, *shape, &mut args) }.map_err(name)?;
                }
                &Work::Fill { to, byte, bytes } => unsafe { self.fill(to, byte, bytes) }?,
                &Work::Copy { to, from, bytes } => unsafe { self.copy(to, from, bytes) }?,
            }
        }
        Ok(())
    }
    pub fn forget(&self, _recorded: &Recorded) {}
}
