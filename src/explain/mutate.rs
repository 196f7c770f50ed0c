//! In-silico mutagenesis of one pair: every base, windows and deletions, with what copies share computed once.

use std::io::Write;
use std::path::Path;

use super::pairs::{Place, SIDES, letters};
use super::partial::{Partial, line};
use super::scorer::{Base, Edit, Reuse, Score, Scorer, Windows};
use super::shuffle::{composition, draw};
use super::svg::{Svg, element};
use super::{Npz, attribution::one_hot};
use crate::backend::Backend;
use crate::data::dataset::write_atomically;
use crate::error::Result;
use crate::rng::{Stream, stream};

/// What is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Every known base into the three others.
    pub bases: bool,
    /// Stretches of so many bases, so many apart, replaced by bases of the window's composition.
    pub windows: Option<(usize, usize)>,
    /// Deletions of so many bases, one after the other.
    pub deletions: Vec<usize>,
    /// Sides: enhancer, promoter.
    pub sides: Vec<usize>,
    pub seed: u64,
}

/// The kind of an edit, as the table names it.
pub fn kind(edit: &Edit) -> &'static str {
    match (edit.removed, edit.inserted.len()) {
        (1, 1) => "base",
        (_, 0) => "deletion",
        _ => "window",
    }
}

impl Plan {
    /// The edits of a pair, in the order in which they are scored.
    pub fn edits(&self, windows: &Windows) -> Vec<Edit> {
        let mut edits = Vec::new();
        for &side in &self.sides {
            let codes = &windows.codes[side];
            if self.bases {
                for (start, &old) in codes.iter().enumerate().filter(|(_, c)| **c < 4) {
                    let new = (0..4).filter(|&new| new != old);
                    edits.extend(new.map(|new| Edit { side, start, removed: 1, inserted: vec![new] }));
                }
            }
            if let Some((width, step)) = self.windows {
                let shares = composition(codes);
                for start in (0..=codes.len().saturating_sub(width)).step_by(step.max(1)) {
                    let mut random = Stream::new(self.seed, stream::EXPLAIN, (side << 30 | start) as u32);
                    let inserted = (0..width).map(|_| draw(&shares, &mut random)).collect();
                    edits.push(Edit { side, start, removed: width, inserted });
                }
            }
            for &length in &self.deletions {
                let starts = (0..=codes.len().saturating_sub(length)).step_by(length.max(1));
                edits.extend(starts.map(|start| Edit { side, start, removed: length, inserted: vec![] }));
            }
        }
        edits
    }
}

/// What [`choose_reuse`] found.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Check {
    /// Positions on each side of a change over which recurrent layers run anew; `None` = everything is exact.
    pub margin: Option<usize>,
    /// Copies scored both ways.
    pub checked: usize,
    /// Largest difference between both, in log odds.
    pub deviation: f32,
    /// Largest change of the log odds among them.
    pub largest_change: f32,
}

/// Two sums of a pair's log odds in f32, in different orders, differ by about so much of them (at least of 1).
const ROUNDING: f32 = 1e-6;

/// The smallest margin at which copies from all over the pair score as they do in full, up to `tolerance` times the largest
/// change among them or [`ROUNDING`]; exact when none does, or when the network has nothing to reuse on this device.
pub fn choose_reuse<B: Backend>(
    scorer: &Scorer<'_, B>,
    base: &Base<B>,
    edits: &[Edit],
    tolerance: f32,
) -> Result<(Reuse, Check)> {
    const PLACES: usize = 12;
    let exact = Check { margin: None, checked: 0, deviation: 0.0, largest_change: 0.0 };
    let Some(positions) = scorer.can_reuse(base) else { return Ok((Reuse::Exact, exact)) };
    let in_place: Vec<Edit> = edits.iter().filter(|e| e.in_place()).cloned().collect();
    if in_place.len() < 50 * PLACES || tolerance <= 0.0 {
        return Ok((Reuse::Exact, exact));
    }
    // Neighbours are scored together, as they will be.
    let groups: Vec<&[Edit]> = (0..PLACES).map(|i| &in_place[i * (in_place.len() - 3) / (PLACES - 1)..][..3]).collect();
    let score = |reuse: Reuse| -> Result<Vec<f32>> {
        let each = groups.iter().map(|group| scorer.edited(base, group, reuse));
        Ok(each.collect::<Result<Vec<_>>>()?.concat().iter().map(|s| s.log_odds).collect())
    };
    let full = score(Reuse::Exact)?;
    let largest_change = full.iter().map(|s| (s - base.score.log_odds).abs()).fold(0.0, f32::max);
    let mut margin = 16;
    while 4 * margin < positions {
        let deviation = score(Reuse::Margin(margin))?.iter().zip(&full).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        if deviation <= (tolerance * largest_change).max(ROUNDING * base.score.log_odds.abs().max(1.0)) {
            let check = Check { margin: Some(margin), checked: full.len(), deviation, largest_change };
            return Ok((Reuse::Margin(margin), check));
        }
        margin *= 2;
    }
    Ok((Reuse::Exact, Check { checked: full.len(), largest_change, ..exact }))
}

/// Scores all edits, going on behind those that are `done`; `tick` is told how many there are.
pub fn run<B: Backend>(
    scorer: &Scorer<'_, B>,
    base: &Base<B>,
    edits: &[Edit],
    reuse: Reuse,
    (partial, done): (&mut Partial, Vec<Score>),
    tick: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Vec<Score>> {
    let mut scores = done;
    while scores.len() < edits.len() {
        let end = (scores.len() + scorer.batch()).min(edits.len());
        let new = scorer.edited(base, &edits[scores.len()..end], reuse)?;
        partial.append(new.iter().map(|s| line([s.log_odds, s.probability])))?;
        scores.extend(new);
        tick(scores.len() as u64)?;
    }
    Ok(scores)
}

/// One line an edit: where, what, and what it does to the score.
pub fn write_table<B: Backend>(
    path: &Path,
    place: &Place,
    base: &Base<B>,
    edits: &[Edit],
    scores: &[Score],
) -> Result<()> {
    write_atomically(path, |out| {
        writeln!(
            out,
            "row\tkind\tside\tstart\tend\tcontig\tposition\treference\talternative\tlog_odds\tprobability\tchange"
        )?;
        for (edit, score) in edits.iter().zip(scores) {
            let end = edit.start + edit.removed;
            let old = letters(&base.windows.codes[edit.side][edit.start..end]);
            let new = if edit.inserted.is_empty() { "-".into() } else { letters(&edit.inserted) };
            writeln!(
                out,
                "{}\t{}\t{}\t{}\t{end}\t{}\t{old}\t{new}\t{}\t{}\t{}",
                place.row,
                kind(edit),
                SIDES[edit.side],
                edit.start,
                place.base(edit.side, edit.start),
                score.log_odds,
                score.probability,
                score.log_odds - base.score.log_odds,
            )?;
        }
        Ok(())
    })
}

/// Changes of the log odds by single bases, `[L,4]` per side; 0 where nothing was changed.
pub fn base_changes<B: Backend>(base: &Base<B>, edits: &[Edit], scores: &[Score]) -> [Vec<f32>; 2] {
    let mut changes = [0, 1].map(|side| vec![0.0; 4 * base.windows.codes[side].len()]);
    for (edit, score) in edits.iter().zip(scores).filter(|(e, _)| kind(e) == "base") {
        changes[edit.side][4 * edit.start + usize::from(edit.inserted[0])] = score.log_odds - base.score.log_odds;
    }
    changes
}

/// Adds `row<N>_<side>_change` `[L,4]` and `row<N>_<side>_codes` `[L]`.
pub fn write_arrays<B: Backend>(npz: &mut Npz, place: &Place, base: &Base<B>, changes: &[Vec<f32>; 2]) -> Result<()> {
    for side in 0..2 {
        let (codes, name) = (&base.windows.codes[side], format!("row{}_{}", place.row, SIDES[side]));
        npz.add(&format!("{name}_change"), &[codes.len(), 4], &changes[side])?;
        npz.add_bytes(&format!("{name}_codes"), &[codes.len()], codes)?;
    }
    Ok(())
}

/// A heat map of every base, and the most sensitive stretch as letters as tall as the mean loss when they change.
pub fn draw_bases<B: Backend>(place: &Place, base: &Base<B>, changes: &[Vec<f32>; 2]) -> String {
    let mut svg = Svg::new();
    let limit = changes.iter().flatten().fold(0.0f32, |m, c| m.max(c.abs()));
    svg.text(
        10.0,
        18.0,
        13.0,
        &format!("log odds {:.4}; red raises, blue lowers by up to {limit:.1e}", base.score.log_odds),
    );
    for side in 0..2 {
        let rows: Vec<Vec<f64>> =
            (0..4).map(|a| changes[side].iter().skip(a).step_by(4).map(|&c| f64::from(c)).collect()).collect();
        let present = one_hot(&base.windows.codes[side]);
        let letters: Vec<[f64; 4]> = changes[side]
            .chunks_exact(4)
            .zip(present.chunks_exact(4))
            .map(|(c, x)| {
                let loss = -f64::from(c.iter().sum::<f32>()) / 3.0;
                [0, 1, 2, 3].map(|a| x[a] * loss)
            })
            .collect();
        element(&mut svg, &format!("{} (rows A, C, G, T)", place.title(side)), &rows, &letters, limit.into());
    }
    svg.finish()
}
