//! Tests of the whole program: command line, training, resume, layering.

mod audit;
mod bf16;
mod boosting;
mod checkpoints;
mod cli;
mod data_cli;
mod data_dataset;
mod data_fuzz;
mod data_inputs;
mod data_synth;
mod data_windows;
mod emulated;
mod evaluation;
mod explain;
mod layering;
mod metrics;
mod recorded;
mod report;
mod splits;
mod study;
mod support;
mod training;
