//! The device layer: one [`Device`] is a GPU or the emulator, with every kernel loaded, its memory and its launches.
//!
//! Nothing here knows an operator; nothing above knows which of the two it talks to.

mod context;
mod driver;
mod emulator;
mod graph;
mod memory;
pub mod modules;
mod probe;
mod real;

pub use context::{Device, Grid};
pub use emulator::{EMULATOR, Flavour, params_sizes};
pub use graph::{Graph, Noted};
pub use memory::{Memory, Usage};
pub use probe::{Card, Probe, probe};

/// The arguments of a launch: `args![params, memory.address(), 3i32]`, plain values in the order of the kernel.
#[macro_export]
macro_rules! args {
    ($($value:expr),* $(,)?) => { &[$(::bytemuck::bytes_of(&$value)),*] };
}
