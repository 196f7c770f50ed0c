//! `epi-engine inspect`: what a data set holds and where it came from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::Output;
use crate::data::{Dataset, PairTable, Side};

/// Says what a data set holds: pairs by cell line and chromosome, window lengths, source.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  epi-engine inspect pairs.epi --verify")]
pub struct Args {
    /// The data set.
    #[arg(value_name = "X.epi")]
    pub data: PathBuf,
    /// Also read all sequences and check them against their SHA-256.
    #[arg(long)]
    pub verify: bool,
}

/// Opens, counts and prints.
pub fn run(args: &Args, out: &Output) -> Result<()> {
    let dataset = Dataset::open(&args.data)?;
    if args.verify {
        dataset.verify()?;
    }
    let mut summary = summary(&dataset);
    summary["verified"] = args.verify.into();
    out.document(&summary);
    print(&dataset, args.verify, out);
    Ok(())
}

#[derive(Default)]
struct Count {
    pairs: usize,
    positives: usize,
}

impl Count {
    fn json(&self) -> Value {
        json!({"pairs": self.pairs, "positives": self.positives, "negatives": self.pairs - self.positives})
    }
}

/// Pairs by a name of each row, in the natural order of names (chr2 before chr10).
fn counts<'a>(table: &'a PairTable, name: impl Fn(usize) -> &'a str) -> Vec<(&'a str, Count)> {
    let mut counts: BTreeMap<&str, Count> = BTreeMap::new();
    for (r, row) in table.rows.iter().enumerate() {
        let count = counts.entry(name(r)).or_default();
        count.pairs += 1;
        count.positives += usize::from(row.label);
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    let number = |name: &str| name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(u64::MAX);
    counts.sort_by_key(|(name, _)| number(name));
    counts
}

fn cell_lines(table: &PairTable) -> Vec<(&str, Count)> {
    counts(table, |r| &table.cell_lines[table.rows[r].cell_line as usize])
}

fn chromosomes(table: &PairTable) -> Vec<(&str, Count)> {
    counts(table, |r| table.contig(r).unwrap_or("(no coordinates)"))
}

/// The JSON keys of `inspect`.
pub fn summary(dataset: &Dataset) -> Value {
    let table = dataset.table();
    let object = |counts: Vec<(&str, Count)>| -> Value {
        Value::Object(counts.into_iter().map(|(name, count)| (name.to_string(), count.json())).collect())
    };
    let columns: Map<_, _> = table.columns.iter().map(|(n, c)| (n.clone(), c.values.len().into())).collect();
    json!({
        "pairs": dataset.len(),
        "positives": table.positives(),
        "cell_lines": object(cell_lines(table)),
        "chromosomes": object(chromosomes(table)),
        "enhancer_length": dataset.enhancer_length(),
        "promoter_length": dataset.promoter_length(),
        "flank": dataset.flank(),
        "enhancers": table.enhancers.len(),
        "promoters": table.promoters.len(),
        "windows": {"enhancer": dataset.windows(Side::Enhancer), "promoter": dataset.windows(Side::Promoter)},
        "columns": columns,
        "planted_motifs": dataset.placements().len(),
        "fingerprint": dataset.fingerprint(),
        "source": dataset.info(),
    })
}

fn print(dataset: &Dataset, verified: bool, out: &Output) {
    let table = dataset.table();
    let positives = table.positives();
    let share = 100.0 * positives as f64 / dataset.len().max(1) as f64;
    out.line(format!("{}: {} pairs, {positives} positive ({share:.1} %)", dataset.path().display(), dataset.len()));
    let (e, p) = (table.enhancers.len(), table.promoters.len());
    out.line(format!("  {e} enhancers of {} bp, {p} promoters of {} bp", table.enhancer_length, table.promoter_length));
    out.line(format!("  {} bp stored beyond each end for shifting", dataset.flank()));
    for (title, counts) in [("cell line", cell_lines(table)), ("chromosome", chromosomes(table))] {
        out.line(format!("\n  {title:<28} {:>9} {:>9} {:>9}", "pairs", "positive", "negative"));
        for (name, count) in counts {
            let negatives = count.pairs - count.positives;
            out.line(format!("  {name:<28} {:>9} {:>9} {negatives:>9}", count.pairs, count.positives));
        }
    }
    for (name, column) in &table.columns {
        let some: Vec<&str> = column.values.iter().take(6).map(String::as_str).collect();
        let more = if column.values.len() > 6 { ", …" } else { "" };
        out.line(format!("\n  column {name}: {} values ({}{more})", column.values.len(), some.join(", ")));
    }
    if !dataset.placements().is_empty() {
        out.line(format!("\n  synthetic: {} planted motifs, kept as truth", dataset.placements().len()));
    }
    out.line(format!("\n  source {:#}", dataset.info()));
    out.line(if verified { "  sequences verified" } else { "  sequences not verified (--verify reads them all)" });
}
