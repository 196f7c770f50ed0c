//! `epi-engine export`: a data set back to FASTA and TSV.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use super::Output;
use crate::data::{Dataset, export};

/// Writes enhancers.fa, promoters.fa and pairs.tsv, which `prepare --enhancers --promoters --pairs` reads again.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  epi-engine export pairs.epi --out folder
  epi-engine prepare --enhancers folder/enhancers.fa --promoters folder/promoters.fa --pairs folder/pairs.tsv --out again.epi")]
pub struct Args {
    /// The data set.
    #[arg(value_name = "X.epi")]
    pub data: PathBuf,
    /// Folder to write into.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Write the stored flanks too (give prepare the window lengths then).
    #[arg(long)]
    pub flanks: bool,
}

/// Opens, verifies and writes.
pub fn run(args: &Args, out: &Output) -> Result<()> {
    let dataset = Dataset::open(&args.data)?;
    dataset.verify()?;
    export::export(&dataset, &args.out, args.flanks)?;
    let files = ["enhancers.fa", "promoters.fa", "pairs.tsv"].map(|name| args.out.join(name));
    out.line(format!("{}: enhancers.fa, promoters.fa, pairs.tsv ({} pairs)", args.out.display(), dataset.len()));
    out.document(&json!({"files": files, "pairs": dataset.len()}));
    Ok(())
}
