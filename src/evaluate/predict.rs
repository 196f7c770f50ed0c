//! Pairs to be scored: their windows from a genome, or from a data set that holds them already.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::data::pairs::{self, Pairs};
use crate::data::prepare::{self, PrepareOptions};
use crate::data::{Dataset, Genome, Notes, PairTable, PairsOptions, Side};
use crate::error::Result;

/// A table of pairs whose labels may be missing.
pub fn read_pairs(path: &Path, options: PairsOptions) -> Result<Pairs> {
    pairs::read(path, &PairsOptions { unlabelled: true, lenient: true, ..options })
}

/// Cuts the windows out of a genome. Rows that have none are dropped and counted, with what was noted on reading.
pub fn from_genome(pairs: Pairs, genome: &Path, lengths: [usize; 2]) -> Result<(Dataset, Notes)> {
    let wanted: HashSet<String> = pairs.table.contigs.iter().cloned().collect();
    let genome = Genome::open(genome, Some(&wanted))?;
    let options = PrepareOptions {
        enhancer_length: lengths[0],
        promoter_length: lengths[1],
        lenient: true,
        ..PrepareOptions::default()
    };
    let (contents, notes) = prepare::from_genome(pairs, &genome, &options)?;
    Ok((contents.into_dataset()?, notes))
}

/// Finds the windows in a data set by contig and position; error when it lacks one.
pub fn from_dataset(pairs: &Pairs, dataset: &Dataset) -> Result<Dataset> {
    let known = dataset.table();
    let lengths = [known.enhancer_length, known.promoter_length];
    let index = [Side::Enhancer, Side::Promoter].map(|side| places(known, side, lengths));
    let asked = [Side::Enhancer, Side::Promoter].map(|side| places_of(&pairs.table, side, lengths));
    let mut table = known.clone();
    table.cell_lines.clone_from(&pairs.table.cell_lines);
    table.columns.clear();
    table.rows.clear();
    let mut missing = None;
    let mut count = 0;
    for (i, row) in pairs.table.rows.iter().enumerate() {
        let find = |side: usize, element: u32| index[side].get(asked[side][element as usize].as_ref()?);
        match (find(0, row.enhancer), find(1, row.promoter)) {
            (Some(&enhancer), Some(&promoter)) => table.rows.push(crate::data::Row { enhancer, promoter, ..*row }),
            _ => {
                missing.get_or_insert(i);
                count += 1;
            }
        }
    }
    match missing {
        None => dataset.with_table(table),
        Some(first) => Err(pairs.error(
            first,
            format!(
                "{} does not hold the windows of {count} of {} pairs, this one first; give the genome with --genome",
                dataset.path().display(),
                pairs.table.rows.len()
            ),
        )),
    }
}

/// Contig and first base of an element's window; `None` without coordinates.
type Place = (String, i64);

fn places_of(table: &PairTable, side: Side, lengths: [usize; 2]) -> Vec<Option<Place>> {
    let length = lengths[usize::from(side == Side::Promoter)];
    let place = |e: &crate::data::Element| Some((table.contigs[e.contig? as usize].clone(), e.window_start(length)));
    table.elements(side).iter().map(place).collect()
}

fn places(table: &PairTable, side: Side, lengths: [usize; 2]) -> HashMap<Place, u32> {
    let numbered = places_of(table, side, lengths).into_iter().zip(0u32..);
    numbered.filter_map(|(place, i)| Some((place?, i))).collect()
}
