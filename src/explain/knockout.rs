//! Motif knock-outs over a set of pairs, as SPEID's: each hit of a motif replaced by background.

use super::partial::line;
use super::scorer::{Score, Scorer, Windows};
use super::shuffle::{composition, draw};
use crate::backend::Backend;
use crate::data::meme::Motif;
use crate::error::Result;
use crate::metrics::Ranking;
use crate::rng::{Stream, stream};

/// A motif as log odds against a background, with the score from which on a stretch counts as a hit.
#[derive(Clone, Debug)]
pub struct Scanner {
    /// `[width][base]`, in hundredths of a bit.
    scores: Vec<[i32; 4]>,
    threshold: i32,
}

impl Scanner {
    /// Hits have a probability of at most `p` per place and strand in bases of composition `background`: computed exactly
    /// from the distribution of scores in hundredths of a bit.
    pub fn new(motif: &Motif, background: [f64; 4], p: f64) -> Self {
        let score = |column: &[f64; 4]| {
            [0, 1, 2, 3].map(|a| {
                // A pseudo-count of one sequence in a hundred keeps impossible bases finite.
                let probability = 0.99 * column[a] + 0.01 * background[a];
                (100.0 * (probability / background[a].max(1e-6)).log2()).round() as i32
            })
        };
        let scores: Vec<[i32; 4]> = motif.probabilities.iter().map(score).collect();
        let least: i32 = scores.iter().map(|c| c.iter().min().expect("four")).sum();
        let most: i32 = scores.iter().map(|c| c.iter().max().expect("four")).sum();
        let mut distribution = vec![0.0; (most - least + 1) as usize];
        distribution[0] = 1.0;
        for column in &scores {
            let lowest = *column.iter().min().expect("four");
            let mut next = vec![0.0; distribution.len()];
            for (at, &probability) in distribution.iter().enumerate().filter(|(_, p)| **p > 0.0) {
                for a in 0..4 {
                    next[at + (column[a] - lowest) as usize] += probability * background[a];
                }
            }
            distribution = next;
        }
        let (mut tail, mut threshold) = (0.0, most + 1);
        for at in (0..distribution.len()).rev() {
            tail += distribution[at];
            if tail > p {
                break;
            }
            threshold = least + at as i32;
        }
        Scanner { scores, threshold }
    }
    /// Positions of the motif.
    pub fn width(&self) -> usize {
        self.scores.len()
    }
    /// Starts of hits on either strand; a stretch with an N is none.
    pub fn hits(&self, codes: &[u8]) -> Vec<usize> {
        let w = self.width();
        let hit = |window: &[u8]| {
            if window.iter().any(|&c| c > 3) {
                return false;
            }
            let forward: i32 = window.iter().zip(&self.scores).map(|(&c, s)| s[usize::from(c)]).sum();
            let reverse: i32 = window.iter().rev().zip(&self.scores).map(|(&c, s)| s[usize::from(3 - c)]).sum();
            forward.max(reverse) >= self.threshold
        };
        codes.windows(w).enumerate().filter(|(_, window)| hit(window)).map(|(i, _)| i).collect()
    }
}

/// What taking a motif out of a set of pairs does.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Knockout {
    pub motif: String,
    /// Pairs with a hit, and hits.
    pub pairs: usize,
    pub hits: usize,
    /// Mean change of the log odds of positives and of negatives with a hit.
    pub change_positives: Option<f64>,
    pub change_negatives: Option<f64>,
    /// Area under the precision–recall curve of all pairs, without the motif.
    pub aupr: Option<f64>,
    /// Its difference from that of the unchanged pairs.
    pub aupr_change: Option<f64>,
}

impl Knockout {
    /// As [`Partial`](super::Partial) keeps it.
    pub fn line(&self) -> String {
        let numbers = [self.change_positives, self.change_negatives, self.aupr, self.aupr_change];
        // An absent figure is kept as NaN, which none of them ever is.
        let numbers = line(numbers.map(|v| v.unwrap_or(f64::NAN)));
        format!("{}\t{}\t{numbers}\t{}", self.pairs, self.hits, self.motif)
    }
    /// What [`Knockout::line`] wrote.
    pub fn read(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.splitn(7, '\t').collect();
        let [pairs, hits, a, b, c, d, motif] = fields[..] else { return None };
        let figure = |text: &str| text.parse::<f64>().ok().map(|v| Some(v).filter(|v| !v.is_nan()));
        Some(Knockout {
            motif: motif.into(),
            pairs: pairs.parse().ok()?,
            hits: hits.parse().ok()?,
            change_positives: figure(a)?,
            change_negatives: figure(b)?,
            aupr: figure(c)?,
            aupr_change: figure(d)?,
        })
    }
}

/// AUPR of scored pairs.
pub fn aupr(labels: &[u8], scores: &[Score]) -> Option<f64> {
    let scores: Vec<f64> = scores.iter().map(|s| s.log_odds.into()).collect();
    Ranking::ungrouped(labels, &scores, 0.0).scores().aupr
}

/// Replaces every hit of `motif` (both elements, both strands) by bases of the window's composition and scores the pairs
/// that have one again; `before` are the scores of the unchanged pairs.
pub fn knock_out<B: Backend>(
    scorer: &Scorer<'_, B>,
    motif: &Motif,
    pairs: &[Windows],
    labels: &[u8],
    before: &[Score],
    (p, seed): (f64, u64),
) -> Result<Knockout> {
    let all = composition(pairs.iter().flat_map(|w| w.codes.iter().flatten()));
    let scanner = Scanner::new(motif, all, p);
    let (mut after, mut hits, mut changed) = (before.to_vec(), 0, Vec::new());
    for (i, windows) in pairs.iter().enumerate() {
        let mut codes = windows.codes.clone();
        let mut found = 0;
        for (side, codes) in codes.iter_mut().enumerate() {
            let shares = composition(&windows.codes[side]);
            let mut random = Stream::new(seed, stream::EXPLAIN, (side << 31 | i) as u32);
            for start in scanner.hits(&windows.codes[side]) {
                found += 1;
                codes[start..start + scanner.width()].iter_mut().for_each(|c| *c = draw(&shares, &mut random));
            }
        }
        if found > 0 {
            hits += found;
            changed.push((i, codes));
        }
    }
    for chunk in changed.chunks(scorer.batch()) {
        let borrowed: Vec<[&[u8]; 2]> = chunk.iter().map(|(_, [e, p])| [e.as_slice(), p.as_slice()]).collect();
        for ((i, _), score) in chunk.iter().zip(scorer.score(&borrowed)?) {
            after[*i] = score;
        }
    }
    let mean = |label: u8| {
        let of: Vec<f64> = changed
            .iter()
            .filter(|(i, _)| labels[*i] == label)
            .map(|(i, _)| f64::from(after[*i].log_odds - before[*i].log_odds))
            .collect();
        (!of.is_empty()).then(|| of.iter().sum::<f64>() / of.len() as f64)
    };
    let (old, new) = (aupr(labels, before), aupr(labels, &after));
    Ok(Knockout {
        motif: motif.id.clone(),
        pairs: changed.len(),
        hits,
        change_positives: mean(1),
        change_negatives: mean(0),
        aupr: new,
        aupr_change: new.zip(old).map(|(n, o)| n - o),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_found_on_both_strands_and_are_rare_by_chance() {
        let motif = &crate::data::meme::built_in()[0];
        let scanner = Scanner::new(motif, [0.25; 4], 1e-4);
        let mut random = Stream::new(1, 1, 0);
        let mut codes: Vec<u8> = (0..50_000).map(|_| random.below(4) as u8).collect();
        let by_chance = scanner.hits(&codes).len();
        assert!((2..=25).contains(&by_chance), "{by_chance} hits, about 10 expected");
        let consensus = motif.consensus();
        codes[100..100 + consensus.len()].copy_from_slice(&consensus);
        let reverse: Vec<u8> = consensus.iter().rev().map(|c| 3 - c).collect();
        codes[300..300 + reverse.len()].copy_from_slice(&reverse);
        let hits = scanner.hits(&codes);
        assert!(hits.contains(&100) && hits.contains(&300));
    }
}
