//! Which filters attend to each other more than in a background: SATORI's interactions (Ullah and Ben-Hur 2021), in the
//! enhancer × promoter block as well as within each element.

use super::attention::{Heads, TILE};
use super::pairs::Place;
use super::partial::{Partial, line};
use super::scorer::{Scorer, Windows};
use super::shuffle::dinucleotides;
use super::statistics::{benjamini_hochberg, mann_whitney_greater};
use super::svg::Svg;
use crate::backend::{Backend, DnaBatch};
use crate::error::{Error, Result};
use crate::models::{Model, SideInput};
use crate::rng::{Stream, stream};

/// Which positions attend to which.
pub const BLOCKS: [(&str, usize, usize); 3] =
    [("enhancer-promoter", 0, 1), ("enhancer-enhancer", 0, 0), ("promoter-promoter", 1, 1)];

/// Options of [`interactions`].
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A unit is active where it exceeds what it reaches in this share of the positions of shuffled windows.
    pub rate: f64,
    /// Units that are active in a smaller share of the foreground pairs are left out.
    pub least_active: f64,
    /// Seed of the shuffles.
    pub seed: u64,
}

/// What is tested on each side: sets of filters that count as one, by the mean of their activations.
pub type Units = [Vec<Vec<usize>>; 2];

/// Every filter by itself; a unit's number is its filter's.
pub fn single(filters: [usize; 2]) -> Units {
    filters.map(|n| (0..n).map(|c| vec![c]).collect())
}

/// Two units and how they attend to each other.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Interaction {
    pub block: &'static str,
    /// Units of the block's first and second side.
    pub first: usize,
    pub second: usize,
    /// Mean over pairs of the highest attention between them; 0 where they are not both active.
    pub foreground: f64,
    pub background: f64,
    /// Pairs in which both are active.
    pub pairs: usize,
    /// Mean distance in bases between the places that attend to each other most, where both lie on one contig or in one
    /// window.
    pub distance: Option<f64>,
    /// One-sided Mann–Whitney test, foreground above background.
    pub p: f64,
    /// False discovery rate over all blocks of these units.
    pub q: f64,
}

/// Pooled activations `[T,C]` of a pair, per side.
fn pooled<B: Backend>(scorer: &Scorer<'_, B>, windows: &Windows) -> Result<[(Vec<f32>, usize); 2]> {
    let conv = scorer.model.first_convolution().ok_or_else(|| Error::Unsupported {
        op: "interactions",
        message: format!("{} does not begin with a convolution that can be read alone", scorer.model.name()),
    })?;
    let mut sides = Vec::new();
    for side in 0..2 {
        let codes = &windows.codes[side];
        let dna = scorer.backend.upload_dna(&DnaBatch::from_codes(codes, 1, codes.len()))?;
        let constants = scorer.parameters.constants();
        let out = scorer.model.positions(&mut scorer.tape(), &constants, side, SideInput::Dna(&dna), conv.pool)?;
        sides.push((scorer.backend.to_f32(out.value())?, out.shape()[2]));
    }
    Ok([sides[0].clone(), sides[1].clone()])
}

/// The units that take part, and what is known of every two of them: per block `[first][second]`.
struct Level {
    /// Numbers of the units of each side.
    active: [Vec<usize>; 2],
    /// Per pair of windows the highest attention between the two; 0 where they are not both active.
    strongest: [Vec<Vec<f32>>; 3],
    /// Sum and number over the foreground of the distances at which they attend most.
    distance: [Vec<(f64, usize)>; 3],
}

/// Highest attention in one pair, and the distance there.
type Cell = (f32, Option<i64>);

/// One pair of windows under way.
struct Sample<'a> {
    heads: &'a Heads,
    place: &'a Place,
    /// Active units at each position, by their place in [`Level::active`].
    speaking: Vec<Vec<usize>>,
    /// Active units of each side.
    sizes: [usize; 2],
    /// Per block `[first][second]`.
    cells: [Vec<Cell>; 3],
}

impl<'a> Sample<'a> {
    fn new(
        heads: &'a Heads,
        place: &'a Place,
        activations: &[(Vec<f32>, usize); 2],
        scale: &Scale,
        units: &Units,
        thresholds: &[Vec<f32>; 2],
        active: &[Vec<usize>; 2],
    ) -> Self {
        let at = |t: usize| -> Vec<usize> {
            let side = usize::from(t >= heads.enhancer);
            let (values, channels) = &activations[side];
            let row = &values[(t - side * heads.enhancer) * channels..][..*channels];
            let speaks = |u: usize| scale.activation(side, &units[side][u], row) > thresholds[side][u];
            active[side].iter().enumerate().filter(|(_, u)| speaks(**u)).map(|(n, _)| n).collect()
        };
        let sizes = active.each_ref().map(Vec::len);
        let cells = Level::no_cells(active);
        Sample { heads, place, speaking: (0..heads.time).map(at).collect(), sizes, cells }
    }
    /// Every two units that attend to each other at all, as [`Partial`] keeps them: per block their number, then number of the
    /// cell, attention and distance (-1 where it is not known) of each.
    fn numbers(&self, out: &mut Vec<f64>) {
        for block in &self.cells {
            let there = || block.iter().enumerate().filter(|(_, cell)| cell.0 > 0.0);
            out.push(there().count() as f64);
            for (n, &(weight, distance)) in there() {
                out.extend([n as f64, weight.into(), distance.map_or(-1.0, |d| d as f64)]);
            }
        }
    }
    /// Takes in the highest attention over heads of one query to every key.
    fn add(&mut self, query: usize, row: &[f32]) {
        let Sample { heads, place, speaking, sizes, cells } = self;
        if speaking[query].is_empty() {
            return;
        }
        let query_side = usize::from(query >= heads.enhancer);
        // The key at which each unit of each side receives most.
        let mut best = sizes.map(|n| vec![(0.0f32, 0usize); n]);
        for (key, &weight) in row.iter().enumerate() {
            let key_side = usize::from(key >= heads.enhancer);
            // Within an element, places that share bases would only tell that filters overlap.
            if key_side == query_side && key.abs_diff(query) * heads.pool < heads.seen {
                continue;
            }
            for &g in &speaking[key] {
                if weight > best[key_side][g].0 {
                    best[key_side][g] = (weight, key);
                }
            }
        }
        let base = |t: usize| {
            let (side, i) = heads.place(t);
            place.starts[side] + i as i64
        };
        let same_contig = place.contigs[0].is_some() && place.contigs[0] == place.contigs[1];
        for (block, (_, a, b)) in BLOCKS.into_iter().enumerate() {
            // Attention counts in either direction.
            let other = if a == b && a == query_side {
                a
            } else if a != b {
                1 - query_side
            } else {
                continue;
            };
            for &f in &speaking[query] {
                for (g, &(weight, key)) in best[other].iter().enumerate().filter(|(_, b)| b.0 > 0.0) {
                    let (first, second) = if a != b && query_side == 1 || a == b && g < f { (g, f) } else { (f, g) };
                    let cell = &mut cells[block][first * sizes[b] + second];
                    if weight > cell.0 {
                        let known = a == b || same_contig;
                        *cell = (weight, known.then(|| (base(query) - base(key)).abs()));
                    }
                }
            }
        }
    }
}

/// The highest activation of every filter of each side over all windows.
struct Scale([Vec<f32>; 2]);

impl Scale {
    /// Activation of a unit at a position whose filters' activations are `row`: the mean over its filters, each as a share of its
    /// highest one. Filters that read the same motif in different frames make a far surer detector together than any alone.
    fn activation(&self, side: usize, unit: &[usize], row: &[f32]) -> f32 {
        let share = |&c: &usize| if self.0[side][c] > 0.0 { row[c] / self.0[side][c] } else { 0.0 };
        unit.iter().map(share).sum::<f32>() / unit.len().max(1) as f32
    }
}

/// The `k` highest of many values, and the one after them.
struct Highest {
    k: usize,
    values: Vec<f32>,
    cut: f32,
}

impl Highest {
    fn add(&mut self, value: f32) {
        if value > self.cut {
            self.values.push(value);
            if self.values.len() > 2 * self.k + 64 {
                self.trim();
            }
        }
    }
    fn trim(&mut self) {
        if self.values.len() > self.k {
            let (_, &mut cut, _) = self.values.select_nth_unstable_by(self.k, |a, b| b.total_cmp(a));
            self.values.truncate(self.k);
            self.cut = cut;
        }
    }
}

/// What each unit of each level exceeds in a share `rate` of the positions of the windows with their dinucleotides shuffled.
fn thresholds<B: Backend>(
    scorer: &Scorer<'_, B>,
    pairs: &[&(Place, Windows)],
    levels: &[Units],
    scale: &Scale,
    options: &Options,
    tick: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<[Vec<f32>; 2]>> {
    let mut highest: Vec<[Vec<Highest>; 2]> = Vec::new();
    for (number, (_, windows)) in pairs.iter().enumerate() {
        let mut random = Stream::new(options.seed, stream::EXPLAIN, number as u32);
        let codes = windows.codes.each_ref().map(|codes| dinucleotides(codes, &mut random));
        let activations = pooled(scorer, &Windows { codes, beyond: Default::default() })?;
        if highest.is_empty() {
            let k = activations.each_ref().map(|(values, channels)| {
                (options.rate * (pairs.len() * values.len() / channels.max(&1)) as f64).floor() as usize
            });
            let side = |s: usize, n: usize| (0..n).map(|_| Highest { k: k[s], values: vec![], cut: 0.0 }).collect();
            highest = levels.iter().map(|l| [side(0, l[0].len()), side(1, l[1].len())]).collect();
        }
        for (units, highest) in levels.iter().zip(&mut highest) {
            for (side, (values, channels)) in activations.iter().enumerate() {
                for row in values.chunks_exact(*channels) {
                    for (unit, highest) in units[side].iter().zip(&mut highest[side]) {
                        highest.add(scale.activation(side, unit, row));
                    }
                }
            }
        }
        tick()?;
    }
    highest.iter_mut().flatten().flatten().for_each(Highest::trim);
    Ok(highest.into_iter().map(|l| l.map(|side| side.into_iter().map(|h| h.cut).collect())).collect())
}

/// Tests every two units of each set that are active often enough: a list of interactions for each of `levels`, the most
/// significant first. Pairs of windows are worked through one at a time; what is kept of each is one number for every two
/// units, in `kept` too, where those of an earlier run that stopped come from. `tick` is told the passes done (three a pair).
pub fn interactions<B: Backend>(
    scorer: &Scorer<'_, B>,
    foreground: &[(Place, Windows)],
    background: &[(Place, Windows)],
    levels: &[Units],
    options: &Options,
    kept: Option<(&mut Partial, Vec<Vec<f64>>)>,
    tick: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Vec<Vec<Interaction>>> {
    if foreground.len() < 5 || background.len() < 5 {
        let message = format!("{} pairs against {}: at least 5 of each are needed", foreground.len(), background.len());
        return Err(Error::config("--part", message));
    }
    let mut done = 0;
    let mut highest: [Vec<f32>; 2] = Default::default();
    let all = || foreground.iter().chain(background);
    for (_, windows) in all() {
        for (side, (values, channels)) in pooled(scorer, windows)?.iter().enumerate() {
            highest[side].resize(*channels, 0.0);
            for row in values.chunks_exact(*channels) {
                highest[side].iter_mut().zip(row).for_each(|(h, v)| *h = h.max(*v));
            }
        }
        done += 1;
        tick(done)?;
    }
    let scale = Scale(highest);
    let thresholds = thresholds(scorer, &all().collect::<Vec<_>>(), levels, &scale, options, &mut || {
        done += 1;
        tick(done)
    })?;
    // Which units speak often enough to be worth a test.
    let mut spoke: Vec<[Vec<usize>; 2]> = levels.iter().map(|l| l.each_ref().map(|side| vec![0; side.len()])).collect();
    for (_, windows) in foreground {
        for (side, (values, channels)) in pooled(scorer, windows)?.iter().enumerate() {
            for ((units, thresholds), spoke) in levels.iter().zip(&thresholds).zip(&mut spoke) {
                for ((unit, threshold), count) in units[side].iter().zip(&thresholds[side]).zip(&mut spoke[side]) {
                    let mut rows = values.chunks_exact(*channels);
                    *count += usize::from(rows.any(|row| scale.activation(side, unit, row) > *threshold));
                }
            }
        }
    }
    let least = (options.least_active * foreground.len() as f64).ceil().max(3.0) as usize;
    let level = |spoke: [Vec<usize>; 2]| {
        let active = spoke.map(|s| (0..s.len()).filter(|&c| s[c] >= least).collect::<Vec<usize>>());
        let sizes = BLOCKS.map(|(_, a, b)| active[a].len() * active[b].len());
        Level { active, strongest: Default::default(), distance: sizes.map(|n| vec![(0.0, 0); n]) }
    };
    let mut found: Vec<Level> = spoke.into_iter().map(level).collect();
    let (mut partial, known) = kept.unzip();
    let mut known = known.unwrap_or_default().into_iter();
    for (number, (place, windows)) in all().enumerate() {
        if let Some(numbers) = known.next() {
            let damaged = || Error::config("--out", "results kept there are damaged: remove .interactions.partial");
            let mut rest = numbers.as_slice();
            for level in &mut found {
                let cells = level.cells(&mut rest).ok_or_else(damaged)?;
                level.add(cells, number < foreground.len());
            }
            done += 1;
            tick(done)?;
            continue;
        }
        let heads = Heads::of(scorer, windows)?;
        let activations = pooled(scorer, windows)?;
        let sample = |((units, level), thresholds): ((&Units, &Level), &[Vec<f32>; 2])| {
            Sample::new(&heads, place, &activations, &scale, units, thresholds, &level.active)
        };
        let mut samples: Vec<Sample> = levels.iter().zip(&found).zip(&thresholds).map(sample).collect();
        for from in (0..heads.time).step_by(TILE) {
            let to = (from + TILE).min(heads.time);
            let mut highest = heads.rows(0, from, to);
            for head in 1..heads.heads {
                highest.iter_mut().zip(heads.rows(head, from, to)).for_each(|(h, v)| *h = h.max(v));
            }
            for (query, row) in (from..to).zip(highest.chunks_exact(heads.time)) {
                samples.iter_mut().for_each(|sample| sample.add(query, row));
            }
        }
        if let Some(partial) = &mut partial {
            let mut numbers = Vec::new();
            samples.iter().for_each(|sample| sample.numbers(&mut numbers));
            partial.append([line(numbers)])?;
        }
        let all: Vec<[Vec<Cell>; 3]> = samples.into_iter().map(|s| s.cells).collect();
        for (level, cells) in found.iter_mut().zip(all) {
            level.add(cells, number < foreground.len());
        }
        done += 1;
        tick(done)?;
    }
    Ok(found.iter().map(|level| level.test(foreground.len(), least)).collect())
}

impl Level {
    /// Empty cells of every block.
    fn no_cells(active: &[Vec<usize>; 2]) -> [Vec<Cell>; 3] {
        BLOCKS.map(|(_, a, b)| vec![(0.0, None); active[a].len() * active[b].len()])
    }
    /// What [`Sample::numbers`] put down, taken from the front of `numbers`.
    fn cells(&self, numbers: &mut &[f64]) -> Option<[Vec<Cell>; 3]> {
        let mut cells = Self::no_cells(&self.active);
        for block in &mut cells {
            let (&count, rest) = numbers.split_first()?;
            let (here, after) = rest.split_at_checked(3 * count as usize)?;
            for cell in here.chunks_exact(3) {
                let distance = (cell[2] >= 0.0).then_some(cell[2] as i64);
                *block.get_mut(cell[0] as usize)? = (cell[1] as f32, distance);
            }
            *numbers = after;
        }
        Some(cells)
    }
    /// Takes in one pair of windows.
    fn add(&mut self, cells: [Vec<Cell>; 3], foreground: bool) {
        for (block, cells) in cells.into_iter().enumerate() {
            for (cell, (sum, count)) in cells.iter().zip(&mut self.distance[block]).filter(|_| foreground) {
                if let Some(distance) = cell.1 {
                    (*sum, *count) = (*sum + distance as f64, *count + 1);
                }
            }
            self.strongest[block].push(cells.into_iter().map(|c| c.0).collect());
        }
    }
    /// All tests; the first `foreground` pairs against the others.
    fn test(&self, foreground: usize, least: usize) -> Vec<Interaction> {
        let mut found = Vec::new();
        for (block, (name, a, b)) in BLOCKS.into_iter().enumerate() {
            for (f, &first) in self.active[a].iter().enumerate() {
                for (g, &second) in self.active[b].iter().enumerate().filter(|(g, _)| a != b || *g >= f) {
                    let cell = f * self.active[b].len() + g;
                    let values: Vec<f32> = self.strongest[block].iter().map(|sample| sample[cell]).collect();
                    let (x, y) = values.split_at(foreground);
                    let pairs = x.iter().filter(|v| **v > 0.0).count();
                    if pairs < least {
                        continue;
                    }
                    let mean = |v: &[f32]| v.iter().map(|&v| f64::from(v)).sum::<f64>() / v.len() as f64;
                    let (sum, count) = self.distance[block][cell];
                    found.push(Interaction {
                        block: name,
                        first,
                        second,
                        foreground: mean(x),
                        background: mean(y),
                        pairs,
                        distance: (count > 0).then(|| sum / count as f64),
                        p: mann_whitney_greater(x, y),
                        q: 1.0,
                    });
                }
            }
        }
        let q = benjamini_hochberg(&found.iter().map(|i| i.p).collect::<Vec<_>>());
        found.iter_mut().zip(q).for_each(|(i, q)| i.q = q);
        found.sort_by(|a, b| a.p.total_cmp(&b.p).then(b.foreground.total_cmp(&a.foreground)));
        found
    }
}

/// The strongest interactions below `fdr` between units of the enhancer (left) and of the promoter (right), by their names.
pub fn draw(found: &[Interaction], names: &[Vec<String>; 2], fdr: f64) -> String {
    const MOST: usize = 40;
    let mut svg = Svg::new();
    let mut shown: Vec<&Interaction> = found.iter().filter(|i| i.block == BLOCKS[0].0 && i.q < fdr).collect();
    let count = match shown.len() {
        0 => "no interaction".to_string(),
        1 => "1 interaction".to_string(),
        n if n > MOST => format!("the strongest {MOST} of {n} interactions"),
        n => format!("{n} interactions"),
    };
    shown.truncate(MOST);
    svg.text(10.0, 18.0, 13.0, &format!("{count} of enhancer and promoter below a false discovery rate of {fdr}"));
    let side = |pick: fn(&Interaction) -> usize| {
        let mut list: Vec<usize> = shown.iter().map(|i| pick(i)).collect();
        list.sort_unstable();
        list.dedup();
        list
    };
    let (left, right) = (side(|i| i.first), side(|i| i.second));
    let y = |list: &[usize], c: usize| 50.0 + 18.0 * list.iter().position(|x| *x == c).unwrap_or(0) as f64;
    for interaction in shown.iter().rev() {
        let strength = (-interaction.q.max(1e-30).log10()).clamp(1.0, 10.0);
        let (from, to) = ([260.0, y(&left, interaction.first) - 4.0], [560.0, y(&right, interaction.second) - 4.0]);
        svg.arc(from, to, 0.4 + 0.35 * strength, "#b2182b");
    }
    for (list, x, names) in [(&left, 10.0, &names[0]), (&right, 570.0, &names[1])] {
        for &c in list {
            svg.text(x, y(list, c), 11.0, &names[c]);
        }
    }
    svg.finish()
}
