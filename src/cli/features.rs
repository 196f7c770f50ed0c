//! `epi-engine features`: peak files become the table that `train --preset target-finder` reads.

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};

use super::Output;
use super::prepare::TableArgs;
use crate::boosting::{Peaks, measure};
use crate::config::Regions;
use crate::data::pairs;
use crate::train::RunFolder;
use crate::{Error, Result};

/// Measure peak files over the elements of pairs: features for `train --preset target-finder`
///
/// A feature is the mean signal per base: the signals of all peaks of a factor that overlap the region, by its length.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  epi-engine features --pairs pairs.tsv.gz --peaks CTCF=ctcf.narrowPeak.gz --peaks H3K27ac=h3k27ac.broadPeak.gz \\
    --regions epw --out training.csv.gz")]
pub struct Args {
    /// Pairs: TargetFinder CSV, BEDPE, or a table with a header; plain or compressed
    #[arg(long, value_name = "FILE")]
    pairs: PathBuf,
    /// Peaks of a factor: narrowPeak, broadPeak, bedGraph or BED, plain or compressed; files of one factor are joined
    #[arg(long, value_name = "FACTOR=FILE", required = true)]
    peaks: Vec<String>,
    /// ep = enhancer and promoter, epw = the window between them too
    #[arg(long, value_name = "ep|epw", default_value = "epw", value_parser = regions)]
    regions: Regions,
    /// The table to write; compressed when its name ends in .gz
    #[arg(long, value_name = "FILE.csv.gz")]
    out: PathBuf,
    #[command(flatten)]
    table: TableArgs,
}

fn regions(text: &str) -> std::result::Result<Regions, String> {
    toml::Value::from(text).try_into().map_err(|_| format!("`{text}`: choose ep or epw"))
}

pub fn run(args: &Args, out: &Output) -> anyhow::Result<()> {
    let mut files: Vec<(String, Vec<&Path>)> = Vec::new();
    for peaks in &args.peaks {
        let named = peaks.split_once('=').filter(|(factor, _)| !factor.contains([',', '(', '"']) && !factor.is_empty());
        let (factor, file) = named.ok_or_else(|| {
            Error::config("--peaks", format!("`{peaks}` is not of the form FACTOR=FILE (CTCF=x.narrowPeak)"))
        })?;
        match files.iter_mut().find(|(known, _)| known == factor) {
            Some((_, list)) => list.push(Path::new(file)),
            None => files.push((factor.to_string(), vec![Path::new(file)])),
        }
    }
    let pairs = pairs::read(&args.pairs, &args.table.options())?;
    pairs.notes.iter().for_each(|note| out.warn(note.to_string()));
    let read = |(factor, paths): (String, Vec<&Path>)| Ok((factor, Peaks::read(paths)?));
    let factors = files.into_iter().map(read).collect::<Result<Vec<_>>>()?;
    let mut bytes = measure(&pairs, &factors, args.regions)?.into_bytes();
    if args.out.extension().is_some_and(|e| e == "gz") {
        // Without a time, so that equal inputs give equal bytes.
        let mut gz = GzBuilder::new().write(Vec::new(), Compression::default());
        bytes = gz.write_all(&bytes).and_then(|()| gz.finish()).map_err(Error::io(&args.out))?;
    }
    let folder = args.out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(".".as_ref());
    RunFolder::at(folder).write(&args.out.file_name().unwrap_or_default().to_string_lossy(), &bytes)?;
    let (rows, n) = (pairs.table.rows.len(), factors.len());
    out.line(format!("{}: {rows} pairs, {n} factors", args.out.display()));
    out.document(&serde_json::json!({ "out": args.out, "pairs": rows, "factors": n }));
    Ok(())
}
