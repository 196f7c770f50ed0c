//! The door: what was typed, validated options, library calls, output.

mod audit;
pub mod bench;
mod compare;
mod evaluate;
mod explain;
pub mod export;
pub mod features;
mod info;
pub mod inspect;
pub mod output;
mod predict;
pub mod prepare;
mod report;
mod study;
mod summary;
pub mod synth;
mod train;
mod trees;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use output::Output;

use crate::error::Error;

/// Learns from DNA sequence which enhancers interact with which promoters.
#[derive(Parser)]
#[command(name = "epi-engine", version, max_term_width = 120)]
#[command(
    after_help = "Start with `epi-engine train`: it trains on the bundled real pairs and scores unseen chromosomes."
)]
struct Cli {
    /// Print one JSON document on stdout instead of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a model and score the test part
    Train(train::Args),
    /// Score a part of a data set with a trained model
    Evaluate(evaluate::Args),
    /// Score pairs of your own with a trained model
    Predict(predict::Args),
    /// Make a data set from a genome and a table of pairs
    Prepare(prepare::Args),
    /// What a data set holds and where it comes from
    Inspect(inspect::Args),
    /// Write a data set back as FASTA and TSV
    Export(export::Args),
    /// Measure peak files over the elements of pairs, for TargetFinder
    Features(features::Args),
    /// Make data with a known answer: motifs planted into real or random windows
    Synth(synth::Args),
    /// Layers and parameters of a model
    Summary(summary::Args),
    /// Score a split with element names and distance alone, and count what its parts share
    Audit(audit::Args),
    /// Make many runs from one file, resumable
    Study(study::Args),
    /// Compare the test scores of two runs over the same pairs
    Compare(compare::Args),
    /// Tables and figures of a run or a study, as one page
    Report(report::Args),
    /// What a trained model reads in the sequence, and what changing it does
    Explain(explain::Args),
    /// Time training steps, kernels or the data path
    Bench(bench::Args),
    /// Version, processor, CUDA devices and kernels
    #[command(after_help = "Example: epi-engine info --json")]
    Info,
}

/// Runs the program; exit codes 0 success, 1 failure, 2 usage.
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

/// As [`main`] with these words, the program's name first.
pub fn run(words: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    let cli = Cli::parse_from(words);
    let out = Output { json: cli.json };
    let result = match &cli.command {
        Command::Train(args) => train::run(args, &out),
        Command::Evaluate(args) => evaluate::run(args, &out),
        Command::Predict(args) => predict::run(args, &out),
        Command::Prepare(args) => prepare::run(args, &out).map(|()| ExitCode::SUCCESS),
        Command::Inspect(args) => inspect::run(args, &out).map(|()| ExitCode::SUCCESS),
        Command::Export(args) => export::run(args, &out).map(|()| ExitCode::SUCCESS),
        Command::Features(args) => features::run(args, &out).map(|()| ExitCode::SUCCESS),
        Command::Synth(args) => synth::run(args, &out).map(|()| ExitCode::SUCCESS),
        Command::Summary(args) => summary::run(args, &out),
        Command::Audit(args) => audit::run(args, &out),
        Command::Study(args) => study::run(args, &out),
        Command::Compare(args) => compare::run(args, &out),
        Command::Report(args) => report::run(args, &out),
        Command::Explain(args) => explain::run(args, &out),
        Command::Bench(args) => bench::run(args, &out),
        Command::Info => info::run(&out),
    };
    let result = match output::lost() {
        Some(source) => result.and(Err(Error::io("standard output")(source).into())),
        None => result,
    };
    match result {
        Ok(code) => code,
        Err(error) => match error.downcast_ref::<Error>() {
            // The library's errors name their cause themselves.
            Some(known) => {
                out.note(format!("error: {known}"));
                ExitCode::from(if matches!(known, Error::Config { .. }) { 2 } else { 1 })
            }
            None => {
                out.note(format!("error: {error:#}"));
                ExitCode::from(1)
            }
        },
    }
}
