//! Negatives for tables that hold interactions only: other pairs of the same elements, at the distances of the positives.
//!
//! Matching the distance keeps it from telling the label by itself, as TargetFinder does; drawing from the same elements
//! keeps "is an active enhancer" from doing so.

use std::collections::{HashMap, HashSet};

use crate::data::Pairs;
use crate::data::table::{Element, Row};
use crate::rng::{Stream, stream};
use crate::{Error, Result};

/// Relative difference of distance that counts as equal.
const TOLERANCE: f64 = 0.1;
/// Draws before a negative is given up.
const ATTEMPTS: usize = 200;

/// Elements of one side of one cell line and contig, by centre.
type Sites = Vec<(i64, u32)>;

/// Adds up to `k` negatives per positive, matched in cell line, contig and distance (±10 %). No negative joins an
/// enhancer and a promoter that both lie within `apart` bases of those of a positive.
pub fn distance_matched(pairs: &mut Pairs, k: u32, apart: i64, seed: u64) -> Result<()> {
    let table = &pairs.table;
    let centre = |e: &Element| (e.start + e.end).div_euclid(2);
    let mut sites: HashMap<(u16, u32), [Sites; 2]> = HashMap::new();
    let mut joined: HashMap<(u16, u32), Vec<(i64, i64)>> = HashMap::new();
    let mut taken: HashSet<(u16, u32, u32)> = HashSet::new();
    let mut positives = Vec::new();
    for (r, row) in table.rows.iter().enumerate() {
        taken.insert((row.cell_line, row.enhancer, row.promoter));
        let (e, p) = (&table.enhancers[row.enhancer as usize], &table.promoters[row.promoter as usize]);
        let (Some(contig), true) = (e.contig, e.contig == p.contig && row.label == 1) else { continue };
        let key = (row.cell_line, contig);
        let [enhancers, promoters] = sites.entry(key).or_default();
        enhancers.push((centre(e), row.enhancer));
        promoters.push((centre(p), row.promoter));
        joined.entry(key).or_default().push((centre(e), centre(p)));
        positives.push((r, key, (centre(e) - centre(p)).abs()));
    }
    if positives.is_empty() {
        let message = "no interaction within one contig, so no distance to match negatives to";
        return Err(Error::input(&pairs.path, None, message));
    }
    for side in sites.values_mut().flatten() {
        side.sort_unstable();
        side.dedup();
    }
    joined.values_mut().for_each(|list| list.sort_unstable());

    let (mut rows, mut origins) = (Vec::new(), Vec::new());
    for (number, &(origin, key, distance)) in positives.iter().enumerate() {
        let [enhancers, promoters] = &sites[&key];
        let mut random = Stream::new(seed, stream::NEGATIVES, number as u32);
        for _ in 0..k {
            let found = (0..ATTEMPTS).find_map(|_| {
                let (from, enhancer) = enhancers[random.below(enhancers.len() as u32) as usize];
                let slack = (distance as f64 * TOLERANCE) as i64;
                let upstream = random.next_u32() >> 31 == 1;
                let target = if upstream { from - distance } else { from + distance };
                let low = promoters.partition_point(|&(c, _)| c < target - slack);
                let high = promoters.partition_point(|&(c, _)| c <= target + slack);
                if low == high {
                    return None;
                }
                let (to, promoter) = promoters[low + random.below((high - low) as u32) as usize];
                let free = !near_a_positive(&joined[&key], from, to, apart);
                (free && taken.insert((key.0, enhancer, promoter))).then_some((enhancer, promoter))
            });
            match found {
                Some((enhancer, promoter)) => {
                    rows.push(Row { enhancer, promoter, label: 0, cell_line: key.0 });
                    origins.push(origin);
                }
                None => {
                    let place = pairs.place(origin);
                    pairs.notes.add("negative not found at the distance of its positive", || place);
                }
            }
        }
    }
    if rows.is_empty() {
        let message = "no negative found: too few elements; give labelled negatives instead";
        return Err(Error::input(&pairs.path, None, message));
    }
    for column in pairs.table.columns.values_mut() {
        // A negative lies on the contig of its positive and shares what the table says of that.
        column.codes.extend(origins.iter().map(|&r| column.codes[r]).collect::<Vec<_>>());
    }
    pairs.lines.extend(origins.iter().map(|&r| pairs.lines[r]).collect::<Vec<_>>());
    pairs.table.rows.extend(rows);
    Ok(())
}

/// Whether some positive has its enhancer and its promoter both within `apart` of these centres.
fn near_a_positive(joined: &[(i64, i64)], enhancer: i64, promoter: i64, apart: i64) -> bool {
    let first = joined.partition_point(|&(e, _)| e <= enhancer - apart);
    joined[first..].iter().take_while(|&&(e, _)| e < enhancer + apart).any(|&(_, p)| (p - promoter).abs() < apart)
}
