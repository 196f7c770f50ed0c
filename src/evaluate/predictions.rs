//! `predictions.tsv`: every scored pair, with what is needed to score and to compare it again.

use super::{FoldScores, Options, Pooled};
use crate::data::dataset::write_atomically;
use crate::data::split::Units;
use crate::data::{Element, PairTable};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One line of `predictions.tsv`. Coordinates are 0-based, half-open, and empty where they are unknown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Row of the data set (of the enhancer, where a protocol joins two rows).
    pub row: u32,
    pub cell_line: String,
    pub enh_chrom: Option<String>,
    pub enh_start: Option<i64>,
    pub enh_end: Option<i64>,
    pub prom_chrom: Option<String>,
    pub prom_start: Option<i64>,
    pub prom_end: Option<i64>,
    pub label: u8,
    /// Probability of interaction.
    pub score: f32,
    /// 1 when the score reaches the threshold chosen on validation.
    pub call: u8,
    pub fold: u32,
    /// What intervals resample this pair with: a chromosome or a component.
    pub unit: String,
    /// The protocol, with `:LEAKY` where it is.
    pub split: String,
}

/// The lines of `predictions.tsv`, fold after fold.
///
/// # Errors
/// As [`super::evaluate`].
pub fn predictions(table: &PairTable, folds: &[FoldScores], options: &Options) -> Result<Vec<Prediction>> {
    let pooled = Pooled::of(table, folds)?;
    let units = Units::of(table, &pooled.samples, options.padding);
    let named = |unit: u32, contig: Option<u32>| match (units.unit, contig) {
        ("chromosomes", Some(c)) => table.contigs[c as usize].clone(),
        _ => format!("component{unit}"),
    };
    let place = |e: &Element| {
        let name = e.contig.map(|c| table.contigs[c as usize].clone());
        let known = name.is_some();
        (name, known.then_some(e.start), known.then_some(e.end))
    };
    let line = |i: usize| {
        let (sample, split) = (&pooled.samples[i], folds[pooled.fold[i]].split);
        let (e, p) = (&table.enhancers[sample.enhancer as usize], &table.promoters[sample.promoter as usize]);
        let ((enh_chrom, enh_start, enh_end), (prom_chrom, prom_start, prom_end)) = (place(e), place(p));
        Prediction {
            row: sample.row,
            cell_line: table.cell_lines[table.rows[sample.row as usize].cell_line as usize].clone(),
            enh_chrom,
            enh_start,
            enh_end,
            prom_chrom,
            prom_start,
            prom_end,
            label: sample.label,
            score: pooled.scores[i] as f32,
            call: pooled.calls[i].into(),
            fold: split.fold,
            unit: named(units.of[i], e.contig),
            split: format!("{}{}", split.kind, if split.leaky { ":LEAKY" } else { "" }),
        }
    };
    Ok((0..pooled.samples.len()).map(line).collect())
}

/// Writes `predictions.tsv`; the file appears under its name only when it is complete.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be written to.
pub fn write_predictions(path: &Path, predictions: &[Prediction]) -> Result<()> {
    write_atomically(path, |out| {
        let mut writer = csv::WriterBuilder::new().delimiter(b'\t').from_writer(out);
        predictions.iter().try_for_each(|p| writer.serialize(p))?;
        writer.flush()
    })
}

/// Reads `predictions.tsv`.
///
/// # Errors
/// [`Error::Io`], or [`Error::Input`] with the line that is not a prediction.
pub fn read_predictions(path: &Path) -> Result<Vec<Prediction>> {
    let file = std::fs::File::open(path).map_err(Error::io(path))?;
    let mut reader = csv::ReaderBuilder::new().delimiter(b'\t').from_reader(file);
    let bad = |e: csv::Error| {
        let line = e.position().map(csv::Position::line);
        Error::input(path, line, format!("not a line of predictions.tsv: {e}"))
    };
    let all: Vec<Prediction> = reader.deserialize().collect::<std::result::Result<_, _>>().map_err(bad)?;
    if let Some(at) = all.iter().position(|p| p.label > 1 || !p.score.is_finite()) {
        return Err(Error::input(path, at as u64 + 2, "a label must be 0 or 1 and a score a finite number"));
    }
    Ok(all)
}
