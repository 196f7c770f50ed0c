//! The two protocols of the seed report: what its text says and what its program does. Both augment before they split.

use super::{Draft, LegacyRandom, SplitSpec, fold};
use crate::data::{PairTable, Sample};
use crate::rng::{Stream, stream};
use std::collections::HashSet;

/// Copies of each positive.
const TIMES: usize = 20;
/// Seed of the released program.
const SEED: u32 = 42;

/// `paper-text`: twenty shifted copies of every positive, negatives as they are, then a random tenth is held out.
pub(super) fn text(table: &PairTable, rows: &[u32], spec: &SplitSpec) -> Draft {
    let reach = if spec.shift == 0 { 100 } else { spec.shift.min(i16::MAX as u32) };
    let mut numbers = Stream::new(spec.seed, stream::SPLIT, 1);
    let mut shift = || (numbers.below(2 * reach + 1) as i32 - reach as i32) as i16;
    let mut samples = Vec::new();
    for &row in rows {
        let sample = table.sample(row as usize);
        let copies = if sample.label == 1 { TIMES } else { 1 };
        for _ in 0..copies {
            samples.push(if sample.label == 1 { Sample { shift: [shift(), shift()], ..sample } } else { sample });
        }
    }
    fold::at_random(samples, spec)
}

/// `paper-code`: per cell line 20n "positives" whose enhancer and promoter are drawn independently with replacement.
pub(super) fn code(table: &PairTable, rows: &[u32], spec: &SplitSpec) -> Draft {
    let join = |(e, p): (Sample, Sample)| Sample { promoter: p.promoter, ..e };
    let mut samples: Vec<Sample> = draws(table, rows).into_iter().map(join).collect();
    samples.extend(rows.iter().map(|&r| table.sample(r as usize)).filter(|s| s.label == 0));
    fold::at_random(samples, spec)
}

/// The positives that give the enhancer and the promoter of each drawn row, line by line, in numpy's order.
fn draws(table: &PairTable, rows: &[u32]) -> Vec<(Sample, Sample)> {
    let mut draws = Vec::new();
    for line in 0..table.cell_lines.len() as u16 {
        let of_line = rows.iter().filter(|&&r| table.rows[r as usize].cell_line == line);
        let positives: Vec<Sample> = of_line.map(|&r| table.sample(r as usize)).filter(|s| s.label == 1).collect();
        let (n, mut numbers) = (positives.len(), LegacyRandom::new(SEED));
        let enhancers = numbers.choice(n as u32, TIMES * n);
        let promoters = numbers.choice(n as u32, TIMES * n);
        draws.extend(enhancers.iter().zip(promoters).map(|(&e, p)| (positives[e as usize], positives[p as usize])));
    }
    draws
}

/// What the released program makes of the positives of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PaperCounts {
    /// Rows drawn as positives: 20 for each true one.
    pub drawn: usize,
    /// Rows whose enhancer and promoter were drawn from the same row.
    pub partner_keeping: usize,
    /// Rows that are a true pair of their line, by whatever draw.
    pub true_pairs: usize,
    /// Rows whose elements lie on one chromosome.
    pub same_chromosome: usize,
}

/// Counts what `paper-code` draws for the positives among `rows`.
pub fn paper_counts(table: &PairTable, rows: &[u32]) -> PaperCounts {
    let line = |s: &Sample| table.rows[s.row as usize].cell_line;
    let positives = rows.iter().map(|&r| table.sample(r as usize)).filter(|s| s.label == 1);
    let truth: HashSet<_> = positives.map(|s| (line(&s), s.enhancer, s.promoter)).collect();
    let mut counts = PaperCounts::default();
    for (e, p) in draws(table, rows) {
        let contig = table.enhancers[e.enhancer as usize].contig;
        counts.drawn += 1;
        counts.partner_keeping += usize::from(e.row == p.row);
        counts.true_pairs += usize::from(truth.contains(&(line(&e), e.enhancer, p.promoter)));
        counts.same_chromosome +=
            usize::from(contig.is_some() && contig == table.promoters[p.promoter as usize].contig);
    }
    counts
}
