//! Timings: whole steps, single kernels and the data path; median and spread.

pub mod cases;
pub mod data;
mod eplae_cases;
pub mod kernels;
pub mod plan;
pub mod statistics;
pub mod step;

/// The commit that was built.
pub fn commit() -> String {
    env!("EPI_COMMIT").into()
}
