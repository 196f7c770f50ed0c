//! What CUDA there is on this machine, found out without ever failing.

use super::modules;
use crate::error::{Error, Result};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};

/// Oldest driver interface that the launch code can talk to (CUDA 12.4).
const OLDEST: u32 = 12_040;

/// One GPU.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Card {
    pub ordinal: usize,
    pub name: String,
    /// Compute capability.
    pub major: u32,
    pub minor: u32,
    /// Bytes of memory.
    pub memory: usize,
    pub multiprocessors: usize,
    /// Bytes of shared memory a block can have.
    pub shared: usize,
    /// CUDA version of the driver, `1000 * major + 10 * minor`.
    pub driver: u32,
    /// Whether this program has kernels for it.
    pub supported: bool,
}

/// The state of CUDA on this machine.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Probe {
    /// CUDA version of the driver, `1000 * major + 10 * minor`.
    pub driver: Option<u32>,
    pub cards: Vec<Card>,
    /// Why no card can be used, with the remedy.
    pub problem: Option<String>,
}

impl Probe {
    /// Card `ordinal`, or why it cannot be used and what to do.
    pub fn usable(&self, ordinal: usize) -> Result<&Card> {
        if let Some(problem) = &self.problem {
            return Err(Error::Device(format!("cuda:{ordinal} cannot be used: {problem}")));
        }
        let card = self.cards.get(ordinal).ok_or_else(|| {
            Error::Device(format!(
                "there is no cuda:{ordinal}: this machine has {} CUDA devices, numbered from 0",
                self.cards.len()
            ))
        })?;
        if card.supported { Ok(card) } else { Err(no_image(card)) }
    }
}

fn version(v: u32) -> String {
    format!("{}.{}", v / 1000, v % 1000 / 10)
}

/// A driver that cannot load what nvcc has made.
pub(super) fn too_old(driver: u32) -> Error {
    let wanted = match modules::toolkit() {
        Some(13..) => "driver 580 or later, or a build with a CUDA 12.4+ toolkit (EPI_NVCC=..)",
        _ => "driver 550 or later",
    };
    let with = if modules::COMPILER.is_empty() { "" } else { modules::COMPILER };
    Error::Device(format!(
        "the NVIDIA driver is too old: it offers CUDA {}; kernels built with {with} need {wanted}",
        version(driver)
    ))
}

/// A card that the images do not fit.
pub(super) fn no_image(card: &Card) -> Error {
    let (name, major, minor) = (&card.name, card.major, card.minor);
    if !modules::MISSING.is_empty() {
        return Error::Device(format!("this program has no kernels for CUDA devices: {}", modules::MISSING));
    }
    let remedy = if major < 8 {
        "cards older than Ampere (8.0) lack the instructions that the kernels use".into()
    } else {
        format!("build again with EPI_CUDA_ARCHS={major}{minor}")
    };
    let built = modules::ARCHITECTURES.join(", ");
    Error::Device(format!(
        "{name} has compute capability {major}.{minor}; this program has kernels for {built} and newer: {remedy}"
    ))
}

/// Looks for the driver and its cards. Never panics; problems are in the answer.
pub fn probe() -> Probe {
    let nothing = |problem: String| Probe { driver: None, cards: Vec::new(), problem: Some(problem) };
    // SAFETY: only loads the library, if there is one, as any program that uses CUDA does.
    if !unsafe { sys::is_culib_present() } {
        return nothing("no NVIDIA driver was found (libcuda.so); install one, or use --device cpu".into());
    }
    let mut driver = 0;
    // SAFETY: the library is there, and every driver has these two.
    let started = unsafe {
        let _ = sys::cuDriverGetVersion(&mut driver);
        sys::cuInit(0)
    };
    let driver = driver.unsigned_abs();
    if started != CUresult::CUDA_SUCCESS {
        let why = match started {
            CUresult::CUDA_ERROR_NO_DEVICE => "the NVIDIA driver sees no device".to_string(),
            CUresult::CUDA_ERROR_STUB_LIBRARY => {
                "libcuda.so is the toolkit's stub, not a driver; fix LD_LIBRARY_PATH".to_string()
            }
            other => format!("the NVIDIA driver does not start ({other:?}); does `nvidia-smi` work?"),
        };
        return Probe { driver: Some(driver), ..nothing(why) };
    }
    if driver < OLDEST || modules::toolkit().is_some_and(|major| driver / 1000 < major) {
        return Probe { driver: Some(driver), ..nothing(too_old(driver).to_string()) };
    }
    let mut count = 0;
    // SAFETY: the driver has started.
    let counted = unsafe { sys::cuDeviceGetCount(&mut count) };
    let ordinals = 0..if counted == CUresult::CUDA_SUCCESS { count } else { 0 };
    let cards: Vec<Card> = ordinals.filter_map(|ordinal| card(ordinal, driver)).collect();
    let problem = if !modules::MISSING.is_empty() {
        Some(format!("this program has no kernels for CUDA devices: {}", modules::MISSING))
    } else if cards.is_empty() {
        Some("the NVIDIA driver sees no device".into())
    } else {
        None
    };
    Probe { driver: Some(driver), cards, problem }
}

fn card(ordinal: i32, driver: u32) -> Option<Card> {
    let ok = |result| (result == CUresult::CUDA_SUCCESS).then_some(());
    let (mut device, mut memory, mut name) = (0, 0usize, [0u8; 256]);
    // SAFETY: the driver has started; every call writes into the place given, the name at most 255 bytes and a zero.
    unsafe {
        ok(sys::cuDeviceGet(&mut device, ordinal))?;
        ok(sys::cuDeviceTotalMem_v2(&mut memory, device))?;
        ok(sys::cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as i32, device))?;
    }
    let attribute = |which: Attribute| -> Option<usize> {
        let mut value = 0;
        // SAFETY: as above.
        ok(unsafe { sys::cuDeviceGetAttribute(&mut value, which, device) })?;
        usize::try_from(value).ok()
    };
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? as u32;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)? as u32;
    let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
    Some(Card {
        ordinal: ordinal as usize,
        name: String::from_utf8_lossy(&name[..end]).into_owned(),
        major,
        minor,
        memory,
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        driver,
        supported: modules::runs_on(major, minor),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn probing_answers_on_any_machine() {
        let found = super::probe();
        assert!(found.problem.is_some() || !found.cards.is_empty(), "{found:?}");
        if let Some(problem) = &found.problem {
            let error = found.usable(0).expect_err("a problem makes every card unusable").to_string();
            assert!(error.contains(problem.as_str()) && error.contains("cuda:0"), "{error}");
        }
    }
}
