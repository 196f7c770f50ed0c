//! Near-duplicate sequence: identical, shifted or reverse-complemented windows, found by shared minimizers.
//!
//! Source of the method: Roberts et al., "Reducing storage requirements for biological sequence comparison" (2004).

use crate::data::{PairTable, Sample, Side};
use rayon::prelude::*;
use std::collections::HashMap;

/// Bases of a k-mer: long enough that two unrelated windows share none by chance.
const K: usize = 24;
/// Consecutive k-mers of which the smallest hash is kept.
const WINDOW: usize = 24;
/// A minimizer in more elements than this is a repeat and says nothing about descent.
const REPEAT: usize = 256;

/// Which elements of a data set hold nearly the same sequence.
///
/// Two elements are near when they share at least half of the minimizers of the one that has fewer. A shift by up to
/// about half a window and reverse complement leave them near.
#[derive(Clone, Debug, Default)]
pub struct NearDuplicates {
    /// Enhancers first, promoters after them; neighbours exclude the element itself.
    neighbours: Vec<Vec<u32>>,
    enhancers: u32,
}

impl NearDuplicates {
    /// Compares all elements of `table`; `codes` gives the window of one (A=0, C=1, G=2, T=3, else N).
    pub fn find(table: &PairTable, codes: impl Fn(Side, u32) -> Vec<u8> + Sync) -> Self {
        let enhancers = table.enhancers.len() as u32;
        let total = enhancers + table.promoters.len() as u32;
        let sketch = |node: u32| match node.checked_sub(enhancers) {
            None => minimizers(&codes(Side::Enhancer, node)),
            Some(promoter) => minimizers(&codes(Side::Promoter, promoter)),
        };
        let sketches: Vec<Vec<u64>> = (0..total).into_par_iter().map(sketch).collect();
        let mut holders: HashMap<u64, Vec<u32>> = HashMap::new();
        for (node, sketch) in sketches.iter().enumerate() {
            sketch.iter().for_each(|&hash| holders.entry(hash).or_default().push(node as u32));
        }
        let near = |node: usize| {
            let mut hits: Vec<u32> = Vec::new();
            for list in sketches[node].iter().filter_map(|hash| holders.get(hash)).filter(|l| l.len() <= REPEAT) {
                hits.extend(list.iter().filter(|&&other| other as usize != node));
            }
            hits.sort_unstable();
            let enough = |run: &&[u32]| 2 * run.len() >= sketches[node].len().min(sketches[run[0] as usize].len());
            hits.chunk_by(|a, b| a == b).filter(enough).map(|run| run[0]).collect()
        };
        NearDuplicates { neighbours: (0..total as usize).into_par_iter().map(near).collect(), enhancers }
    }
    /// Test samples of which an element, or a near-duplicate of one, is among `known`.
    pub fn count(&self, table: &PairTable, known: &[Sample], test: &[Sample]) -> usize {
        debug_assert_eq!(self.enhancers as usize, table.enhancers.len());
        let nodes = |s: &Sample| [s.enhancer, self.enhancers + s.promoter];
        let mut seen = vec![false; self.neighbours.len()];
        known.iter().flat_map(nodes).for_each(|n| seen[n as usize] = true);
        let near = |n: u32| seen[n as usize] || self.neighbours[n as usize].iter().any(|&m| seen[m as usize]);
        test.iter().filter(|s| nodes(s).into_iter().any(near)).count()
    }
}

/// The distinct minimizers of a sequence and its reverse complement (they are the same), sorted.
fn minimizers(codes: &[u8]) -> Vec<u64> {
    let mask = (1u64 << (2 * K)) - 1;
    let (mut forward, mut reverse, mut known) = (0u64, 0u64, 0);
    let mut hashes = Vec::with_capacity(codes.len());
    for &code in codes {
        known = if code < 4 { known + 1 } else { 0 };
        let code = u64::from(code & 3);
        forward = (forward << 2 | code) & mask;
        reverse = reverse >> 2 | (3 - code) << (2 * (K - 1));
        hashes.push(if known >= K { mix(forward.min(reverse)) } else { u64::MAX });
    }
    let smallest = |window: &[u64]| window.iter().copied().min().filter(|&h| h != u64::MAX);
    let mut kept: Vec<u64> = hashes.windows(WINDOW.min(hashes.len()).max(1)).filter_map(smallest).collect();
    kept.sort_unstable();
    kept.dedup();
    kept
}

/// SplitMix64's finaliser: spreads k-mers evenly.
fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ x >> 31
}
