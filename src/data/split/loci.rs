//! Loci: which rows touch the same piece of genome, in one part or across two.

use crate::data::{Dataset, PairTable, Sample, Side};
use std::{collections::HashMap, fmt};

/// Elements without coordinates that hold the same sequence have the same number, side by side in one numbering.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// One hash per element of [`PairTable::enhancers`].
    pub enhancers: Vec<u64>,
    /// One hash per element of [`PairTable::promoters`].
    pub promoters: Vec<u64>,
}

impl Identity {
    /// Elements of `dataset` that share a stored window hold the same sequence.
    pub fn of(dataset: &Dataset) -> Self {
        let windows = |side: Side, first: usize| -> Vec<u64> {
            let elements = 0..dataset.table().elements(side).len() as u32;
            elements.map(|e| first as u64 + u64::from(dataset.window_of(side, e))).collect()
        };
        let promoters = windows(Side::Promoter, dataset.windows(Side::Enhancer));
        Identity { enhancers: windows(Side::Enhancer, 0), promoters }
    }
}

/// Test rows of which another part knows something. Counts are rows of the test part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// Rows tested.
    pub rows: usize,
    /// Rows whose enhancer is in training or validation too.
    pub enhancers: usize,
    /// Rows whose promoter is.
    pub promoters: usize,
    /// Rows of which a padded window overlaps one of training or validation, on either side (the above included).
    pub windows: usize,
}

impl Shared {
    /// Sums over folds.
    pub fn add(&mut self, other: &Shared) {
        self.rows += other.rows;
        self.enhancers += other.enhancers;
        self.promoters += other.promoters;
        self.windows += other.windows;
    }
}

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |n: usize| format!("{:.0} %", 100.0 * n as f64 / self.rows.max(1) as f64);
        let (e, p, w) = (percent(self.enhancers), percent(self.promoters), percent(self.windows));
        write!(
            f,
            "of {} test rows {e} have an enhancer, {p} a promoter, {w} an overlapping window outside the test part",
            self.rows
        )
    }
}

/// A padded window on a contig.
type Window = (u32, i64, i64);

fn window(table: &PairTable, side: Side, element: u32, padding: i64) -> Option<Window> {
    let e = &table.elements(side)[element as usize];
    let (start, length) = (e.window_start(table.length(side)), table.length(side) as i64);
    e.contig.map(|contig| (contig, start - padding, start + length + padding))
}

/// Stretches of genome covered by windows: disjoint, sorted.
pub(super) struct Covered(Vec<Window>);

impl Covered {
    pub(super) fn by(mut windows: Vec<Window>) -> Self {
        windows.sort_unstable();
        let mut merged: Vec<Window> = Vec::new();
        for (contig, start, end) in windows {
            match merged.last_mut() {
                Some(last) if last.0 == contig && start <= last.2 => last.2 = last.2.max(end),
                _ => merged.push((contig, start, end)),
            }
        }
        Covered(merged)
    }
    fn touches(&self, (contig, start, end): Window) -> bool {
        let at = self.0.partition_point(|&(c, _, e)| (c, e) <= (contig, start));
        self.0.get(at).is_some_and(|&(c, s, _)| c == contig && s < end)
    }
}

/// What a set of samples uses: elements by index, and stretches of genome.
pub(super) struct Used {
    elements: [Vec<bool>; 2],
    covered: Covered,
    padding: i64,
}

const SIDES: [Side; 2] = [Side::Enhancer, Side::Promoter];

impl Used {
    pub(super) fn by(table: &PairTable, samples: &[Sample], padding: i64) -> Self {
        let elements = SIDES.map(|side| {
            let mut used = vec![false; table.elements(side).len()];
            samples.iter().for_each(|s| used[s.element(side) as usize] = true);
            used
        });
        let mut windows = Vec::new();
        for (side, used) in SIDES.into_iter().zip(&elements) {
            let indices = (0..used.len() as u32).filter(|&e| used[e as usize]);
            windows.extend(indices.filter_map(|e| window(table, side, e, padding)));
        }
        Used { elements, covered: Covered::by(windows), padding }
    }
    fn has(&self, side: Side, sample: &Sample) -> bool {
        self.elements[side as usize][sample.element(side) as usize]
    }
    /// Whether a sample uses an element, or a stretch of genome, that is used here.
    pub(super) fn touches(&self, table: &PairTable, sample: &Sample) -> bool {
        SIDES.into_iter().any(|side| {
            let window = window(table, side, sample.element(side), self.padding);
            self.has(side, sample) || window.is_some_and(|w| self.covered.touches(w))
        })
    }
}

/// Counts the test samples that share an element or an overlapping padded window with `known` samples.
pub fn shared(table: &PairTable, known: &[Sample], test: &[Sample], padding: i64) -> Shared {
    let used = Used::by(table, known, padding);
    let count = |predicate: &dyn Fn(&Sample) -> bool| test.iter().filter(|s| predicate(s)).count();
    Shared {
        rows: test.len(),
        enhancers: count(&|s| used.has(Side::Enhancer, s)),
        promoters: count(&|s| used.has(Side::Promoter, s)),
        windows: count(&|s| used.touches(table, s)),
    }
}

/// The connected component of each sample, numbered from 0 in order of appearance.
///
/// Two elements are connected when their windows, padded by `padding` bases on each side, overlap, when they hold the same
/// sequence (`identity`), or when a sample joins them: no sample of one component shares a locus with one of another.
pub fn components(table: &PairTable, samples: &[Sample], padding: i64, identity: Option<&Identity>) -> Vec<u32> {
    let offset = table.enhancers.len() as u32;
    let node = |side, element: u32| if side == Side::Enhancer { element } else { offset + element };
    let mut sets = Sets::new(table.enhancers.len() + table.promoters.len());
    let mut windows: Vec<(Window, u32)> = Vec::new();
    let mut seen = vec![false; sets.parents.len()];
    let mut by_hash: HashMap<u64, u32> = HashMap::new();
    for sample in samples {
        sets.join(node(Side::Enhancer, sample.enhancer), node(Side::Promoter, sample.promoter));
        for side in SIDES {
            let element = sample.element(side);
            let n = node(side, element);
            if std::mem::replace(&mut seen[n as usize], true) {
                continue;
            }
            windows.extend(window(table, side, element, padding).map(|w| (w, n)));
            if let Some(identity) = identity {
                let hashes = if side == Side::Enhancer { &identity.enhancers } else { &identity.promoters };
                sets.join(n, *by_hash.entry(hashes[element as usize]).or_insert(n));
            }
        }
    }
    windows.sort_unstable();
    let mut reach: Option<(u32, i64, u32)> = None;
    for ((contig, start, end), n) in windows {
        reach = Some(match reach {
            Some((c, far, m)) if c == contig && start < far => {
                sets.join(m, n);
                (c, far.max(end), m)
            }
            _ => (contig, end, n),
        });
    }
    let mut numbers = HashMap::new();
    let number = |sample: &Sample| {
        let next = numbers.len() as u32;
        *numbers.entry(sets.root(sample.enhancer)).or_insert(next)
    };
    samples.iter().map(number).collect()
}

/// What the intervals of a test part resample: rows of one unit are not independent of each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Units {
    /// `"chromosomes"` or `"components"`.
    pub unit: &'static str,
    pub count: u32,
    /// The unit of each sample.
    pub of: Vec<u32>,
}

impl Units {
    /// Chromosomes (of the enhancers) when there are ten or more, otherwise connected components.
    pub fn of(table: &PairTable, samples: &[Sample], padding: i64) -> Self {
        let contig = |s: &Sample| table.enhancers[s.enhancer as usize].contig;
        let contigs: Option<Vec<u32>> = samples.iter().map(contig).collect();
        let chromosomes = contigs.map(|contigs| {
            let mut numbers = HashMap::new();
            contigs
                .iter()
                .map(|c| {
                    let next = numbers.len() as u32;
                    *numbers.entry(*c).or_insert(next)
                })
                .collect()
        });
        let count = |of: &[u32]| of.iter().max().map_or(0, |&last| last + 1);
        if let Some(of) = chromosomes.filter(|of: &Vec<u32>| count(of) >= 10) {
            return Units { unit: "chromosomes", count: count(&of), of };
        }
        let of = components(table, samples, padding, None);
        Units { unit: "components", count: count(&of), of }
    }
}

/// Disjoint sets with path halving.
struct Sets {
    parents: Vec<u32>,
}

impl Sets {
    fn new(n: usize) -> Self {
        Sets { parents: (0..n as u32).collect() }
    }
    fn root(&mut self, mut n: u32) -> u32 {
        while self.parents[n as usize] != n {
            let parent = self.parents[n as usize];
            self.parents[n as usize] = self.parents[parent as usize];
            n = parent;
        }
        n
    }
    fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.root(a), self.root(b));
        self.parents[a.max(b) as usize] = a.min(b);
    }
}
