//! Reverse-mode differentiation over coarse operators: a step of EPSAT is about 25 nodes.

pub mod ops;
mod tape;

pub use tape::{Backward, Gradients, Inputs, Tape, Var};
