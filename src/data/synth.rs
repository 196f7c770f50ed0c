//! Synthetic data with a known answer: motifs planted into real (or random) windows, the truth kept in the file.
//!
//! Every sample is a function of (seed, part, number), so a larger file begins with the samples of a smaller one.

use serde_json::json;

use crate::backend::DnaBatch;
use crate::data::format::Placement;
use crate::data::meme::{self, Motif};
use crate::data::table::{Column, Element, PairTable, Row, Side};
use crate::data::window::index;
use crate::data::{Contents, Dataset, Genome};
use crate::rng::{Permutation, Stream, stream};
use crate::{Error, Result};

/// What has to be learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Either element alone tells the label: positives hold the first motifs, negatives the second ones, sampled from
    /// their matrices.
    Additive,
    /// Only the combination does: positives hold both first or both second motifs, negatives one of each, as consensus.
    /// Cells (first-first, first-second, second-first, second-second) have shares .45/.25/.25/.05 in training and
    /// validation, .25 each in the test part.
    Pair,
}

impl std::str::FromStr for Level {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "additive" => Ok(Level::Additive),
            "pair" => Ok(Level::Pair),
            _ => Err(Error::config("--level", format!("`{text}` is neither additive nor pair"))),
        }
    }
}

/// A part of a synthetic set, as its column `split` names it.
const PARTS: [&str; 3] = ["train", "validation", "test"];

/// Shape of a synthetic set.
#[derive(Clone, Debug)]
pub struct SynthOptions {
    pub level: Level,
    /// Samples of the training, validation and test part.
    pub samples: [usize; 3],
    /// Bases of the enhancer and the promoter window.
    pub lengths: [usize; 2],
    /// Copies of a motif in a window, without overlap.
    pub copies: usize,
    /// First and second motif of the enhancers, then of the promoters: ids or their beginnings.
    pub motifs: [[String; 2]; 2],
    /// Plant half of the copies on the reverse strand.
    pub both_strands: bool,
    /// Contigs whose windows go to training and validation, and those for the test part.
    pub contigs: [Vec<String>; 2],
    /// Share of G and C where there is no real background.
    pub gc: f64,
    pub seed: u64,
}

impl Default for SynthOptions {
    fn default() -> Self {
        let names = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        SynthOptions {
            level: Level::Additive,
            samples: [10_240, 1024, 2048],
            lengths: [300, 300],
            copies: 3,
            motifs: [["MA0139.1".into(), "MA0138.2".into()], ["MA0506.2".into(), "MA0046.2".into()]],
            both_strands: false,
            contigs: [names(&["chr1", "chr17", "chr20"]), names(&["chr22", "chrX"])],
            gc: 0.41,
            seed: 1,
        }
    }
}

/// Where the sequence around the motifs comes from.
#[derive(Clone, Copy, Debug)]
pub enum Background<'a> {
    /// Cut at random from the windows of a data set.
    Windows(&'a Dataset),
    /// Cut at random from the known bases of a genome.
    Genome(&'a Genome),
    /// Independent bases.
    Random,
}

/// Makes a synthetic set: columns `split` (train, validation, test) and `motifs` (which were planted), label as the
/// [`Level`] says, placements in [`Contents::placements`].
pub fn generate(options: &SynthOptions, motifs: &[Motif], background: Background<'_>) -> Result<Contents> {
    let mut chosen = Vec::new();
    for name in options.motifs.iter().flatten() {
        chosen.push(meme::find(motifs, name)?);
    }
    check(options, &chosen)?;
    let total: usize = options.samples.iter().sum();
    let cut = Cutter::new(options, background)?;
    let element = Element { contig: None, start: 0, end: 0 };
    let table = PairTable {
        enhancers: vec![Element { end: options.lengths[0] as i64, ..element.clone() }; total],
        promoters: vec![Element { end: options.lengths[1] as i64, ..element }; total],
        cell_lines: vec!["synthetic".into()],
        enhancer_length: options.lengths[0],
        promoter_length: options.lengths[1],
        ..PairTable::default()
    };
    let mut contents = Contents::new(table, 0, serde_json::Value::Null);
    let factors: Vec<&str> = chosen.iter().map(|m| m.factor()).collect();
    let cells = [[0, 2], [0, 3], [1, 2], [1, 3]];
    let mut split = Column { values: PARTS.map(String::from).to_vec(), codes: Vec::new() };
    let values = cells.map(|[e, p]| format!("{}+{}", factors[e], factors[p])).to_vec();
    let mut planted = Column { values, codes: Vec::new() };
    let mut codes: [Vec<u8>; 2] = options.lengths.map(|length| vec![0; length]);
    for part in 0..3 {
        let n = options.samples[part];
        for i in 0..n {
            let number = (part as u32) << 30 | i as u32;
            let mut random = Stream::new(options.seed, stream::SYNTH, number);
            let cell = cell(options, part, i);
            let sample = contents.pairs.rows.len() as u32;
            for side in [Side::Enhancer, Side::Promoter] {
                let s = index(side);
                cut.fill(side, usize::from(part == 2), &mut random, &mut codes[s]);
                let motif = cells[cell][s];
                for (start, reverse) in places(options, s, chosen[motif].width(), &mut random) {
                    let length = plant(options, chosen[motif], start, reverse, &mut random, &mut codes[s]);
                    contents.placements.push(Placement {
                        side,
                        element: sample,
                        start: start as u32,
                        length: length as u16,
                        motif: motif as u16,
                        reverse,
                    });
                }
                contents.windows[s].push(&codes[s]);
            }
            let label = u8::from(cell == 0 || cell == 3 && options.level == Level::Pair);
            contents.pairs.rows.push(Row { enhancer: sample, promoter: sample, label, cell_line: 0 });
            split.codes.push(part as u32);
            planted.codes.push(cell as u32);
        }
    }
    contents.pairs.columns = [("split".to_string(), split), ("motifs".to_string(), planted)].into();
    contents.source = json!({
        "program": concat!("epi-engine ", env!("CARGO_PKG_VERSION")),
        "command": "synth",
        "truth": {
            "level": if options.level == Level::Pair { "pair" } else { "additive" },
            "motifs": chosen.iter().map(|m| m.id.clone()).collect::<Vec<_>>(),
            "positive_cells": if options.level == Level::Pair { vec![0, 3] } else { vec![0] },
            "copies": options.copies,
            "both_strands": options.both_strands,
            "seed": options.seed,
            "contigs": {"train": options.contigs[0], "test": options.contigs[1]},
            "background": cut.describe(),
        },
    });
    Ok(contents)
}

fn check(options: &SynthOptions, motifs: &[&Motif]) -> Result<()> {
    const MOST: usize = 1 << 24;
    let widest = motifs.iter().map(|m| m.width()).max().unwrap_or(0);
    for length in options.lengths {
        // With twice the room that the copies take, a random placement without overlap is soon found.
        if length > MOST || length < 2 * options.copies * widest {
            let message = format!("{length} bp: {} copies of {widest} bp need twice their length", options.copies);
            return Err(Error::config("--enhancer-length, --promoter-length", message));
        }
    }
    if options.samples.iter().any(|n| *n > MOST) || options.samples.iter().sum::<usize>() == 0 {
        return Err(Error::config("--train, --validation, --test", format!("between 1 and {MOST} samples")));
    }
    if !(0.0..=1.0).contains(&options.gc) {
        return Err(Error::config("--gc", format!("{} is no share between 0 and 1", options.gc)));
    }
    Ok(())
}

/// Which motifs sample `i` of a part holds: shares are met exactly (up to rounding), in shuffled order.
fn cell(options: &SynthOptions, part: usize, i: usize) -> usize {
    // Blocks of 20 hold each share a whole number of times, so that any beginning of the file is balanced.
    const BLOCK: usize = 20;
    /// Keeps this order apart from that of a training run with the same seed.
    const CELLS: u64 = 0x5EED << 32;
    let shares: [usize; 4] = match (options.level, part) {
        (Level::Additive, _) => [10, 0, 0, 10],
        (Level::Pair, 2) => [5, 5, 5, 5],
        (Level::Pair, _) => [9, 5, 5, 1],
    };
    let order = Permutation::new(BLOCK as u64, options.seed ^ CELLS, ((part << 24) | (i / BLOCK)) as u32);
    let mut rank = order.at((i % BLOCK) as u64) as usize;
    for (cell, share) in shares.into_iter().enumerate() {
        if rank < share {
            return cell;
        }
        rank -= share;
    }
    unreachable!("shares of a block add up to its size")
}

/// Starts (and strands) of the copies, without overlap, by rejection.
fn places(options: &SynthOptions, side: usize, width: usize, random: &mut Stream) -> Vec<(usize, bool)> {
    let room = (options.lengths[side] - width + 1) as u32;
    let mut starts: Vec<(usize, bool)> = Vec::new();
    while starts.len() < options.copies {
        let start = random.below(room) as usize;
        let reverse = options.both_strands && random.next_u32() >> 31 == 1;
        if starts.iter().all(|(other, _)| start.abs_diff(*other) >= width) {
            starts.push((start, reverse));
        } else if starts.len() + 1 == options.copies && random.below(64) == 0 {
            // An unlucky beginning can leave no gap that is wide enough; begin again.
            starts.clear();
        }
    }
    starts
}

/// Writes one copy: a sample of the matrix (additive) or the consensus (pair). Gives its length.
fn plant(
    options: &SynthOptions,
    motif: &Motif,
    start: usize,
    reverse: bool,
    random: &mut Stream,
    codes: &mut [u8],
) -> usize {
    let mut copy = match options.level {
        Level::Pair => motif.consensus(),
        Level::Additive => motif.probabilities.iter().map(|p| draw(p, random)).collect(),
    };
    if reverse {
        copy.reverse();
        copy.iter_mut().for_each(|c| *c = 3 - *c);
    }
    codes[start..start + copy.len()].copy_from_slice(&copy);
    copy.len()
}

fn draw(probabilities: &[f64; 4], random: &mut Stream) -> u8 {
    let mut u = random.uniform_f64();
    for (code, p) in probabilities.iter().enumerate() {
        if u < *p {
            return code as u8;
        }
        u -= p;
    }
    // Rounding of a sum just below 1: the most probable base.
    (0..4).max_by(|a, b| probabilities[*a].total_cmp(&probabilities[*b])).expect("four bases") as u8
}

/// Cuts background for training (0) and test (1).
struct Cutter<'a> {
    background: Background<'a>,
    /// Elements by purpose and side, of [`Background::Windows`].
    elements: [[Vec<u32>; 2]; 2],
    /// Contigs by purpose with the sum of lengths up to and including each, of [`Background::Genome`].
    contigs: [Vec<(usize, u64)>; 2],
    gc: f64,
}

/// Attempts to find a stretch without N before one with N is taken.
const ATTEMPTS: usize = 200;

impl<'a> Cutter<'a> {
    fn new(options: &SynthOptions, background: Background<'a>) -> Result<Self> {
        let mut cutter =
            Cutter { background, elements: Default::default(), contigs: Default::default(), gc: options.gc };
        for purpose in 0..2 {
            let wanted = &options.contigs[purpose];
            let needed = if purpose == 0 { options.samples[0] + options.samples[1] } else { options.samples[2] } > 0;
            let option = ["--train-contigs", "--test-contigs"][purpose];
            let nothing = |place: String| {
                Err(Error::config(
                    option,
                    format!("{place} has no window on {}; name contigs that it has", wanted.join(", ")),
                ))
            };
            match background {
                Background::Windows(dataset) => {
                    let table = dataset.table();
                    for side in [Side::Enhancer, Side::Promoter] {
                        let s = index(side);
                        if table.length(side) < options.lengths[s] {
                            let message =
                                format!("{} bp, but the windows have {}", options.lengths[s], table.length(side));
                            return Err(Error::config("--enhancer-length, --promoter-length", message));
                        }
                        let on = |e: &Element| {
                            let name = e.contig.map(|c| table.contigs[c as usize].as_str());
                            name.is_some_and(|n| {
                                wanted.iter().any(|w| w == n || crate::data::genome::other_convention(w) == n)
                            })
                        };
                        let elements = table.elements(side).iter().enumerate();
                        cutter.elements[purpose][s] = elements.filter(|(_, e)| on(e)).map(|(i, _)| i as u32).collect();
                        if needed && cutter.elements[purpose][s].is_empty() {
                            return nothing(dataset.path().display().to_string());
                        }
                    }
                }
                Background::Genome(genome) => {
                    let mut end = 0;
                    for contig in wanted.iter().filter_map(|w| genome.find(w)) {
                        end += genome.length(contig).saturating_sub(*options.lengths.iter().max().expect("two") as u64);
                        cutter.contigs[purpose].push((contig, end));
                    }
                    if needed && end == 0 {
                        return nothing(genome.path().display().to_string());
                    }
                }
                Background::Random => {}
            }
        }
        Ok(cutter)
    }

    fn fill(&self, side: Side, purpose: usize, random: &mut Stream, codes: &mut [u8]) {
        match self.background {
            Background::Random => {
                let (gc, at) = (self.gc / 2.0, (1.0 - self.gc) / 2.0);
                codes.iter_mut().for_each(|code| *code = draw(&[at, gc, gc, at], random));
            }
            Background::Windows(dataset) => {
                let elements = &self.elements[purpose][index(side)];
                let length = dataset.table().length(side);
                let mut window = DnaBatch::new(1, length);
                for _ in 0..ATTEMPTS {
                    let element = elements[random.below(elements.len() as u32) as usize];
                    let start = random.below((length - codes.len() + 1) as u32) as usize;
                    dataset.write_window(side, element, 0, false, &mut window, 0);
                    codes.iter_mut().enumerate().for_each(|(i, code)| *code = window.code(0, start + i));
                    if codes.iter().all(|c| *c < 4) {
                        return;
                    }
                }
            }
            Background::Genome(genome) => {
                let contigs = &self.contigs[purpose];
                let total = contigs.last().expect("checked").1;
                for _ in 0..ATTEMPTS {
                    let at = (random.uniform_f64() * total as f64) as u64;
                    let i = contigs.partition_point(|(_, end)| *end <= at).min(contigs.len() - 1);
                    let before = if i == 0 { 0 } else { contigs[i - 1].1 };
                    genome.fetch(contigs[i].0, (at - before) as i64, codes);
                    if codes.iter().all(|c| *c < 4) {
                        return;
                    }
                }
            }
        }
    }

    fn describe(&self) -> serde_json::Value {
        match self.background {
            Background::Windows(dataset) => json!({"windows": dataset.fingerprint()}),
            Background::Genome(genome) => json!({"genome": genome.path().file_name().map(|n| n.to_string_lossy())}),
            Background::Random => json!({"random": {"gc": self.gc}}),
        }
    }
}
