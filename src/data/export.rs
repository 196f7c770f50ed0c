//! Back to text: two FASTA files of windows and a table that names them, as [`cut`](super::cut) reads them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

use crate::data::dataset::write_atomically;
use crate::data::prepare::{letters, parse_interval};
use crate::data::table::Side;
use crate::data::{Dataset, PairTable};
use crate::{Error, Result};

/// Bases per line of FASTA.
const LINE: usize = 80;

/// Writes `enhancers.fa`, `promoters.fa` and `pairs.tsv` into `folder`, which is made if need be; with their stored
/// flanks if `flanks`.
pub fn export(dataset: &Dataset, folder: &Path, flanks: bool) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let names = [Side::Enhancer, Side::Promoter].map(|side| names(dataset, side));
    for (side, file, names) in
        [(Side::Enhancer, "enhancers.fa", &names[0]), (Side::Promoter, "promoters.fa", &names[1])]
    {
        write_atomically(&folder.join(file), |out| {
            // Windows in order, each with the first element that shows it.
            let mut written = vec![false; dataset.windows(side)];
            for element in 0..dataset.table().elements(side).len() as u32 {
                let window = dataset.window_of(side, element) as usize;
                if std::mem::replace(&mut written[window], true) {
                    continue;
                }
                writeln!(out, ">{}", names[window])?;
                let codes = if flanks { dataset.stored_codes(side, element) } else { dataset.codes(side, element) };
                for line in codes.chunks(LINE) {
                    writeln!(out, "{}", letters(line))?;
                }
            }
            Ok(())
        })?;
    }
    write_atomically(&folder.join("pairs.tsv"), |out| {
        let mut line = String::new();
        header(dataset.table(), &mut line);
        out.write_all(line.as_bytes())?;
        for row in 0..dataset.len() {
            line.clear();
            write_row(dataset, &names, row, &mut line);
            out.write_all(line.as_bytes())?;
        }
        Ok(())
    })
}

/// Names of the windows of a side: their interval where they have one of their own, else `enhancer_7`.
fn names(dataset: &Dataset, side: Side) -> Vec<String> {
    let (table, length) = (dataset.table(), dataset.table().length(side));
    let fallback = if side == Side::Enhancer { "enhancer" } else { "promoter" };
    let mut names: Vec<String> = (0..dataset.windows(side)).map(|window| format!("{fallback}_{window}")).collect();
    let mut owners: HashMap<String, usize> = HashMap::new();
    for (i, element) in table.elements(side).iter().enumerate() {
        let Some(contig) = element.contig else { continue };
        let start = element.window_start(length);
        let interval = format!("{}:{start}-{}", table.contigs[contig as usize], start + length as i64);
        let window = dataset.window_of(side, i as u32) as usize;
        if parse_interval(&interval).is_some() && *owners.entry(interval.clone()).or_insert(window) == window {
            names[window] = interval;
        }
    }
    names
}

fn has_coordinates(table: &PairTable) -> bool {
    table.enhancers.iter().chain(&table.promoters).all(|e| e.contig.is_some())
}

fn header(table: &PairTable, line: &mut String) {
    line.push_str("enhancer_id\tpromoter_id\tlabel\tcell_line");
    if has_coordinates(table) {
        line.push_str("\tenhancer_chrom\tenhancer_start\tenhancer_end\tpromoter_chrom\tpromoter_start\tpromoter_end");
    }
    for name in table.columns.keys() {
        let _ = write!(line, "\t{}", clean(name));
    }
    line.push('\n');
}

fn write_row(dataset: &Dataset, names: &[Vec<String>; 2], row: usize, line: &mut String) {
    let table = dataset.table();
    let pair = table.rows[row];
    let enhancer = &names[0][dataset.window_of(Side::Enhancer, pair.enhancer) as usize];
    let promoter = &names[1][dataset.window_of(Side::Promoter, pair.promoter) as usize];
    let cell = clean(&table.cell_lines[pair.cell_line as usize]);
    let _ = write!(line, "{enhancer}\t{promoter}\t{}\t{cell}", pair.label);
    if has_coordinates(table) {
        for side in [Side::Enhancer, Side::Promoter] {
            let element = table.element(side, row);
            let contig = element.contig.map_or("", |c| table.contigs[c as usize].as_str());
            let _ = write!(line, "\t{contig}\t{}\t{}", element.start, element.end);
        }
    }
    for column in table.columns.values() {
        let _ = write!(line, "\t{}", clean(&column.values[column.codes[row] as usize]));
    }
    line.push('\n');
}

/// A field of a tab-separated line.
fn clean(text: &str) -> String {
    text.replace(['\t', '\n', '\r'], " ")
}
