//! Parameters with names, their initial values, their file, and the optimiser step.

mod checkpoint;
mod init;
mod parameters;

pub use checkpoint::{TensorFile, write_tensors};
pub use init::Init;
pub use parameters::{Bound, Optimizer, Parameters, Spec};
