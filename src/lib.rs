//! `epi-engine` learns from DNA sequence which enhancers interact with which promoters.
//!
//! Rooms, from caller to called: [`cli`], [`report`], [`study`], [`train`], [`evaluate`], [`models`], [`nn`], [`autograd`],
//! [`backend`], and below them the kernels; [`explain`] and [`boosting`] stand beside [`train`]; [`data`] feeds training and evaluation; [`error`],
//! [`rng`], [`config`] and [`metrics`] are leaves.
//! `docs/architecture.md` draws the house; `tests/system/layering.rs` holds the arrows to it.

pub mod autograd;
pub mod backend;
pub mod bench;
pub mod boosting;
pub mod cli;
pub mod config;
pub mod data;
pub mod error;
pub mod evaluate;
pub mod explain;
pub mod metrics;
pub mod models;
pub mod nn;
pub mod report;
pub mod rng;
pub mod study;
pub mod train;

pub use error::{Error, Result};
