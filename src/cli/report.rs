use std::path::PathBuf;
use std::process::ExitCode;

use super::Output;
use crate::report;

/// Tables and figures of a run or a study, as one page
///
/// Writes report.html, which needs no network and no other file, and beside it figures/*.svg and tables/*.tsv. Everything
/// comes from the files of the run or study; nothing is trained or scored.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  epi-engine report runs/demo
  epi-engine report runs/study --out site")]
pub struct Args {
    /// Run folder made by `epi-engine train`, or folder of a study
    #[arg(value_name = "RUN|STUDY")]
    folder: PathBuf,
    /// Where to write (default: into the folder itself)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn run(args: &Args, out: &Output) -> anyhow::Result<ExitCode> {
    let written = report::write(&args.folder, args.out.as_deref())?;
    written.warnings.iter().for_each(|w| out.warn(w));
    out.line(&written.verdict);
    out.line(format!(
        "{}: {} figures, {} tables beside it in figures and tables",
        written.html.display(),
        written.figures.len(),
        written.tables.len()
    ));
    out.document(&written.to_json());
    Ok(ExitCode::SUCCESS)
}
