//! Which column of a table means what.

use std::collections::HashMap;
use std::path::Path;

use crate::{Error, Result};

/// What a column of a pair table can mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    EnhancerChrom,
    EnhancerStart,
    EnhancerEnd,
    PromoterChrom,
    PromoterStart,
    PromoterEnd,
    Label,
    CellLine,
    EnhancerId,
    PromoterId,
}

use Field::*;

/// Every field with the name that `--columns` knows it by, and the header names that are understood without it.
const FIELDS: [(Field, &str, &[&str]); 10] = [
    (EnhancerChrom, "enhancer_chrom", &["enhancer_chrom", "enh_chrom", "enhancer_chr", "chrom1", "chrom", "chr"]),
    (EnhancerStart, "enhancer_start", &["enhancer_start", "enh_start", "start1"]),
    (EnhancerEnd, "enhancer_end", &["enhancer_end", "enh_end", "end1"]),
    (PromoterChrom, "promoter_chrom", &["promoter_chrom", "prom_chrom", "promoter_chr", "chrom2", "chrom", "chr"]),
    (PromoterStart, "promoter_start", &["promoter_start", "prom_start", "start2"]),
    (PromoterEnd, "promoter_end", &["promoter_end", "prom_end", "end2"]),
    (Label, "label", &["label"]),
    (CellLine, "cell_line", &["cell_line", "dataset", "cell"]),
    (EnhancerId, "enhancer_id", &["enh_win", "enh_id", "enhancer_id", "enhancer_name"]),
    (PromoterId, "promoter_id", &["prom_win", "prom_id", "promoter_id", "promoter_name"]),
];

/// Columns that follow from others, and TargetFinder's measurements, are not kept as further columns.
const DERIVED: [&str; 12] = [
    "distance",
    "enhancer_distance_to_promoter",
    "enh_win",
    "prom_win",
    "enhancer_name",
    "promoter_name",
    "window_chrom",
    "window_start",
    "window_end",
    "window_name",
    "interactions_in_window",
    "active_promoters_in_window",
];

/// The coordinates of both elements.
pub const INTERVALS: [[Field; 3]; 2] =
    [[EnhancerChrom, EnhancerStart, EnhancerEnd], [PromoterChrom, PromoterStart, PromoterEnd]];
/// The names of both elements.
pub const IDS: [Field; 2] = [EnhancerId, PromoterId];

/// Columns named by the user: `enhancer_start=es,label=7` (a header name or a number from 1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Naming(HashMap<Field, String>);

impl std::str::FromStr for Naming {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let mut named = HashMap::new();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let known = || FIELDS.map(|(_, name, _)| name).join(", ");
            let (field, column) = part
                .split_once('=')
                .ok_or_else(|| Error::config("--columns", format!("`{part}` is not of the form field=column")))?;
            let field = FIELDS.iter().find(|(_, name, _)| *name == field.trim()).ok_or_else(|| {
                Error::config("--columns", format!("no field `{}`; there are: {}", field.trim(), known()))
            })?;
            if named.insert(field.0, column.trim().to_string()).is_some() {
                return Err(Error::config("--columns", format!("`{}` is given twice", field.1)));
            }
        }
        Ok(Naming(named))
    }
}

impl Naming {
    /// Whether every column is given by number, so that no header is needed.
    pub fn is_numeric(&self) -> bool {
        !self.0.is_empty() && self.0.values().all(|v| v.parse::<usize>().is_ok())
    }
}

/// Where each field is, and which columns are left over.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    at: HashMap<Field, usize>,
    /// Further columns to keep: index and name.
    pub extra: Vec<(usize, String)>,
}

impl Layout {
    /// Finds the fields in a header of names; `line` is where it stands.
    pub fn from_header(header: &[&str], naming: &Naming, path: &Path, line: u64) -> Result<Layout> {
        let mut layout = Layout::default();
        let mut used = vec![false; header.len()];
        let names: Vec<&str> = header.iter().map(|name| name.trim()).collect();
        for (field, name, synonyms) in &FIELDS {
            let at = match naming.0.get(field) {
                Some(column) => match names.iter().position(|n| n == column) {
                    Some(at) => Some(at),
                    None => Some(numbered(column, header.len()).ok_or_else(|| {
                        let message = format!("no column `{column}` for {name}; there are: {}", names.join(", "));
                        Error::input(path, line, message)
                    })?),
                },
                None => synonyms.iter().find_map(|s| names.iter().position(|n| n.eq_ignore_ascii_case(s))),
            };
            if let Some(at) = at {
                layout.at.insert(*field, at);
                used[at] = true;
            }
        }
        for (i, name) in names.iter().enumerate() {
            let feature = [" (enhancer)", " (promoter)", " (window)"].iter().any(|end| name.ends_with(end));
            // The data set's own name doubles as the cell line, and is kept for `column:dataset`.
            let kept = *name == "dataset" || !used[i];
            if kept && !name.is_empty() && !feature && !DERIVED.contains(name) {
                if layout.extra.iter().any(|(_, other)| other == name) {
                    return Err(Error::input(path, line, format!("two columns named `{name}`")));
                }
                layout.extra.push((i, name.to_string()));
            }
        }
        Ok(layout)
    }
    /// Fields by number alone.
    pub fn from_numbers(naming: &Naming, columns: usize, path: &Path) -> Result<Layout> {
        let mut layout = Layout::default();
        for (field, column) in &naming.0 {
            let at = numbered(column, columns).ok_or_else(|| {
                Error::input(
                    path,
                    1,
                    format!("no column {column}: the first line has {columns} (numbers count from 1)"),
                )
            })?;
            layout.at.insert(*field, at);
        }
        Ok(layout)
    }
    /// BEDPE without header: chrom1 start1 end1 chrom2 start2 end2 name score …; the label is the score unless named.
    pub fn bedpe(naming: &Naming, columns: usize, path: &Path) -> Result<Layout> {
        let mut layout = Self::from_numbers(naming, columns, path)?;
        for (at, field) in INTERVALS.iter().flatten().enumerate() {
            layout.at.entry(*field).or_insert(at);
        }
        if columns >= 8 {
            layout.at.entry(Label).or_insert(7);
        }
        Ok(layout)
    }
    /// Enhancer and promoter change places (BEDPE whose first anchor is the promoter).
    pub fn swap(&mut self) {
        for (a, b) in INTERVALS[0].into_iter().zip(INTERVALS[1]).chain([(EnhancerId, PromoterId)]) {
            let (x, y) = (self.at.remove(&a), self.at.remove(&b));
            x.map(|x| self.at.insert(b, x));
            y.map(|y| self.at.insert(a, y));
        }
    }
    /// Column of a field.
    pub fn at(&self, field: Field) -> Option<usize> {
        self.at.get(&field).copied()
    }
    /// Takes a field out: its column does not exist as far as rows are concerned.
    pub fn forget(&mut self, field: Field) {
        self.at.remove(&field);
    }
    /// Fields of `fields` that no column holds, by name.
    pub fn missing(&self, fields: &[Field]) -> Vec<&'static str> {
        let absent = |f: &&(Field, &'static str, _)| fields.contains(&f.0) && !self.at.contains_key(&f.0);
        FIELDS.iter().filter(absent).map(|f| f.1).collect()
    }
}

fn numbered(column: &str, columns: usize) -> Option<usize> {
    column.parse::<usize>().ok().filter(|n| (1..=columns).contains(n)).map(|n| n - 1)
}
