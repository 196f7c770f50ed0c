//! `epi-engine synth`: data with a known answer.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use super::Output;
use crate::data::prepare::provenance;
use crate::data::synth::{self, Background, Level, SynthOptions};
use crate::data::{Dataset, Genome, demo, meme};

/// Plants motifs of enhancers and promoters into real or random windows and keeps the truth in the file.
///
/// Level `additive`: either element alone tells the label. Level `pair`: only the combination of an enhancer motif and a
/// promoter motif does. The column `split` holds the part of each sample: use `--split column:split` with the file.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  epi-engine synth --data demo --level pair --train 20480 --out pair.epi
  epi-engine synth --genome hg19.2bit --motifs JASPAR.meme --out planted.epi
  epi-engine train --data pair.epi --split column:split")]
pub struct Args {
    /// Genome whose known bases surround the motifs.
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    pub genome: Option<PathBuf>,
    /// Data set whose windows surround the motifs (`demo`: the built-in one). Without this and --genome, random bases.
    #[arg(long, value_name = "X.epi")]
    pub data: Option<PathBuf>,
    /// Motifs in MEME format; without it the four built in (JASPAR's CTCF, REST, NRF1, HNF1A).
    #[arg(long, value_name = "M.meme")]
    pub motifs: Option<PathBuf>,
    /// First and second motif of the enhancers, by beginning of the id.
    #[arg(long, value_name = "A,B", value_delimiter = ',', num_args = 1, default_values_t = ["MA0139.1".to_string(), "MA0138.2".to_string()])]
    pub enhancer_motifs: Vec<String>,
    /// First and second motif of the promoters.
    #[arg(long, value_name = "A,B", value_delimiter = ',', num_args = 1, default_values_t = ["MA0506.2".to_string(), "MA0046.2".to_string()])]
    pub promoter_motifs: Vec<String>,
    /// The data set to write.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// additive: single elements carry signal; pair: only combinations do.
    #[arg(long, default_value = "additive", value_parser = |s: &str| s.parse::<Level>().map_err(|e| e.to_string()))]
    pub level: Level,
    /// Samples of the training part.
    #[arg(long, value_name = "N", default_value_t = 10_240)]
    pub train: usize,
    /// Samples of the validation part.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub validation: usize,
    /// Samples of the test part.
    #[arg(long, value_name = "N", default_value_t = 2048)]
    pub test: usize,
    /// Bases of an enhancer window.
    #[arg(long, value_name = "BASES", default_value_t = 300)]
    pub enhancer_length: usize,
    /// Bases of a promoter window.
    #[arg(long, value_name = "BASES", default_value_t = 300)]
    pub promoter_length: usize,
    /// Copies of the motif in each window.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub copies: usize,
    /// Plant half of the copies on the reverse strand.
    #[arg(long)]
    pub both_strands: bool,
    /// Contigs whose windows go to training and validation.
    #[arg(long, value_name = "A,B,…", value_delimiter = ',', default_value = "chr1,chr17,chr20")]
    pub train_contigs: Vec<String>,
    /// Contigs whose windows go to the test part.
    #[arg(long, value_name = "A,B,…", value_delimiter = ',', default_value = "chr22,chrX")]
    pub test_contigs: Vec<String>,
    /// Share of G and C in random bases.
    #[arg(long, value_name = "SHARE", default_value_t = 0.41)]
    pub gc: f64,
    /// The same seed gives the same file.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Generates and writes.
pub fn run(args: &Args, out: &Output) -> Result<()> {
    let two = |names: &[String], option: &str| -> crate::Result<[String; 2]> {
        names.to_vec().try_into().map_err(|_| crate::Error::config(option, "name two motifs, A,B"))
    };
    let options = SynthOptions {
        level: args.level,
        samples: [args.train, args.validation, args.test],
        lengths: [args.enhancer_length, args.promoter_length],
        copies: args.copies,
        motifs: [two(&args.enhancer_motifs, "--enhancer-motifs")?, two(&args.promoter_motifs, "--promoter-motifs")?],
        both_strands: args.both_strands,
        contigs: [args.train_contigs.clone(), args.test_contigs.clone()],
        gc: args.gc,
        seed: args.seed,
    };
    let mut inputs = json!({});
    let motifs = match &args.motifs {
        Some(path) => {
            inputs["motifs"] = provenance(path)?;
            meme::read(path)?
        }
        None => meme::built_in(),
    };
    let mut contents = match (&args.genome, &args.data) {
        (Some(path), _) => {
            inputs["genome"] = provenance(path)?;
            let wanted = options.contigs.iter().flatten().cloned().collect();
            synth::generate(&options, &motifs, Background::Genome(&Genome::open(path, Some(&wanted))?))?
        }
        (None, Some(path)) => {
            let built_in = path.as_os_str() == "demo" && !path.exists();
            let dataset = if built_in { demo::demo()? } else { Dataset::open(path)? };
            synth::generate(&options, &motifs, Background::Windows(&dataset))?
        }
        (None, None) => synth::generate(&options, &motifs, Background::Random)?,
    };
    contents.source["inputs"] = inputs;
    contents.write(&args.out)?;
    let (n, positives) = (contents.pairs.rows.len(), contents.pairs.positives());
    out.line(format!(
        "{}: {n} samples ({} train, {} validation, {} test), {positives} positive",
        args.out.display(),
        args.train,
        args.validation,
        args.test
    ));
    out.document(&json!({"out": args.out, "pairs": n, "positives": positives, "truth": contents.source["truth"]}));
    Ok(())
}
