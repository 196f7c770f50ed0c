//! The pair table: which enhancer goes with which promoter, and everything known about the pair but its sequence.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Which of the two windows of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    Enhancer,
    Promoter,
}

/// An interval of the genome, 0-based and half-open, or a bare sequence without coordinates.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Element {
    /// Index into [`PairTable::contigs`]; `None` when only the sequence is known.
    pub contig: Option<u32>,
    pub start: i64,
    pub end: i64,
}

impl Element {
    /// First base of a window of `length` bases centred on the element: `(start + end)/2 - length/2`, rounded down.
    pub fn window_start(&self, length: usize) -> i64 {
        (self.start + self.end).div_euclid(2) - length as i64 / 2
    }
    /// Whether the windows of `length` bases of two elements, padded by `flank` on each side, share a base.
    pub fn windows_overlap(&self, other: &Element, length: usize, other_length: usize, flank: i64) -> bool {
        let (a, b) = (self.window_start(length), other.window_start(other_length));
        self.contig.is_some()
            && self.contig == other.contig
            && a - flank < b + other_length as i64 + flank
            && b - flank < a + length as i64 + flank
    }
}

/// One labelled pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Index into [`PairTable::enhancers`].
    pub enhancer: u32,
    /// Index into [`PairTable::promoters`].
    pub promoter: u32,
    /// 1 = interacting, 0 = not.
    pub label: u8,
    /// Index into [`PairTable::cell_lines`].
    pub cell_line: u16,
}

/// One thing to train on or to score, as a split hands it out: two elements, joined, with the label they are given.
///
/// Sound splits hand out rows of the table as they are. `paper-code` joins the enhancer of one row with the promoter of
/// another, `paper-text` hands out copies that are shifted already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Index into [`PairTable::enhancers`].
    pub enhancer: u32,
    /// Index into [`PairTable::promoters`].
    pub promoter: u32,
    /// 1 = interacting, 0 = not.
    pub label: u8,
    /// Row of the table that it comes from (that of the enhancer where two rows were joined).
    pub row: u32,
    /// Whole bases by which the split has moved the enhancer's and the promoter's window; training may add its own.
    pub shift: [i16; 2],
}

impl Sample {
    /// The element index of one side.
    pub fn element(&self, side: Side) -> u32 {
        match side {
            Side::Enhancer => self.enhancer,
            Side::Promoter => self.promoter,
        }
    }
}

/// A further named column of text values, dictionary-coded: `values[codes[row]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Column {
    pub values: Vec<String>,
    pub codes: Vec<u32>,
}

/// All pairs of a data set. Elements are unique: one entry per distinct interval (or sequence), however often it is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairTable {
    pub contigs: Vec<String>,
    pub enhancers: Vec<Element>,
    pub promoters: Vec<Element>,
    pub cell_lines: Vec<String>,
    pub rows: Vec<Row>,
    /// Further columns of the source by name (for `column:NAME` splits).
    pub columns: BTreeMap<String, Column>,
    /// Window lengths in bases.
    pub enhancer_length: usize,
    pub promoter_length: usize,
}

impl PairTable {
    /// The elements of one side.
    pub fn elements(&self, side: Side) -> &[Element] {
        match side {
            Side::Enhancer => &self.enhancers,
            Side::Promoter => &self.promoters,
        }
    }
    /// Window length of one side, in bases.
    pub fn length(&self, side: Side) -> usize {
        match side {
            Side::Enhancer => self.enhancer_length,
            Side::Promoter => self.promoter_length,
        }
    }
    /// The element of one side of row `row`.
    pub fn element(&self, side: Side, row: usize) -> &Element {
        match side {
            Side::Enhancer => &self.enhancers[self.rows[row].enhancer as usize],
            Side::Promoter => &self.promoters[self.rows[row].promoter as usize],
        }
    }
    /// Row `row` as it stands, unshifted.
    pub fn sample(&self, row: usize) -> Sample {
        let Row { enhancer, promoter, label, .. } = self.rows[row];
        Sample { enhancer, promoter, label, row: row as u32, shift: [0; 2] }
    }
    /// Name of the contig of the enhancer of a row, if it has coordinates.
    pub fn contig(&self, row: usize) -> Option<&str> {
        self.element(Side::Enhancer, row).contig.map(|c| self.contigs[c as usize].as_str())
    }
    /// Distance between the centres of the two elements of a row, if both lie on one contig.
    pub fn distance(&self, row: usize) -> Option<i64> {
        self.sample_distance(&self.sample(row))
    }
    /// Distance between the centres of the two elements of a sample, if both lie on one contig.
    pub fn sample_distance(&self, sample: &Sample) -> Option<i64> {
        let (e, p) = (&self.enhancers[sample.enhancer as usize], &self.promoters[sample.promoter as usize]);
        (e.contig.is_some() && e.contig == p.contig).then(|| ((e.start + e.end) - (p.start + p.end)).abs() / 2)
    }
    /// Pairs and positives of each cell line among `rows`, as `metrics.json` holds them.
    pub fn cell_line_counts(&self, rows: impl Iterator<Item = u32>) -> Value {
        let mut counts = vec![[0u64; 2]; self.cell_lines.len()];
        for row in rows.map(|r| &self.rows[r as usize]) {
            let [pairs, positives] = &mut counts[row.cell_line as usize];
            (*pairs, *positives) = (*pairs + 1, *positives + u64::from(row.label));
        }
        let one =
            |(name, [n, positives]): (&String, [u64; 2])| (name.clone(), json!({ "pairs": n, "positives": positives }));
        self.cell_lines.iter().zip(counts).filter(|(_, [n, _])| *n > 0).map(one).collect::<Map<_, _>>().into()
    }
    /// Number of interacting pairs.
    pub fn positives(&self) -> usize {
        self.rows.iter().filter(|r| r.label == 1).count()
    }
}
