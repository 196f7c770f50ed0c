//! Which device to run on, and why.

use super::cpu::Cpu;
use super::cuda::device::{Card, Flavour, probe};
use super::cuda::{Cuda, Precision};
use super::reference::Reference;
use super::{Backend, DType};
use crate::error::{Error, Result};

/// What `--device` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// CUDA if there is a usable device, else the CPU.
    Auto,
    Cpu,
    /// A CUDA device by number; never falls back.
    Cuda(usize),
    /// The CUDA kernels on the CPU, for tests.
    Emulator,
    /// Plain loops, for tests.
    Reference,
}

impl std::str::FromStr for DeviceChoice {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "auto" => DeviceChoice::Auto,
            "cpu" => DeviceChoice::Cpu,
            "cuda" => DeviceChoice::Cuda(0),
            "emulator" => DeviceChoice::Emulator,
            "reference" => DeviceChoice::Reference,
            other => {
                let number = other.strip_prefix("cuda:").and_then(|n| n.parse().ok());
                DeviceChoice::Cuda(number.ok_or_else(|| {
                    let message = format!("`{other}`: choose auto, cpu, cuda, cuda:N, emulator or reference");
                    Error::config("--device", message)
                })?)
            }
        })
    }
}

/// An opened device.
pub enum Device {
    Cpu(Cpu),
    Cuda(Cuda),
    Reference(Reference<f32>),
}

/// Calls `$body` with `$backend` bound to the backend inside a [`Device`], whichever it is.
#[macro_export]
macro_rules! on_device {
    ($device:expr, $backend:ident => $body:expr) => {
        match $device {
            $crate::backend::Device::Cpu($backend) => $body,
            $crate::backend::Device::Cuda($backend) => $body,
            $crate::backend::Device::Reference($backend) => $body,
        }
    };
}

impl Device {
    /// Opens what `choice` asks for, for a run that will need about `memory` bytes. The text says which device it is and,
    /// for `auto`, why. An explicit choice never falls back to another device.
    pub fn open(choice: DeviceChoice, precision: DType, memory: usize) -> Result<(Device, String)> {
        match choice {
            DeviceChoice::Auto => match usable_card(memory) {
                Ok(card) => Self::cuda(card.ordinal, precision),
                Err(why) => {
                    let (device, text) = Self::cpu(precision)?;
                    Ok((device, format!("{text}; no CUDA: {}", short(&why))))
                }
            },
            DeviceChoice::Cpu => Self::cpu(precision),
            DeviceChoice::Cuda(ordinal) => Self::cuda(ordinal, precision),
            DeviceChoice::Emulator => {
                let cuda = Cuda::emulator(Flavour::Fast, 0)?.with_precision(kernels_precision(precision));
                let text = cuda.name();
                Ok((Device::Cuda(cuda), text))
            }
            DeviceChoice::Reference => {
                only_f32(precision, "reference")?;
                let reference = Reference::new();
                let text = reference.name();
                Ok((Device::Reference(reference), text))
            }
        }
    }
    /// The same for one of `models` that run on it at the same time. Its results stay those of a model that runs alone, except on a
    /// card in bf16, where any number above 1 has the same (see `LstmVariant::TensorCores`).
    pub fn among(self, models: usize) -> Device {
        match self {
            Device::Cuda(cuda) => Device::Cuda(cuda.among(models)),
            other => other,
        }
    }
    /// Another context on the same device, with memory of its own, whose work may run beside this one's.
    ///
    /// # Errors
    /// As of [`Device::open`].
    pub fn again(&self) -> Result<Device> {
        Ok(match self {
            Device::Cpu(cpu) => Device::Cpu(cpu.again()),
            Device::Cuda(cuda) => Device::Cuda(cuda.again()?),
            Device::Reference(reference) => Device::Reference(reference.clone()),
        })
    }
    fn cpu(precision: DType) -> Result<(Device, String)> {
        let cpu = Cpu::new().with_precision(precision);
        let mut text = cpu.name();
        if cpu.emulates_bf16() {
            text.push_str("; no avx512_bf16, without which bf16 is slower than f32");
        }
        Ok((Device::Cpu(cpu), text))
    }
    fn cuda(ordinal: usize, precision: DType) -> Result<(Device, String)> {
        let cuda = Cuda::open(ordinal)?.with_precision(kernels_precision(precision));
        let text = cuda.name();
        Ok((Device::Cuda(cuda), text))
    }
}

/// `f32` or `bf16`, as `--precision` names them.
pub fn precision(text: &str) -> Result<DType> {
    match text {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::BF16),
        other => Err(Error::config("--precision", format!("`{other}`: choose f32 or bf16"))),
    }
}

fn kernels_precision(precision: DType) -> Precision {
    if precision == DType::BF16 { Precision::Bf16 } else { Precision::F32 }
}

fn only_f32(precision: DType, device: &str) -> Result<()> {
    if precision == DType::F32 {
        return Ok(());
    }
    Err(Error::config("--precision", format!("{device} computes in f32 only; use --precision f32, or another device")))
}

/// The first card that this build has kernels for and that has the memory.
fn usable_card(memory: usize) -> Result<Card> {
    let probe = probe();
    probe.usable(0)?;
    let fits = |card: &&Card| card.supported && card.memory > memory;
    probe
        .cards
        .iter()
        .find(fits)
        .cloned()
        .ok_or_else(|| Error::Device(format!("no card has kernels in this build and {} MiB of memory", memory >> 20)))
}

/// The reason alone, without the name of the card and without the remedy: `auto` has found its own.
fn short(error: &Error) -> String {
    let text = error.to_string();
    let why = text.split_once("cannot be used: ").map_or(text.as_str(), |(_, why)| why);
    why.split("; ").next().unwrap_or(why).to_string()
}
