//! `epi-engine compare`: two runs over the same pairs, by paired bootstrap.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::Output;
use crate::evaluate::{Prediction, compare, read_predictions};

/// Compare the test scores of two runs over the same pairs
///
/// Both runs are resampled alike: a replicate draws the same chromosomes (or components of overlapping windows) for both,
/// so the interval is that of the difference.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  epi-engine compare runs/epsat-1 runs/epsat-2")]
pub struct Args {
    /// Run folder A (or a predictions.tsv)
    #[arg(value_name = "RUN")]
    a: PathBuf,
    /// Run folder B (or a predictions.tsv)
    #[arg(value_name = "RUN")]
    b: PathBuf,
    /// Bootstrap replicates
    #[arg(long, default_value_t = 1000)]
    replicates: u32,
    /// Seed of the bootstrap
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Reads both runs, compares, prints.
pub fn run(args: &Args, out: &Output) -> anyhow::Result<ExitCode> {
    let comparison = compare(&scores(&args.a)?, &scores(&args.b)?, args.seed, args.replicates)?;
    comparison.warnings.iter().for_each(|w| out.warn(w));
    out.line(comparison.table(&args.a.to_string_lossy(), &args.b.to_string_lossy()).trim_end());
    let mut document = comparison.to_json();
    (document["a"], document["b"]) = (args.a.to_string_lossy().into(), args.b.to_string_lossy().into());
    out.document(&document);
    Ok(ExitCode::SUCCESS)
}

fn scores(run: &Path) -> crate::Result<Vec<Prediction>> {
    read_predictions(&if run.is_dir() { run.join("predictions.tsv") } else { run.to_path_buf() })
}
