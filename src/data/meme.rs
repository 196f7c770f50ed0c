//! Motifs in MEME's minimal text format, plain or compressed.

use std::path::Path;

use crate::data::input::Lines;
use crate::{Error, Result};

/// Widest motif that is believed.
const WIDEST: usize = 1000;

/// One motif: the probability of A, C, G, T at each position.
#[derive(Clone, Debug, PartialEq)]
pub struct Motif {
    /// As the file has it: `MA0139.1_MA0139.1.CTCF`.
    pub id: String,
    pub probabilities: Vec<[f64; 4]>,
}

impl Motif {
    /// Number of positions.
    pub fn width(&self) -> usize {
        self.probabilities.len()
    }
    /// Last word of the id, which is the factor in the usual collections: `CTCF`.
    pub fn factor(&self) -> &str {
        self.id.rsplit(['.', '_', ' ']).next().unwrap_or(&self.id)
    }
    /// The most probable base of every position, as codes.
    pub fn consensus(&self) -> Vec<u8> {
        let best = |p: &[f64; 4]| (1..4).fold(0, |best, i| if p[i] > p[best] { i } else { best }) as u8;
        self.probabilities.iter().map(best).collect()
    }
}

/// The four motifs of the standard synthetic sets (JASPAR 2022): CTCF, REST, NRF1, HNF1A.
pub fn built_in() -> Vec<Motif> {
    let text = include_str!("../../examples/data/motifs.meme");
    let mut parser = Parser::default();
    for line in text.lines() {
        parser.line(line).expect("the motifs compiled in are in order");
    }
    parser.finish().expect("the motifs compiled in are whole")
}

/// Reads all motifs of a file.
pub fn read(path: &Path) -> Result<Vec<Motif>> {
    let mut lines = Lines::open(path)?;
    let mut parser = Parser::default();
    while let Some(text) = lines.next_line()? {
        let text = text.to_string();
        parser.line(&text).map_err(|message| Error::input(path, lines.number(), message))?;
    }
    let number = lines.number();
    parser.finish().map_err(|message| Error::input(path, number, message))
}

/// The motif whose id starts with `prefix`.
pub fn find<'a>(motifs: &'a [Motif], prefix: &str) -> Result<&'a Motif> {
    motifs.iter().find(|m| m.id.starts_with(prefix) || m.factor() == prefix).ok_or_else(|| {
        let some: Vec<&str> = motifs.iter().take(8).map(|m| m.id.as_str()).collect();
        Error::config(
            "--motifs",
            format!("no motif `{prefix}` (there are {}, first: {})", motifs.len(), some.join(", ")),
        )
    })
}

#[derive(Default)]
struct Parser {
    motifs: Vec<Motif>,
    /// Rows of the matrix that are still to come; `None` outside of a matrix.
    rows_left: Option<usize>,
}

impl Parser {
    fn line(&mut self, text: &str) -> std::result::Result<(), String> {
        let text = text.trim();
        let starts_matrix = text.starts_with("letter-probability matrix");
        if let Some(left) = self.rows_left.filter(|left| *left > 0) {
            if text.is_empty() {
                return Ok(());
            }
            let row: Vec<f64> = text.split_whitespace().map_while(|f| f.parse().ok()).collect();
            let row: [f64; 4] = row.try_into().map_err(|_| format!("`{text}` is no row of four probabilities"))?;
            let sum: f64 = row.iter().sum();
            if !row.iter().all(|p| (0.0..=1.0).contains(p)) || (sum - 1.0).abs() > 0.02 {
                return Err(format!("the probabilities `{text}` do not add up to 1"));
            }
            self.motifs.last_mut().expect("in a motif").probabilities.push(row.map(|p| p / sum));
            self.rows_left = Some(left - 1);
        } else if let Some(id) = text.strip_prefix("MOTIF ") {
            if self.motifs.last().is_some_and(|m| m.probabilities.is_empty()) {
                return Err(format!("the motif before `{}` has no matrix", id.trim()));
            }
            self.motifs.push(Motif { id: id.trim().to_string(), probabilities: Vec::new() });
            self.rows_left = None;
        } else if starts_matrix {
            let field = |name: &str| text.split_once(name)?.1.split_whitespace().next()?.parse::<usize>().ok();
            if field("alength=").is_some_and(|n| n != 4) {
                return Err("not a DNA motif (alength is not 4)".into());
            }
            let width = field("w=").filter(|w| (1..=WIDEST).contains(w));
            let width = width.ok_or_else(|| format!("a matrix needs a width w= in 1..={WIDEST}"))?;
            if self.motifs.last().is_none_or(|m| !m.probabilities.is_empty()) {
                return Err("a matrix without a MOTIF line".into());
            }
            self.rows_left = Some(width);
        }
        Ok(())
    }
    fn finish(self) -> std::result::Result<Vec<Motif>, String> {
        if self.rows_left.is_some_and(|left| left > 0) || self.motifs.iter().any(|m| m.probabilities.is_empty()) {
            return Err("the last matrix is not complete".into());
        }
        if self.motifs.is_empty() {
            return Err("no motif: MEME files have lines `MOTIF name` and `letter-probability matrix: …`".into());
        }
        Ok(self.motifs)
    }
}
