//! Which pairs are explained, and where their bases lie in the genome.

use crate::data::{Dataset, Sample, Side};
use crate::error::{Error, Result};

/// One pair of a data set.
#[derive(Clone, Debug)]
pub struct Place {
    /// Row of the data set.
    pub row: u32,
    pub sample: Sample,
    pub cell_line: String,
    /// Contig of each window; `None` without coordinates.
    pub contigs: [Option<String>; 2],
    /// First base of each window, 0-based.
    pub starts: [i64; 2],
    /// Bases of each window.
    pub lengths: [usize; 2],
    /// Bases between the centres of the elements.
    pub distance: Option<i64>,
}

/// Names of the sides in files.
pub const SIDES: [&str; 2] = ["enhancer", "promoter"];

impl Place {
    /// The pair in `row`.
    pub fn of(dataset: &Dataset, row: u32) -> Result<Self> {
        let table = dataset.table();
        if row as usize >= table.rows.len() {
            let message = format!("row {row}: {} holds rows 0 to {}", dataset.path().display(), table.rows.len() - 1);
            return Err(Error::config("--rows", message));
        }
        let sides = [Side::Enhancer, Side::Promoter];
        let element = |side| table.element(side, row as usize);
        Ok(Place {
            row,
            sample: table.sample(row as usize),
            cell_line: table.cell_lines[table.rows[row as usize].cell_line as usize].clone(),
            contigs: sides.map(|s| element(s).contig.map(|c| table.contigs[c as usize].clone())),
            starts: sides.map(|s| element(s).window_start(table.length(s))),
            lengths: sides.map(|s| table.length(s)),
            distance: table.distance(row as usize),
        })
    }
    /// Contig and 0-based position of base `i` of a window, tab-separated; dots without coordinates.
    pub fn base(&self, side: usize, i: usize) -> String {
        match &self.contigs[side] {
            Some(contig) => format!("{contig}\t{}", self.starts[side] + i as i64),
            None => ".\t.".into(),
        }
    }
    /// The window of a side as `contig:start-end`.
    pub fn window(&self, side: usize) -> String {
        let start = self.starts[side];
        match &self.contigs[side] {
            Some(contig) => format!("{contig}:{start}-{}", start + self.lengths[side] as i64),
            None => ".".into(),
        }
    }
    /// For the head of a drawing.
    pub fn title(&self, side: usize) -> String {
        let place = self.contigs[side].as_ref().map_or(String::new(), |_| format!(" {}", self.window(side)));
        format!("row {} {}{place} ({})", self.row, SIDES[side], self.cell_line)
    }
}

/// A base as a letter.
pub fn letter(code: u8) -> char {
    char::from(b"ACGTN"[usize::from(code.min(4))])
}

/// Bases as letters.
pub fn letters(codes: &[u8]) -> String {
    codes.iter().map(|&c| letter(c)).collect()
}
