//! `epi-engine prepare`: a genome and pairs become one memory-mapped file.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Output;
use crate::Error;
use crate::data::cut::{self, CutOptions};
use crate::data::import_hdf5::{self, Channels};
use crate::data::pairs::{self, Naming, Region};
use crate::data::prepare::{self, PrepareOptions, provenance};
use crate::data::{Contents, Genome, Notes, PairsOptions, negatives};

/// Makes a data set (.epi) from a genome and a table of labelled pairs.
///
/// Windows are centred on the elements: start = (start + end)/2 − length/2. A window that leaves its contig is padded
/// with N and counted; rows with a window that is mostly N are dropped and counted.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  epi-engine prepare --genome hg19.2bit --pairs pairs.tsv.gz --out pairs.epi
  epi-engine prepare --genome hg38.fa.gz --pairs loops.bedpe --cell-line GM12878 --columns label=11 --out loops.epi")]
pub struct Args {
    /// Genome: .2bit or FASTA, plain, gzip or bgzip.
    #[arg(long, value_name = "FILE", requires = "pairs")]
    pub genome: Option<PathBuf>,
    /// Enhancer windows that are already cut (FASTA), in place of a genome.
    #[arg(long, value_name = "FILE", conflicts_with = "genome", requires_all = ["promoters", "pairs"])]
    pub enhancers: Option<PathBuf>,
    /// Promoter windows that are already cut (FASTA).
    #[arg(long, value_name = "FILE", requires = "enhancers")]
    pub promoters: Option<PathBuf>,
    /// SPEID's HDF5 (all_sequence_data.h5); takes one --cell-line, and coordinates from --pairs in row order.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["genome", "enhancers"], requires = "cell_line")]
    pub hdf5: Option<PathBuf>,
    /// Order of the channels in the HDF5 file.
    #[arg(long, value_name = "ORDER", default_value = "ATCG", value_parser = |s: &str| s.parse::<Channels>().map_err(|e| e.to_string()))]
    pub channels: Channels,
    /// Pairs: TargetFinder CSV, BEDPE, or a table with a header; plain or compressed.
    #[arg(long, value_name = "FILE")]
    pub pairs: Option<PathBuf>,
    /// The data set to write.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    #[command(flatten)]
    pub table: TableArgs,
    #[command(flatten)]
    pub windows: WindowArgs,
    /// Draw this many negatives per positive from the same elements, matched in distance (for tables of interactions).
    #[arg(long, value_name = "K", requires = "genome", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub negatives: Option<u32>,
    /// Seed of --negatives.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// FASTA of known windows named contig:start-end that the genome must agree with.
    #[arg(long, value_name = "FILE", requires = "genome")]
    pub check_assembly: Option<PathBuf>,
}

/// How a table of pairs is to be read.
#[derive(clap::Args, Debug, Default)]
pub struct TableArgs {
    /// Names of columns: enhancer_chrom, enhancer_start, …, label, cell_line = header name or number.
    #[arg(long, value_name = "FIELD=COLUMN,…", value_parser = |s: &str| s.parse::<Naming>().map_err(|e| e.to_string()))]
    pub columns: Option<Naming>,
    /// Label of every pair, when no column holds it.
    #[arg(long, value_name = "0|1", value_parser = clap::value_parser!(u8).range(0..=1))]
    pub label: Option<u8>,
    /// Cell line of every pair; with --hdf5 the one to import.
    #[arg(long, value_name = "NAME")]
    pub cell_line: Option<String>,
    /// The first anchor of BEDPE is the promoter.
    #[arg(long)]
    pub promoter_first: bool,
    /// Only pairs whose elements both lie on these contigs, or within these intervals (chr22:0-22000000).
    #[arg(long, value_name = "A,B,…", value_delimiter = ',', value_parser = |s: &str| s.parse::<Region>().map_err(|e| e.to_string()))]
    pub only_contigs: Vec<Region>,
    /// Only pairs of these cell lines.
    #[arg(long, value_name = "A,B,…", value_delimiter = ',')]
    pub only_cell_lines: Vec<String>,
    /// Drop and count contradictory rows, rows off the genome and one-class sets, instead of refusing them.
    #[arg(long)]
    pub lenient: bool,
}

impl TableArgs {
    /// As the library takes them.
    pub fn options(&self) -> PairsOptions {
        let set = |names: &[String]| (!names.is_empty()).then(|| names.iter().cloned().collect::<HashSet<_>>());
        PairsOptions {
            columns: self.columns.clone().unwrap_or_default(),
            label: self.label,
            cell_line: self.cell_line.clone(),
            promoter_first: self.promoter_first,
            only_contigs: (!self.only_contigs.is_empty()).then(|| self.only_contigs.clone()),
            only_cell_lines: set(&self.only_cell_lines),
            lenient: self.lenient,
            ..PairsOptions::default()
        }
    }
}

/// Shape of the windows.
#[derive(clap::Args, Debug)]
pub struct WindowArgs {
    /// Bases of an enhancer window.
    #[arg(long, value_name = "BASES")]
    pub enhancer_length: Option<usize>,
    /// Bases of a promoter window.
    #[arg(long, value_name = "BASES")]
    pub promoter_length: Option<usize>,
    /// Further bases stored on each side, for shifting.
    #[arg(long, value_name = "BASES", default_value_t = 100)]
    pub flank: usize,
    /// Rows with a window of which more than this share is N are dropped, and counted.
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    pub max_unknown: f64,
}

impl WindowArgs {
    /// For windows that are already cut.
    fn cut(&self) -> CutOptions {
        CutOptions { lengths: [self.enhancer_length, self.promoter_length], flank: self.flank }
    }
    /// As the library takes them.
    pub fn options(&self, lenient: bool) -> PrepareOptions {
        let default = PrepareOptions::default();
        PrepareOptions {
            enhancer_length: self.enhancer_length.unwrap_or(default.enhancer_length),
            promoter_length: self.promoter_length.unwrap_or(default.promoter_length),
            flank: self.flank,
            max_unknown: self.max_unknown,
            lenient,
        }
    }
}

/// Prepares and writes; the result names the file and what is in it.
pub fn run(args: &Args, out: &Output) -> Result<()> {
    let (mut contents, notes, inputs) = match (&args.genome, &args.enhancers, &args.hdf5, &args.pairs) {
        (Some(genome), _, _, Some(pairs)) => from_genome(args, genome, pairs, out)?,
        (_, Some(enhancers), _, Some(pairs)) => from_windows(args, enhancers, pairs)?,
        (_, _, Some(hdf5), pairs) => from_hdf5(args, hdf5, pairs.as_deref(), out)?,
        _ => {
            let inputs = "--genome and --pairs, or --enhancers, --promoters and --pairs, or --hdf5 and --cell-line";
            return Err(Error::config("prepare", format!("give {inputs}")).into());
        }
    };
    let positives = contents.pairs.positives();
    let (n, lenient) = (contents.pairs.rows.len(), args.table.lenient);
    if positives == 0 || positives == n {
        let message =
            format!("every pair has label {}: nothing can be learned from one class", u8::from(positives > 0));
        if !lenient {
            bail!("{message} (--lenient makes the data set all the same, for scoring)");
        }
        out.warn(message);
    }
    notes.iter().for_each(|note| out.warn(note.to_string()));
    contents.source = json!({
        "program": concat!("epi-engine ", env!("CARGO_PKG_VERSION")),
        "command": "prepare",
        "inputs": inputs,
        "windows": {
            "enhancer": contents.pairs.enhancer_length,
            "promoter": contents.pairs.promoter_length,
            "flank": contents.flank,
            "start": "(start + end)/2 - length/2",
        },
        "warnings": notes.to_json(),
    });
    contents.write(&args.out)?;
    let bytes = std::fs::metadata(&args.out).map(|m| m.len()).unwrap_or(0);
    out.line(format!("{}: {n} pairs, {positives} positive, {:.1} MB", args.out.display(), bytes as f64 / 1e6));
    out.document(&json!({
        "out": args.out, "pairs": n, "positives": positives, "bytes": bytes, "warnings": notes.to_json(),
    }));
    Ok(())
}

fn from_genome(args: &Args, genome: &Path, pairs: &Path, out: &Output) -> Result<(Contents, Notes, Value)> {
    let mut inputs = json!({"genome": provenance(genome)?, "pairs": provenance(pairs)?});
    let mut pairs = pairs::read(pairs, &args.table.options())?;
    let windows = args.windows.options(args.table.lenient);
    if let Some(k) = args.negatives {
        let apart = windows.enhancer_length.max(windows.promoter_length) as i64;
        negatives::distance_matched(&mut pairs, k, apart, args.seed)?;
        inputs["negatives"] =
            json!({"per_positive": k, "matched": "cell line, contig, distance ±10 %", "seed": args.seed});
    }
    // A check may concern other contigs than the pairs, so then all are read.
    let wanted: HashSet<String> = pairs.table.contigs.iter().cloned().collect();
    let genome = Genome::open(genome, args.check_assembly.is_none().then_some(&wanted))?;
    if let Some(windows) = &args.check_assembly {
        let compared = prepare::check_assembly(&genome, windows)?;
        out.note(format!("assembly: {compared} known windows agree"));
        inputs["check_assembly"] = provenance(windows)?;
        inputs["check_assembly"]["windows"] = compared.into();
    }
    let (contents, notes) = prepare::from_genome(pairs, &genome, &windows)?;
    Ok((contents, notes, inputs))
}

fn from_windows(args: &Args, enhancers: &Path, pairs: &Path) -> Result<(Contents, Notes, Value)> {
    let promoters = args.promoters.as_deref().context("--promoters is missing")?;
    let inputs = json!({
        "enhancers": provenance(enhancers)?, "promoters": provenance(promoters)?, "pairs": provenance(pairs)?,
    });
    let (contents, notes) = cut::from_fasta([enhancers, promoters], pairs, &args.table.options(), args.windows.cut())?;
    Ok((contents, notes, inputs))
}

fn from_hdf5(args: &Args, hdf5: &Path, pairs: Option<&Path>, out: &Output) -> Result<(Contents, Notes, Value)> {
    let cell = args.table.cell_line.as_deref().context("--cell-line is missing")?;
    let mut inputs = json!({"hdf5": provenance(hdf5)?});
    let table = match pairs {
        Some(path) => {
            inputs["pairs"] = provenance(path)?;
            let only_cell_lines = Some([cell.to_string()].into());
            Some(pairs::read(path, &PairsOptions { keep_all: true, only_cell_lines, ..args.table.options() })?)
        }
        None => None,
    };
    let bar = out.progress(1, "rows");
    let (contents, notes) =
        import_hdf5::import(hdf5, cell, table, args.channels, args.windows.cut(), |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        })?;
    bar.finish_and_clear();
    Ok((contents, notes, inputs))
}
