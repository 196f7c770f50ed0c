//! Tests of the emulator and of the device layer under it: what it must report, and what it must not.

#[cfg(emulator)]
mod graph;
#[cfg(emulator)]
mod intrinsics;
#[cfg(emulator)]
mod layer;
#[cfg(emulator)]
mod peak;
#[cfg(emulator)]
mod planted;
mod ptxas;
