//! Windows that are already cut: two FASTA files and a table become a data set. No genome is needed, and coordinates
//! are optional.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use crate::data::fasta::Fasta;
use crate::data::pairs::{self, Pairs};
use crate::data::prepare::parse_interval;
use crate::data::table::{Element, PairTable, Row, Side};
use crate::data::window::index;
use crate::data::{Contents, Notes, PairsOptions};
use crate::{Error, Result};

/// Lengths of the windows; a side without one takes the length that all of its records have.
#[derive(Clone, Copy, Debug, Default)]
pub struct CutOptions {
    pub lengths: [Option<usize>; 2],
    /// Bases to keep beyond each end, where every record is long enough.
    pub flank: usize,
}

/// Longest record that counts as a window.
const LONGEST: usize = crate::data::format::MAX_LENGTH as usize;

/// Reads two FASTA files of windows and a table that names them (`enhancer_id`, `promoter_id`, or `enh_win` and the
/// like) or, without such columns, lists them in the order of the files.
pub fn from_fasta(
    fastas: [&Path; 2],
    table: &Path,
    pairs: &PairsOptions,
    cut: CutOptions,
) -> Result<(Contents, Notes)> {
    let records = [Records::scan(fastas[0], cut.lengths[0])?, Records::scan(fastas[1], cut.lengths[1])?];
    let mut pairs = pairs::read(table, &PairsOptions { by_id: true, ..pairs.clone() })?;
    let mut notes = std::mem::take(&mut pairs.notes);
    let flank = records.iter().map(|r| r.spare()).min().unwrap_or(0).min(cut.flank);
    let shape =
        PairTable { enhancer_length: records[0].length, promoter_length: records[1].length, ..PairTable::default() };
    let mut contents = Contents::new(shape, flank, Value::Null);
    let mut rows: [Vec<u32>; 2] = Default::default();
    for side in [Side::Enhancer, Side::Promoter] {
        let (s, records) = (index(side), &records[index(side)]);
        let windows = records.push_all(flank, &mut contents.windows[s], &mut notes)?;
        rows[s] = assign(&pairs, side, records, &windows)?;
    }
    adopt_coordinates(&mut pairs);
    join(pairs, &rows, &mut contents);
    Ok((contents, notes))
}

/// Window of every row of the table.
fn assign(pairs: &Pairs, side: Side, records: &Records, windows: &[u32]) -> Result<Vec<u32>> {
    let name = if side == Side::Enhancer { "enhancer" } else { "promoter" };
    let ids = &pairs.ids[index(side)];
    if ids.iter().all(Option::is_none) {
        if windows.len() != pairs.table.rows.len() {
            let message = format!(
                "{} rows, but {} has {} records: without columns enhancer_id and promoter_id they are matched in order",
                pairs.table.rows.len(),
                records.path.display(),
                windows.len()
            );
            return Err(Error::input(&pairs.path, None, message));
        }
        return Ok(windows.to_vec());
    }
    let of_row = |row: &Row| if side == Side::Enhancer { row.enhancer } else { row.promoter };
    let lookup = |(r, row): (usize, &Row)| {
        let id = ids[of_row(row) as usize].as_deref();
        let id = id.ok_or_else(|| pairs.error(r, format!("the {name} has no name")))?;
        let record = records.by_name.get(id);
        let record = record.or_else(|| records.by_name.get(id.split_once('|')?.1));
        let record = record
            .ok_or_else(|| pairs.error(r, format!("no record `{id}` for the {name} in {}", records.path.display())))?;
        Ok(windows[*record])
    };
    pairs.table.rows.iter().enumerate().map(lookup).collect()
}

/// Takes coordinates from the names of elements, if the table has none and every name is of the form contig:start-end.
fn adopt_coordinates(pairs: &mut Pairs) {
    let table = &mut pairs.table;
    let elements = table.enhancers.iter().chain(&table.promoters);
    let names: Vec<_> = pairs.ids.iter().flatten().map(|id| id.as_deref().and_then(parse_interval)).collect();
    if elements.clone().any(|e| e.contig.is_some()) || names.iter().any(Option::is_none) {
        return;
    }
    let elements = table.enhancers.iter_mut().chain(&mut table.promoters);
    for (element, (name, start, end)) in elements.zip(names.into_iter().flatten()) {
        let known = table.contigs.iter().position(|c| c == name);
        let contig = known.unwrap_or_else(|| {
            table.contigs.push(name.to_string());
            table.contigs.len() - 1
        });
        *element = Element { contig: Some(contig as u32), start, end };
    }
}

/// Completes `contents`, whose windows are there, with the table: an element is a distinct pair of interval and window.
pub fn join(pairs: Pairs, row_windows: &[Vec<u32>; 2], contents: &mut Contents) {
    let lengths = [contents.pairs.enhancer_length, contents.pairs.promoter_length];
    let old = [pairs.table.enhancers, pairs.table.promoters];
    contents.pairs = PairTable {
        contigs: pairs.table.contigs,
        cell_lines: pairs.table.cell_lines,
        rows: pairs.table.rows,
        columns: pairs.table.columns,
        enhancer_length: lengths[0],
        promoter_length: lengths[1],
        ..PairTable::default()
    };
    for side in [Side::Enhancer, Side::Promoter] {
        let s = index(side);
        let (mut elements, mut of_element) = (Vec::new(), Vec::new());
        let mut known: HashMap<(Element, u32), u32> = HashMap::new();
        for (row, &window) in contents.pairs.rows.iter_mut().zip(&row_windows[s]) {
            let slot = if s == 0 { &mut row.enhancer } else { &mut row.promoter };
            let mut element = old[s][*slot as usize].clone();
            if element.contig.is_none() {
                element = Element { contig: None, start: 0, end: lengths[s] as i64 };
            }
            let next = elements.len() as u32;
            *slot = *known.entry((element.clone(), window)).or_insert_with(|| {
                elements.push(element);
                of_element.push(window);
                next
            });
        }
        contents.windows[s].of_element = of_element;
        if s == 0 {
            contents.pairs.enhancers = elements;
        } else {
            contents.pairs.promoters = elements;
        }
    }
}

/// What a first pass over a FASTA file of windows tells.
struct Records<'a> {
    path: &'a Path,
    /// Bases of a window.
    length: usize,
    shortest: usize,
    by_name: HashMap<String, usize>,
}

impl<'a> Records<'a> {
    fn scan(path: &'a Path, length: Option<usize>) -> Result<Self> {
        let mut fasta = Fasta::open(path)?;
        let mut by_name = HashMap::new();
        let (mut shortest, mut longest) = (usize::MAX, 0);
        while let Some((name, line)) = fasta.header()? {
            let bases = fasta.sequence(|_| {})? as usize;
            if bases == 0 || bases > LONGEST {
                return Err(Error::input(path, line, format!("{name} has {bases} bases: no window")));
            }
            if length.is_none() && longest > 0 && bases != longest {
                let message =
                    format!("{name} has {bases} bases, those before {longest}; give the length of the windows");
                return Err(Error::input(path, line, message));
            }
            (shortest, longest) = (shortest.min(bases), longest.max(bases));
            let next = by_name.len();
            if by_name.insert(name.clone(), next).is_some() {
                return Err(Error::input(path, line, format!("a second record named {name}")));
            }
        }
        if by_name.is_empty() {
            return Err(Error::input(path, None, "no FASTA record"));
        }
        Ok(Records { path, length: length.unwrap_or(longest), shortest, by_name })
    }
    /// Bases that every record has beyond each end of its window.
    fn spare(&self) -> usize {
        self.shortest.saturating_sub(self.length) / 2
    }
    /// Centres a window on every record; gives the window of each.
    fn push_all(
        &self,
        flank: usize,
        windows: &mut crate::data::window::Windows,
        notes: &mut Notes,
    ) -> Result<Vec<u32>> {
        let mut fasta = Fasta::open(self.path)?;
        let mut found = Vec::with_capacity(self.by_name.len());
        let mut codes = Vec::new();
        while let Some((name, line)) = fasta.header()? {
            codes.clear();
            fasta.sequence(|piece| codes.extend_from_slice(piece))?;
            if codes.len() < self.length {
                let place = || format!("{}:{line} {name}", self.path.file_name().unwrap_or_default().to_string_lossy());
                notes.add("record shorter than its window, padded with N", place);
            }
            let width = self.length + 2 * flank;
            let start = codes.len() as i64 / 2 - self.length as i64 / 2 - flank as i64;
            let base = |i: i64| usize::try_from(i).ok().and_then(|i| codes.get(i).copied()).unwrap_or(4);
            let window: Vec<u8> = (start..start + width as i64).map(base).collect();
            found.push(windows.push(&window));
        }
        Ok(found)
    }
}
