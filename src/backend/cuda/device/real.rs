//! A GPU through the CUDA driver, which is loaded when first asked for: nothing of CUDA is needed to build or start.
//!
//! cudarc panics when the library or one of its symbols is missing; `probe` is therefore always asked first.

use super::driver::{Function, Shape};
use super::graph::Recorded;
use super::modules::{self, IMAGES};
use super::probe;
use crate::error::{Error, Result};
use cudarc::driver::sys::{self, CUresult};
use std::ffi::{CStr, CString, c_void};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Dynamic shared memory that needs no asking.
const PLAIN_SHARED: usize = 48 << 10;

/// An open GPU.
pub struct Card {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    modules: Vec<(&'static str, sys::CUmodule)>,
    info: probe::Card,
    /// Largest dynamic shared memory that has been asked for, for all functions together.
    granted: AtomicUsize,
    functions: Vec<(sys::CUfunction, usize)>,
}

// SAFETY: the driver's handles may be used from any thread; every call binds the context first.
unsafe impl Send for Card {}
// SAFETY: as above; the driver does its own locking.
unsafe impl Sync for Card {}

fn text(result: CUresult) -> String {
    let mut name = std::ptr::null();
    // SAFETY: the driver writes a pointer to a constant string, or leaves it null.
    unsafe {
        let _ = sys::cuGetErrorString(result, &mut name);
        if name.is_null() { format!("{result:?}") } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
    }
}

fn check(what: &str, result: CUresult) -> Result<()> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        other => Err(Error::Device(format!("{what}: {} ({other:?})", text(other)))),
    }
}

/// Runs a call that writes one value.
fn get<T>(what: &str, call: impl FnOnce(*mut T) -> CUresult) -> Result<T> {
    let mut value = MaybeUninit::uninit();
    check(what, call(value.as_mut_ptr()))?;
    // SAFETY: the call has succeeded and written it.
    Ok(unsafe { value.assume_init() })
}

impl Card {
    pub fn open(ordinal: usize) -> Result<Self> {
        let found = probe::probe();
        let info = found.usable(ordinal)?.clone();
        // SAFETY: the driver is present and new enough, which `usable` has checked.
        unsafe {
            let device = get("cuDeviceGet", |p| sys::cuDeviceGet(p, ordinal as i32))?;
            let context = get("cuDevicePrimaryCtxRetain", |p| sys::cuDevicePrimaryCtxRetain(p, device))?;
            let none = std::ptr::null_mut();
            let (modules, functions) = (Vec::new(), Vec::new());
            let mut card =
                Card { device, context, stream: none, modules, info, granted: PLAIN_SHARED.into(), functions };
            card.bind()?;
            let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
            card.stream = get("cuStreamCreate", |p| sys::cuStreamCreate(p, flags))?;
            Ok(card)
        }
    }

    fn bind(&self) -> Result<()> {
        // SAFETY: the context lives as long as this.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.context) })
    }

    fn module(&mut self, name: &'static str) -> Result<sys::CUmodule> {
        if let Some((_, module)) = self.modules.iter().find(|(known, _)| *known == name) {
            return Ok(*module);
        }
        let Some((_, image)) = IMAGES.iter().find(|(known, _)| *known == name) else {
            return Err(Error::Device(format!("no machine code for kernels/{name}.cu: {}", modules::MISSING)));
        };
        self.bind()?;
        let mut module = std::ptr::null_mut();
        // SAFETY: the image is a complete fat binary, which states its own length.
        let result = unsafe { sys::cuModuleLoadData(&mut module, image.as_ptr().cast()) };
        match result {
            CUresult::CUDA_SUCCESS => {}
            CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU => return Err(probe::no_image(&self.info)),
            CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => return Err(probe::too_old(self.info.driver)),
            other => return check(&format!("loading kernels/{name}.cu"), other).map(|()| module),
        }
        self.modules.push((name, module));
        Ok(module)
    }

    pub fn function(&mut self, module: &'static str, kernel: &'static str) -> Result<Function> {
        let handle = self.module(module)?;
        let name = CString::new(kernel).map_err(|e| Error::Device(e.to_string()))?;
        let mut function = std::ptr::null_mut();
        // SAFETY: the module is loaded and the name is terminated.
        let result = unsafe { sys::cuModuleGetFunction(&mut function, handle, name.as_ptr()) };
        if result != CUresult::CUDA_SUCCESS {
            let what = format!("kernel `{kernel}` is missing in the machine code of kernels/{module}.cu");
            return Err(Error::Device(format!("{what} ({})", text(result))));
        }
        let mut sizes = Vec::new();
        loop {
            let (mut offset, mut size) = (0, 0);
            // SAFETY: the function is loaded; an index past the last parameter is an error, not undefined.
            match unsafe { sys::cuFuncGetParamInfo(function, sizes.len(), &mut offset, &mut size) } {
                CUresult::CUDA_SUCCESS => sizes.push(size),
                _ => break,
            }
        }
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        // SAFETY: the function is loaded.
        let shared =
            get("cuFuncGetAttribute", |p| unsafe { sys::cuFuncGetAttribute(p, attribute, function) })? as usize;
        self.functions.push((function, shared));
        Ok(Function { name: kernel, handle: function as usize, sizes, shared })
    }

    pub fn name(&self) -> String {
        format!("cuda:{} ({})", self.info.ordinal, self.info.name)
    }
    /// Its number, as `--device cuda:N` gives it.
    pub fn ordinal(&self) -> usize {
        self.info.ordinal
    }
    pub fn multiprocessors(&self) -> usize {
        self.info.multiprocessors
    }
    pub fn shared_limit(&self) -> usize {
        self.info.shared
    }
    pub fn pools(&self) -> bool {
        true
    }
    pub fn alloc(&self, bytes: usize) -> Result<Option<u64>> {
        self.bind()?;
        let mut address = 0;
        // SAFETY: the driver writes the address.
        match unsafe { sys::cuMemAlloc_v2(&mut address, bytes.max(1)) } {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Ok(None),
            other => check("cuMemAlloc", other).map(|()| Some(address)),
        }
    }
    pub fn free(&self, address: u64) -> Result<()> {
        self.bind()?;
        // SAFETY: the address comes from `alloc` and is freed once, by the pool.
        check("cuMemFree", unsafe { sys::cuMemFree_v2(address) })
    }
    pub fn memory(&self) -> (usize, usize) {
        let (mut free, mut total) = (0, 0);
        // SAFETY: two places to write to.
        let ok =
            self.bind().and_then(|()| check("cuMemGetInfo", unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) }));
        if ok.is_ok() { (free, total) } else { (0, self.info.memory) }
    }
    pub unsafe fn write(&self, to: u64, from: &[u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: both ranges are valid by the caller's promise; the wait keeps `from` alive long enough.
        check("copy to the device", unsafe {
            sys::cuMemcpyHtoDAsync_v2(to, from.as_ptr().cast(), from.len(), self.stream)
        })?;
        self.synchronize()
    }
    pub unsafe fn read(&self, to: &mut [u8], from: u64) -> Result<()> {
        self.bind()?;
        // SAFETY: both ranges are valid by the caller's promise; the wait makes the copy complete.
        check("copy from the device", unsafe {
            sys::cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from, to.len(), self.stream)
        })?;
        self.synchronize()
    }
    pub unsafe fn fill(&self, to: u64, byte: u8, n: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: the range is valid by the caller's promise.
        check("cuMemsetD8", unsafe { sys::cuMemsetD8Async(to, byte, n, self.stream) })
    }
    pub unsafe fn copy(&self, to: u64, from: u64, n: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: both ranges are valid by the caller's promise.
        check("copy on the device", unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, n, self.stream) })
    }

    pub unsafe fn launch(&self, function: &Function, shape: Shape, args: &mut [*mut c_void]) -> Result<()> {
        self.bind()?;
        if shape.shared + function.shared > self.info.shared {
            return Err(Error::Device(format!("a block of this card has {} bytes of shared memory", self.info.shared)));
        }
        if shape.shared > self.granted.load(Ordering::Relaxed) {
            self.grant_shared()?;
        }
        let ([x, y, z], [t, u, v]) = (shape.grid, shape.block);
        let shared = shape.shared as u32;
        let handle = function.handle as sys::CUfunction;
        let none = std::ptr::null_mut();
        // SAFETY: a loaded function; the device has checked count and sizes of `args`; the rest is the caller's promise.
        check("launch", unsafe {
            sys::cuLaunchKernel(handle, x, y, z, t, u, v, shared, self.stream, args.as_mut_ptr(), none)
        })
    }

    /// Allows every function all the shared memory that this card has.
    fn grant_shared(&self) -> Result<()> {
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        for &(function, fixed) in &self.functions {
            let room = (self.info.shared - fixed) as i32;
            // SAFETY: the function is loaded.
            check("cuFuncSetAttribute", unsafe { sys::cuFuncSetAttribute(function, attribute, room) })?;
        }
        self.granted.store(self.info.shared, Ordering::Relaxed);
        Ok(())
    }

    pub fn begin_capture(&self) -> Result<()> {
        self.bind()?;
        // Other threads may do what they like meanwhile; this one is refused what a graph cannot hold.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as this.
        check("cuStreamBeginCapture", unsafe { sys::cuStreamBeginCapture_v2(self.stream, mode) })
    }
    pub fn end_capture(&self) -> Result<Recorded> {
        self.bind()?;
        // SAFETY: the stream is being captured; the graph is instantiated, then no longer needed.
        unsafe {
            let graph = get("cuStreamEndCapture", |p| sys::cuStreamEndCapture(self.stream, p))?;
            let exec = get("cuGraphInstantiate", |p| sys::cuGraphInstantiateWithFlags(p, graph, 0));
            check("cuGraphDestroy", sys::cuGraphDestroy(graph))?;
            Ok(Recorded::Real(exec? as usize))
        }
    }
    pub unsafe fn replay(&self, recorded: &Recorded) -> Result<()> {
        let Recorded::Real(exec) = recorded else { unreachable!("recorded by another driver") };
        self.bind()?;
        // SAFETY: the graph lives until `forget`, its memory by the caller's promise.
        check("cuGraphLaunch", unsafe { sys::cuGraphLaunch(*exec as sys::CUgraphExec, self.stream) })
    }
    pub fn forget(&self, recorded: &Recorded) {
        let Recorded::Real(exec) = recorded else { unreachable!("recorded by another driver") };
        if self.bind().is_ok() {
            // SAFETY: made by `end_capture`; the driver waits for a replay that is under way. Errors have nobody to tell.
            let _ = unsafe { sys::cuGraphExecDestroy(*exec as sys::CUgraphExec) };
        }
    }

    pub fn synchronize(&self) -> Result<()> {
        self.bind()?;
        // SAFETY: the stream lives as long as this.
        check("waiting for the device", unsafe { sys::cuStreamSynchronize(self.stream) })
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        // SAFETY: nothing of this card is in use any more; errors of a destructor have nobody to tell.
        unsafe {
            let _ = sys::cuCtxSetCurrent(self.context);
            let _ = sys::cuStreamSynchronize(self.stream);
            for (_, module) in &self.modules {
                let _ = sys::cuModuleUnload(*module);
            }
            let _ = sys::cuStreamDestroy_v2(self.stream);
            let _ = sys::cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}
