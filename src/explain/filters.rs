//! What each convolution filter reads: the stretches that activate it, as a motif.

use std::fmt::Write;

use super::scorer::Scorer;
use super::shuffle::composition;
use super::similarity::{Match, Measure, match_motifs};
use super::svg::Svg;
use crate::autograd::Tape;
use crate::backend::{Backend, DnaBatch};
use crate::data::meme::Motif;
use crate::data::{Dataset, Side};
use crate::error::{Error, Result};
use crate::models::{Model, SideInput};

/// One filter of one side.
#[derive(Clone, Debug)]
pub struct Filter {
    /// 0 enhancer, 1 promoter.
    pub side: usize,
    pub index: usize,
    /// Highest activation over the windows; 0 for a filter that never speaks.
    pub maximum: f32,
    /// Places over the threshold, and windows with one.
    pub hits: u64,
    pub windows: u64,
    /// Bases counted at each tap over all hits, N left out: `[K][4]`.
    pub counts: Vec<[f64; 4]>,
    /// Shares of the bases in all windows of this side.
    pub background: [f64; 4],
}

impl Filter {
    /// `enhancer_17`.
    pub fn name(&self) -> String {
        format!("{}_{}", super::pairs::SIDES[self.side], self.index)
    }
    /// Probabilities at each tap, with one pseudo-count of the background.
    pub fn motif(&self) -> Motif {
        let column = |counts: &[f64; 4]| {
            let sum: f64 = counts.iter().sum::<f64>() + 1.0;
            std::array::from_fn(|a| (counts[a] + self.background[a]) / sum)
        };
        Motif { id: self.name(), probabilities: self.counts.iter().map(column).collect() }
    }
    /// Information of each tap against a uniform background, in bits.
    pub fn information(&self) -> Vec<f64> {
        information(&self.motif())
    }
}

/// Bits per position, `2 - entropy`.
pub fn information(motif: &Motif) -> Vec<f64> {
    let entropy = |p: &[f64; 4]| p.iter().filter(|p| **p > 0.0).map(|p| -p * p.log2()).sum::<f64>();
    motif.probabilities.iter().map(|p| (2.0 - entropy(p)).max(0.0)).collect()
}

/// Activations of every filter at every base of some windows, `[B,L-K+1,C]` on the host, and `C`.
fn activations<B: Backend>(
    scorer: &Scorer<'_, B>,
    dataset: &Dataset,
    side: usize,
    elements: &[u32],
) -> Result<(DnaBatch, Vec<f32>, usize)> {
    let s = [Side::Enhancer, Side::Promoter][side];
    let mut dna = DnaBatch::new(elements.len(), dataset.table().length(s));
    elements.iter().enumerate().for_each(|(b, &element)| dataset.write_window(s, element, 0, false, &mut dna, b));
    let uploaded = scorer.backend.upload_dna(&dna)?;
    let mut tape = Tape::evaluation(scorer.backend, scorer.step());
    let constants = scorer.parameters.constants();
    let out = scorer.model.positions(&mut tape, &constants, side, SideInput::Dna(&uploaded), 1)?;
    Ok((dna, scorer.backend.to_f32(out.value())?, out.shape()[2]))
}

/// The filters of one side over the windows of `elements`: hits are places where a filter reaches `share` of its highest
/// activation. Two passes, a batch at a time; `tick` is told the windows done in both together.
///
/// # Errors
/// [`Error::Unsupported`] for networks whose first layer is no plain convolution of DNA.
pub fn filters<B: Backend>(
    scorer: &Scorer<'_, B>,
    dataset: &Dataset,
    side: usize,
    elements: &[u32],
    share: f32,
    tick: &mut dyn FnMut(u64),
) -> Result<Vec<Filter>> {
    let conv = scorer.model.first_convolution().ok_or_else(|| Error::Unsupported {
        op: "filters",
        message: format!("{} does not begin with a convolution that can be read alone", scorer.model.name()),
    })?;
    let mut found: Vec<Filter> = Vec::new();
    let (mut done, mut bases) = (0, [0.0f64; 4]);
    for chunk in elements.chunks(scorer.batch()) {
        let (dna, values, channels) = activations(scorer, dataset, side, chunk)?;
        found.resize_with(channels, || Filter {
            side,
            index: 0,
            maximum: 0.0,
            hits: 0,
            windows: 0,
            counts: vec![[0.0; 4]; conv.kernel],
            background: [0.25; 4],
        });
        for row in values.chunks_exact(channels) {
            found.iter_mut().zip(row).for_each(|(filter, v)| filter.maximum = filter.maximum.max(*v));
        }
        for b in 0..chunk.len() {
            let codes = dna.codes(b);
            let shares = composition(&codes);
            bases.iter_mut().zip(shares).for_each(|(sum, share)| *sum += share / elements.len() as f64);
        }
        done += chunk.len() as u64;
        tick(done);
    }
    for (index, filter) in found.iter_mut().enumerate() {
        (filter.index, filter.background) = (index, bases);
    }
    for chunk in elements.chunks(scorer.batch()) {
        let (dna, values, channels) = activations(scorer, dataset, side, chunk)?;
        let places = values.len() / channels / chunk.len();
        for b in 0..chunk.len() {
            let codes = dna.codes(b);
            let mut hit = vec![false; channels];
            for l in 0..places {
                let row = &values[(b * places + l) * channels..][..channels];
                for (c, &value) in row.iter().enumerate() {
                    let filter = &mut found[c];
                    if filter.maximum > 0.0 && value >= share * filter.maximum {
                        filter.hits += 1;
                        hit[c] = true;
                        for (counts, &code) in filter.counts.iter_mut().zip(&codes[l..]) {
                            if code < 4 {
                                counts[usize::from(code)] += 1.0;
                            }
                        }
                    }
                }
            }
            found.iter_mut().zip(hit).for_each(|(filter, hit)| filter.windows += u64::from(hit));
        }
        done += chunk.len() as u64;
        tick(done);
    }
    Ok(found)
}

/// The known motif that each filter resembles most; filters without a hit have none.
pub fn matches(found: &[Filter], database: &[Motif], measure: Measure, seed: u64) -> Vec<Option<Match>> {
    let speaking: Vec<&Filter> = found.iter().filter(|f| f.hits > 0).collect();
    let motifs: Vec<Motif> = speaking.iter().map(|f| f.motif()).collect();
    let mut all = vec![None; found.len()];
    for (filter, found) in speaking.iter().zip(match_motifs(&motifs, database, measure, seed)) {
        all[filter.index] = Some(found);
    }
    all
}

/// A known motif, and the filters of one side that read it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Reading {
    pub side: usize,
    pub motif: String,
    /// Filters that resemble this motif more than any other, below the false discovery rate; the surest first.
    pub filters: Vec<usize>,
    /// Lowest false discovery rate among them.
    pub q: f64,
    /// Hits of all of them together.
    pub hits: u64,
}

/// The known motifs that filters read, the one that most filters read first. Many filters of a network learn the same
/// motif, so that a list of filters tells less than it seems to.
pub fn readings(found: &[Filter], matches: &[Option<Match>], fdr: f64) -> Vec<Reading> {
    let mut readings: Vec<Reading> = Vec::new();
    let called = found.iter().zip(matches).filter_map(|(f, m)| Some((f, m.as_ref().filter(|m| m.q < fdr)?)));
    let mut called: Vec<(&Filter, &Match)> = called.collect();
    called.sort_by(|(_, a), (_, b)| a.p.total_cmp(&b.p).then(b.score.total_cmp(&a.score)));
    for (filter, m) in called {
        let at = readings.iter().position(|r| r.motif == m.motif).unwrap_or_else(|| {
            let (motif, filters) = (m.motif.clone(), Vec::new());
            readings.push(Reading { side: filter.side, motif, filters, q: m.q, hits: 0 });
            readings.len() - 1
        });
        readings[at].filters.push(filter.index);
        readings[at].hits += filter.hits;
    }
    // Stable: among motifs with as many filters, the surest match stays in front.
    readings.sort_by_key(|r| std::cmp::Reverse(r.filters.len()));
    readings
}

/// All filters that have a hit as a MEME file, with hit counts and the background of the windows.
pub fn meme(filters: &[Filter]) -> String {
    let background = filters.first().map_or([0.25; 4], |f| f.background);
    let [a, c, g, t] = background;
    let mut text = String::from("MEME version 4\n\nALPHABET= ACGT\n\nstrands: + -\n\nBackground letter frequencies\n");
    let _ = writeln!(text, "A {a:.4} C {c:.4} G {g:.4} T {t:.4}\n");
    for filter in filters.iter().filter(|f| f.hits > 0) {
        let motif = filter.motif();
        let _ = writeln!(text, "MOTIF {}", motif.id);
        let (w, n) = (motif.width(), filter.hits);
        let _ = writeln!(text, "letter-probability matrix: alength= 4 w= {w} nsites= {n} E= 0");
        for [a, c, g, t] in &motif.probabilities {
            let _ = writeln!(text, " {a:.6}  {c:.6}  {g:.6}  {t:.6}");
        }
        let _ = writeln!(text);
    }
    text
}

/// Logos of all filters that have a hit, three a row, letters as tall as their share of the information.
pub fn draw(filters: &[Filter], labels: &[String]) -> String {
    let mut svg = Svg::new();
    let shown = filters.iter().zip(labels).filter(|(f, _)| f.hits > 0);
    for (i, (filter, label)) in shown.enumerate() {
        let (x, y) = (10.0 + 330.0 * (i % 3) as f64, 20.0 + 110.0 * (i / 3) as f64);
        svg.text(x, y, 11.0, &format!("{} {label}", filter.name()));
        let (motif, bits) = (filter.motif(), filter.information());
        let heights: Vec<[f64; 4]> = motif.probabilities.iter().zip(&bits).map(|(p, b)| p.map(|p| p * b)).collect();
        let tall = 80.0 * bits.iter().copied().fold(0.0, f64::max) / 2.0;
        svg.logo([x, y + 6.0 + 80.0 - tall, 300.0, tall], &heights);
    }
    svg.finish()
}
