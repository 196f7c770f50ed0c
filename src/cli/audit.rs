//! `epi-engine audit`: what a split lets a program score without reading any sequence.

use std::path::PathBuf;
use std::process::ExitCode;

use super::Output;
use super::prepare::TableArgs;
use crate::data::audit::{Audit, AuditSpec, NearDuplicates, audit};
use crate::data::split::{Identity, SplitKind, SplitSpec};
use crate::data::{Dataset, PairTable, pairs};
use crate::{Error, Result};

/// Score a split with element names and distance alone, and count what its parts share
///
/// Exit status 1 when the element lookup beats chance beyond its interval in any cell line: then a model that memorises
/// loci does so too.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  epi-engine audit pairs.epi                                    the default split, by chromosome
  epi-engine audit --pairs pairs.tsv.gz --split random,promoter several splits; no genome needed
  epi-engine audit pairs.epi --split column:fold --fold 0/5     one fold")]
pub struct Args {
    /// Data set made by `epi-engine prepare`
    #[arg(value_name = "X.epi", required_unless_present = "pairs", conflicts_with = "pairs")]
    data: Option<PathBuf>,
    /// Pairs without sequence: TargetFinder CSV, BEDPE, or a table with a header; plain or compressed
    #[arg(long, value_name = "FILE")]
    pairs: Option<PathBuf>,
    /// Split (several: separated by commas): chromosome, column:NAME, component, cross-cell, cross-cell:chromosome, promoter,
    /// enhancer, random, paper-text, paper-code
    #[arg(long, value_name = "S", value_delimiter = ',', default_value = "chromosome")]
    split: Vec<String>,
    /// Audit fold I of K only; `all` (the default) audits each fold
    #[arg(long, value_name = "I/K|all", default_value = "all")]
    fold: String,
    /// Number of folds, when all are audited
    #[arg(long, value_name = "K", default_value_t = 10)]
    folds: u32,
    /// Groups to test on by name (chromosomes, column values, cell lines), instead of folds
    #[arg(long, value_name = "A,B,…", value_delimiter = ',')]
    test: Vec<String>,
    /// Groups to validate on by name
    #[arg(long, value_name = "A,B,…", value_delimiter = ',', requires = "test")]
    validation: Vec<String>,
    /// Largest shift of augmentation: windows are padded by it on both sides before overlaps are sought
    #[arg(long, value_name = "BASES", default_value_t = 100)]
    shift: u32,
    /// Seed of the split and of the bootstrap
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Bootstrap replicates of the intervals
    #[arg(long, default_value_t = 1000)]
    replicates: u32,
    /// Window length of enhancers given by --pairs
    #[arg(long, value_name = "BASES", default_value_t = 3000)]
    enhancer_length: usize,
    /// Window length of promoters given by --pairs
    #[arg(long, value_name = "BASES", default_value_t = 2000)]
    promoter_length: usize,
    #[command(flatten)]
    table: TableArgs,
}

/// Pairs, and what is known of their sequences.
struct Source {
    table: PairTable,
    identity: Option<Identity>,
    near: Option<NearDuplicates>,
}

/// Audits each split, prints, and says by its exit status whether one leaks.
pub fn run(args: &Args, out: &Output) -> anyhow::Result<ExitCode> {
    let specs: Vec<AuditSpec> = args.split.iter().map(|kind| args.spec(kind.parse()?)).collect::<Result<_>>()?;
    let source = args.open(out)?;
    let mut documents = Vec::new();
    let mut leaks = false;
    for (at, spec) in specs.iter().enumerate() {
        let found = audit(&source.table, spec, source.identity.as_ref(), source.near.as_ref())?;
        let blank = if at > 0 { "\n" } else { "" };
        out.line(format!("{blank}{}", found.table().trim_end()));
        warn(&found, out);
        leaks |= found.leaks();
        documents.push(found.to_json());
    }
    match &documents[..] {
        [one] => out.document(one),
        many => out.document(&serde_json::json!({"leaks": leaks, "audits": many})),
    }
    Ok(ExitCode::from(u8::from(leaks)))
}

/// Says each warning once, with the lines that it is about.
fn warn(audit: &Audit, out: &Output) {
    let mut said: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in audit.lines.iter().chain(&audit.together) {
        for warning in &line.warnings {
            match said.iter_mut().find(|(text, _)| text == warning) {
                Some((_, lines)) => lines.push(&line.name),
                None => said.push((warning, vec![&line.name])),
            }
        }
    }
    for (text, lines) in said {
        out.warn(format!("{}: {text} ({})", audit.split, lines.join(", ")));
    }
}

impl Args {
    fn spec(&self, kind: SplitKind) -> Result<AuditSpec> {
        let mut split = SplitSpec {
            folds: Some(self.folds),
            test: self.test.clone(),
            validation: self.validation.clone(),
            shift: self.shift,
            seed: self.seed,
            ..SplitSpec::new(kind)
        };
        let one_fold = self.fold != "all";
        if one_fold {
            let parsed = self.fold.split_once('/').and_then(|(i, k)| Some((i.parse().ok()?, k.parse().ok()?)));
            let (i, k) = parsed.filter(|&(_, k)| k >= 2).ok_or_else(|| {
                Error::config(
                    "--fold",
                    format!("`{}`: expected I/K with I counted from 0 (e.g. 0/5), or all", self.fold),
                )
            })?;
            (split.fold, split.folds) = (i, Some(k));
        }
        if self.folds < 2 {
            return Err(Error::config("--folds", "at least 2 folds are needed"));
        }
        Ok(AuditSpec { split, one_fold, replicates: self.replicates })
    }

    fn open(&self, out: &Output) -> Result<Source> {
        if let Some(path) = &self.data {
            let dataset = Dataset::open(path)?;
            let near = NearDuplicates::find(dataset.table(), |side, element| dataset.codes(side, element));
            let identity = Some(Identity::of(&dataset));
            return Ok(Source { table: dataset.table().clone(), identity, near: Some(near) });
        }
        let path = self.pairs.as_ref().expect("clap asks for a data set or pairs");
        let read = pairs::read(path, &self.table.options())?;
        read.notes.iter().for_each(|note| out.warn(note.to_string()));
        let (enhancer_length, promoter_length) = (self.enhancer_length, self.promoter_length);
        Ok(Source { table: PairTable { enhancer_length, promoter_length, ..read.table }, identity: None, near: None })
    }
}
