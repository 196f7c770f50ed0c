//! Pairs as published: TargetFinder's CSV, BEDPE, and tables with a header, plain or compressed.

pub(crate) mod columns;
pub(crate) mod rows;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::data::genome::other_convention;
use crate::data::input::Lines;
use crate::data::notes::Notes;
use crate::data::prepare::parse_interval;
use crate::data::table::{Column, Element, PairTable, Row};
use crate::{Error, Result};

pub use columns::{Field, Naming};
use columns::{IDS, INTERVALS, Layout};
use rows::{Shape, split};

/// How a table is to be understood.
#[derive(Clone, Debug, Default)]
pub struct PairsOptions {
    /// Columns named by the user.
    pub columns: Naming,
    /// Label of every row, when no column holds it.
    pub label: Option<u8>,
    /// Cell line of every row, whatever a column says.
    pub cell_line: Option<String>,
    /// The first anchor of BEDPE is the promoter.
    pub promoter_first: bool,
    /// Only rows whose elements both lie on these contigs (either naming convention) or within these intervals of
    /// theirs; others are counted.
    pub only_contigs: Option<Vec<Region>>,
    /// Keep only rows of these cell lines, as the table names them.
    pub only_cell_lines: Option<HashSet<String>>,
    /// Drop and count contradictory rows instead of refusing them.
    pub lenient: bool,
    /// Labels may be absent (then 0): for scoring.
    pub unlabelled: bool,
    /// The windows are already cut: elements are told apart by name too, and need no coordinates; in a table without
    /// names every row is kept, because row order is what joins it to the windows.
    pub by_id: bool,
    /// Keep every row, so that row order means something.
    pub keep_all: bool,
}

/// A contig, or an interval of it: `chr20`, `chr22:0-22000000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    pub contig: String,
    pub interval: Option<(i64, i64)>,
}

impl std::str::FromStr for Region {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match parse_interval(text) {
            Some((contig, start, end)) => Ok(Region { contig: contig.into(), interval: Some((start, end)) }),
            None if text.is_empty() || text.contains([':', '-', ' ']) => {
                Err(Error::config("--only-contigs", format!("`{text}` is neither a contig nor contig:start-end")))
            }
            None => Ok(Region { contig: text.into(), interval: None }),
        }
    }
}

impl Region {
    fn contains(&self, contig: &str, start: i64, end: i64) -> bool {
        (self.contig == contig || other_convention(&self.contig) == contig)
            && self.interval.is_none_or(|(from, to)| from <= start && end <= to)
    }
}

/// A table that was read.
#[derive(Clone, Debug)]
pub struct Pairs {
    /// Window lengths are 0 until sequences are attached.
    pub table: PairTable,
    /// Line of each row.
    pub lines: Vec<u64>,
    /// Name of each element, per side, where the table gives one.
    pub ids: [Vec<Option<String>>; 2],
    pub notes: Notes,
    pub path: PathBuf,
}

impl Pairs {
    /// An error at a row.
    pub fn error(&self, row: usize, message: impl Into<String>) -> Error {
        Error::input(&self.path, self.lines[row], message)
    }
    /// Place of a row, for a note.
    pub fn place(&self, row: usize) -> String {
        place(&self.path, self.lines[row])
    }
    /// Keeps the rows that `keep` allows, and only the elements that they use.
    pub fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) {
        let kept: Vec<usize> = (0..self.table.rows.len()).filter(|&r| keep(r)).collect();
        let mut ids = std::mem::take(&mut self.ids);
        self.table.rows = kept.iter().map(|&r| self.table.rows[r]).collect();
        self.lines = kept.iter().map(|&r| self.lines[r]).collect();
        for column in self.table.columns.values_mut() {
            column.codes = kept.iter().map(|&r| column.codes[r]).collect();
        }
        let table = &mut self.table;
        compact(&mut table.enhancers, &mut ids[0], table.rows.iter_mut().map(|r| &mut r.enhancer));
        compact(&mut table.promoters, &mut ids[1], table.rows.iter_mut().map(|r| &mut r.promoter));
        self.ids = ids;
        for column in table.columns.values_mut() {
            compact(&mut column.values, &mut Vec::<()>::new(), column.codes.iter_mut());
        }
        let mut cells: Vec<u32> = table.rows.iter().map(|r| u32::from(r.cell_line)).collect();
        compact(&mut table.cell_lines, &mut Vec::<()>::new(), cells.iter_mut());
        table.rows.iter_mut().zip(cells).for_each(|(row, cell)| row.cell_line = cell as u16);
        let mut contigs: Vec<u32> = Vec::new();
        let elements = || table.enhancers.iter().chain(&table.promoters);
        contigs.extend(elements().filter_map(|e| e.contig));
        compact(&mut table.contigs, &mut Vec::<()>::new(), contigs.iter_mut());
        let mut contigs = contigs.into_iter();
        for element in table.enhancers.iter_mut().chain(&mut table.promoters) {
            element.contig = element.contig.and_then(|_| contigs.next());
        }
    }
}

/// Name of the file and line: data sets must not depend on the folder in which they are made.
fn place(path: &Path, line: u64) -> String {
    format!("{}:{line}", path.file_name().unwrap_or_default().to_string_lossy())
}

/// Drops the items that no index uses, and renumbers the indices; `beside` follows `items` unless it is empty.
fn compact<'a, T: Clone, U: Clone>(
    items: &mut Vec<T>,
    beside: &mut Vec<U>,
    indices: impl Iterator<Item = &'a mut u32>,
) {
    let mut new = vec![u32::MAX; items.len()];
    let (mut kept, mut kept_beside) = (Vec::new(), Vec::new());
    for index in indices {
        let slot = &mut new[*index as usize];
        if *slot == u32::MAX {
            *slot = kept.len() as u32;
            kept.push(items[*index as usize].clone());
            if let Some(item) = beside.get(*index as usize) {
                kept_beside.push(item.clone());
            }
        }
        *index = *slot;
    }
    (*items, *beside) = (kept, kept_beside);
}

/// Reads a table of pairs. Exact duplicates are dropped and counted; everything else that is wrong is an error that
/// names file and line.
pub fn read(path: impl AsRef<Path>, options: &PairsOptions) -> Result<Pairs> {
    let path = path.as_ref();
    let mut lines = Lines::open(path)?;
    let mut builder = Builder::new(path, options);
    let mut table: Option<(Shape, Layout)> = None;
    let mut fields = Vec::new();
    let bedpe_name = path.to_string_lossy().trim_end_matches(".gz").trim_end_matches(".bgz").ends_with(".bedpe");
    while let Some(text) = lines.next_line()? {
        // A BEDPE header starts with `#chrom1`; other `#` lines are comments, as are browser and track lines.
        let heading = text.strip_prefix('#').filter(|rest| table.is_none() && rest.trim_start().starts_with("chr"));
        let text = heading.map_or(text, str::trim_start).to_string();
        let number = lines.number();
        if text.trim().is_empty() || text.starts_with('#') || text.starts_with("track ") || text.starts_with("browser ")
        {
            continue;
        }
        let Some((shape, layout)) = &table else {
            let shape = Shape::of(&text);
            split(&text, shape.delimiter, &mut fields).map_err(|m| Error::input(path, number, m))?;
            let names: Vec<&str> = fields.iter().map(|f| f.as_ref()).collect();
            let data = bedpe_name && looks_like_bedpe(&names) || options.columns.is_numeric() && looks_numeric(&names);
            let mut layout = match (data, bedpe_name) {
                (true, true) => Layout::bedpe(&options.columns, names.len(), path)?,
                (true, false) => Layout::from_numbers(&options.columns, names.len(), path)?,
                (false, _) => Layout::from_header(&names, &options.columns, path, number)?,
            };
            if options.promoter_first {
                layout.swap();
            }
            builder.check_layout(&mut layout, number)?;
            builder.name_columns(&layout);
            if data {
                builder.row(&fields, &layout, number)?;
            }
            table = Some((Shape { columns: names.len(), ..shape }, layout));
            continue;
        };
        split(&text, shape.delimiter, &mut fields).map_err(|m| Error::input(path, number, m))?;
        if fields.len() != shape.columns {
            let message = format!("{} columns, but the first line has {}", fields.len(), shape.columns);
            return Err(Error::input(path, number, message));
        }
        builder.row(&fields, layout, number)?;
    }
    if table.is_none() {
        return Err(Error::input(path, None, "empty: a table of pairs has a header and at least one row"));
    }
    builder.finish()
}

fn looks_like_bedpe(fields: &[&str]) -> bool {
    fields.len() >= 6 && [1, 2, 4, 5].iter().all(|&i| fields[i].trim().parse::<i64>().is_ok())
}

fn looks_numeric(fields: &[&str]) -> bool {
    fields.iter().any(|f| f.trim().parse::<f64>().is_ok())
}

/// Collects rows, telling elements apart.
struct Builder<'a> {
    path: &'a Path,
    options: &'a PairsOptions,
    table: PairTable,
    lines: Vec<u64>,
    ids: [Vec<Option<String>>; 2],
    notes: Notes,
    keep_all: bool,
    contigs: HashMap<String, u32>,
    elements: [HashMap<(Element, Option<String>), u32>; 2],
    cell_lines: HashMap<String, u16>,
    /// Values of the further columns, as in the layout.
    columns: Vec<(String, Column, HashMap<String, u32>)>,
    /// First row of each (cell line, enhancer, promoter).
    seen: HashMap<(u16, u32, u32), usize>,
    contradictory: HashSet<(u16, u32, u32)>,
}

impl<'a> Builder<'a> {
    fn new(path: &'a Path, options: &'a PairsOptions) -> Self {
        Builder {
            path,
            options,
            table: PairTable::default(),
            lines: Vec::new(),
            ids: [Vec::new(), Vec::new()],
            notes: Notes::default(),
            keep_all: options.keep_all,
            contigs: HashMap::new(),
            elements: [HashMap::new(), HashMap::new()],
            cell_lines: HashMap::new(),
            columns: Vec::new(),
            seen: HashMap::new(),
            contradictory: HashSet::new(),
        }
    }
    fn bad(&self, line: u64, message: impl Into<String>) -> Error {
        Error::input(self.path, line, message)
    }

    fn check_layout(&mut self, layout: &mut Layout, line: u64) -> Result<()> {
        if self.options.by_id {
            let unnamed = layout.missing(&IDS);
            if unnamed.len() == 1 {
                return Err(self.bad(line, format!("no column for {}, the name of its windows", unnamed[0])));
            }
            self.keep_all |= !unnamed.is_empty();
        }
        for fields in &INTERVALS {
            let missing = layout.missing(fields);
            if missing.is_empty() {
                continue;
            }
            if !self.options.by_id {
                let remedy = "name the columns with --columns enhancer_start=NAME,…";
                return Err(self.bad(line, format!("no column for {} in the header; {remedy}", missing.join(", "))));
            }
            fields.iter().for_each(|f| layout.forget(*f));
        }
        if self.options.label.is_some() {
            layout.forget(Field::Label);
        } else if layout.at(Field::Label).is_none() && !self.options.unlabelled {
            return Err(self.bad(line, "no column `label`; name it with --columns label=NAME, or give --label 0|1"));
        }
        Ok(())
    }
    fn name_columns(&mut self, layout: &Layout) {
        self.columns = layout.extra.iter().map(|(_, n)| (n.clone(), Column::default(), HashMap::new())).collect();
    }

    /// Element of one side of a row; `None` when its contig is not among those asked for.
    fn element(
        &mut self,
        side: usize,
        fields: &[std::borrow::Cow<'_, str>],
        layout: &Layout,
        line: u64,
    ) -> Result<Option<(Element, Option<String>)>> {
        let name = ["enhancer", "promoter"][side];
        let id = layout.at(IDS[side]).map(|at| fields[at].trim().to_string()).filter(|id| !id.is_empty());
        let [Some(chrom), Some(start), Some(end)] = INTERVALS[side].map(|f| layout.at(f)) else {
            if !self.keep_all && id.is_none() {
                return Err(self.bad(line, format!("the {name} has neither coordinates nor a name")));
            }
            return Ok(Some((Element { contig: None, start: 0, end: 0 }, id)));
        };
        let chrom = fields[chrom].trim();
        if chrom.is_empty() {
            return Err(self.bad(line, format!("the {name} has no chromosome")));
        }
        let number = |at: usize, what: &str| {
            let text = fields[at].trim();
            let whole = text.strip_suffix(".0").unwrap_or(text).parse::<i64>().ok();
            whole.filter(|n| n.unsigned_abs() < 1 << 40).ok_or_else(|| {
                self.bad(line, format!("the {what} of the {name} is `{text}`, not a position (a whole number)"))
            })
        };
        let (start, end) = (number(start, "start")?, number(end, "end")?);
        if start < 0 || start >= end {
            let message =
                format!("the {name} {chrom}:{start}-{end} is no interval (0-based, half-open: 0 <= start < end)");
            return Err(self.bad(line, message));
        }
        if let Some(only) = &self.options.only_contigs
            && !only.iter().any(|region| region.contains(chrom, start, end))
        {
            return Ok(None);
        }
        let next = self.contigs.len() as u32;
        let contig = match self.contigs.get(chrom) {
            Some(contig) => *contig,
            None => {
                self.table.contigs.push(chrom.to_string());
                *self.contigs.entry(chrom.to_string()).or_insert(next)
            }
        };
        Ok(Some((Element { contig: Some(contig), start, end }, id.filter(|_| self.options.by_id))))
    }

    fn row(&mut self, fields: &[std::borrow::Cow<'_, str>], layout: &Layout, line: u64) -> Result<()> {
        let text = |field| layout.at(field).map(|at| fields[at].trim());
        let label = match (self.options.label, text(Field::Label)) {
            (Some(label), _) => label,
            (None, Some("0" | "0.0")) => 0,
            (None, Some("1" | "1.0")) => 1,
            (None, None | Some("")) if self.options.unlabelled => 0,
            (None, other) => {
                let other = other.unwrap_or_default();
                return Err(self.bad(line, format!("the label is `{other}`; it must be 0 or 1")));
            }
        };
        // TargetFinder's tables name the cell line inside the element's name: `NHEK|chr1:3399800-3400600`.
        let prefix = || text(Field::EnhancerId).and_then(|id| id.split_once('|')).map(|(cell, _)| cell);
        let given = self.options.cell_line.as_deref();
        let written = text(Field::CellLine).or_else(prefix).filter(|c| !c.is_empty());
        let source = written.or(given).unwrap_or("unnamed");
        if self.options.only_cell_lines.as_ref().is_some_and(|only| !only.contains(source)) {
            self.notes.add("row of another cell line, left out as asked", || place(self.path, line));
            return Ok(());
        }
        let cell = given.unwrap_or(source).to_string();
        let mut indices = [0; 2];
        let found = [self.element(0, fields, layout, line)?, self.element(1, fields, layout, line)?];
        let [Some(enhancer), Some(promoter)] = found else {
            self.notes.add("row on another contig, left out as asked", || place(self.path, line));
            return Ok(());
        };
        for (side, key) in [enhancer, promoter].into_iter().enumerate() {
            let next = self.elements[side].len() as u32;
            indices[side] = match self.elements[side].get(&key) {
                Some(index) => *index,
                None => {
                    let elements = if side == 0 { &mut self.table.enhancers } else { &mut self.table.promoters };
                    elements.push(key.0.clone());
                    self.ids[side].push(key.1.clone());
                    *self.elements[side].entry(key).or_insert(next)
                }
            };
        }
        let cell_line = match self.cell_lines.get(&cell) {
            Some(index) => *index,
            None => {
                let next = u16::try_from(self.cell_lines.len());
                let next =
                    next.map_err(|_| self.bad(line, "more than 65,535 cell lines: is that the right column?"))?;
                self.table.cell_lines.push(cell.clone());
                *self.cell_lines.entry(cell).or_insert(next)
            }
        };
        let row = Row { enhancer: indices[0], promoter: indices[1], label, cell_line };
        let key = (cell_line, row.enhancer, row.promoter);
        if !self.keep_all {
            if let Some(&first) = self.seen.get(&key) {
                let (other, first) = (self.table.rows[first].label, self.lines[first]);
                if other == label {
                    self.notes.add("duplicate row, kept once", || place(self.path, line));
                    return Ok(());
                }
                if !self.options.lenient {
                    let message = format!("contradicts line {first}: the same pair and cell line, but label {other}");
                    return Err(self.bad(line, format!("{message} (--lenient drops both, and counts them)")));
                }
                self.contradictory.insert(key);
                self.notes.add("contradictory row, dropped with its counterpart", || place(self.path, line));
                return Ok(());
            }
            self.seen.insert(key, self.table.rows.len());
        }
        if self.table.rows.len() >= u32::MAX as usize {
            return Err(self.bad(line, "more than four thousand million rows"));
        }
        self.table.rows.push(row);
        self.lines.push(line);
        for ((_, column, known), (at, _)) in self.columns.iter_mut().zip(&layout.extra) {
            let value = fields[*at].trim();
            let code = match known.get(value) {
                Some(code) => *code,
                None => {
                    column.values.push(value.to_string());
                    *known.entry(value.to_string()).or_insert(column.values.len() as u32 - 1)
                }
            };
            column.codes.push(code);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Pairs> {
        self.table.columns = self.columns.into_iter().map(|(name, column, _)| (name, column)).collect();
        let (table, lines, ids, notes) = (self.table, self.lines, self.ids, self.notes);
        let mut pairs = Pairs { table, lines, ids, notes, path: self.path.to_path_buf() };
        if !self.contradictory.is_empty() {
            let keys: Vec<_> = pairs.table.rows.iter().map(|r| (r.cell_line, r.enhancer, r.promoter)).collect();
            pairs.retain(|r| !self.contradictory.contains(&keys[r]));
        }
        if pairs.table.rows.is_empty() {
            let why: Vec<String> = pairs.notes.iter().map(|n| n.to_string()).collect();
            let why = if why.is_empty() { String::new() } else { format!(": {}", why.join("; ")) };
            return Err(Error::input(self.path, None, format!("no pair is left{why}")));
        }
        Ok(pairs)
    }
}
