//! Which known motif a filter resembles: best alignment on both strands, held against shuffled motifs.

use rayon::prelude::*;

use super::statistics::benjamini_hochberg;
use crate::data::meme::Motif;
use crate::rng::{Stream, stream};

/// How two columns of probabilities are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Measure {
    /// Correlation of the two columns.
    Pearson,
    /// Euclidean distance, as `1 - d/(√2/2)`.
    Euclid,
}

/// A filter beside the motif that it resembles most.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Match {
    pub motif: String,
    /// Sum of column similarities over the overlap, by the root of its length.
    pub score: f64,
    /// Columns of the motif before the filter's first one.
    pub offset: i64,
    /// Columns that overlap.
    pub overlap: usize,
    pub reverse: bool,
    /// Probability that a shuffled motif scores as high.
    pub p: f64,
    /// False discovery rate among all motifs, for this filter.
    pub q: f64,
}

fn column(measure: Measure, a: &[f64; 4], b: &[f64; 4]) -> f64 {
    match measure {
        Measure::Pearson => {
            let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
            for (a, b) in a.iter().zip(b) {
                let (a, b) = (a - 0.25, b - 0.25);
                (ab, aa, bb) = (ab + a * b, aa + a * a, bb + b * b);
            }
            if aa * bb > 1e-12 { ab / (aa * bb).sqrt() } else { 0.0 }
        }
        Measure::Euclid => {
            let distance: f64 = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
            1.0 - distance / std::f64::consts::FRAC_1_SQRT_2
        }
    }
}

fn reversed(columns: &[[f64; 4]]) -> Vec<[f64; 4]> {
    columns.iter().rev().map(|[a, c, g, t]| [*t, *g, *c, *a]).collect()
}

/// Best alignment: score, offset, overlap.
fn align(measure: Measure, filter: &[[f64; 4]], motif: &[[f64; 4]]) -> (f64, i64, usize) {
    let least = 5.min(filter.len()).min(motif.len()) as i64;
    let (n, m) = (filter.len() as i64, motif.len() as i64);
    let mut best = (f64::NEG_INFINITY, 0, 0);
    for offset in least - n..=m - least {
        let (from, to) = (0.max(-offset), n.min(m - offset));
        let sum: f64 = (from..to).map(|i| column(measure, &filter[i as usize], &motif[(i + offset) as usize])).sum();
        let score = sum / ((to - from) as f64).sqrt();
        if score > best.0 {
            best = (score, offset, (to - from) as usize);
        }
    }
    best
}

fn best(measure: Measure, filter: &[[f64; 4]], motif: &[[f64; 4]]) -> (f64, i64, usize, bool) {
    let (forward, backward) = (align(measure, filter, motif), align(measure, filter, &reversed(motif)));
    let reverse = backward.0 > forward.0;
    let (score, offset, overlap) = if reverse { backward } else { forward };
    (score, offset, overlap, reverse)
}

/// The motif of `database` that each filter resembles most. The null is the scores of the same motifs with their columns
/// shuffled, pooled over the database, at least 25 times as many as there are motifs.
pub fn match_motifs(filters: &[Motif], database: &[Motif], measure: Measure, seed: u64) -> Vec<Match> {
    let copies = 2000usize.div_ceil(database.len().max(1)).max(25);
    let shuffled: Vec<Vec<[f64; 4]>> = database
        .iter()
        .enumerate()
        .flat_map(|(i, motif)| (0..copies).map(move |c| (i * copies + c, motif)))
        .map(|(number, motif)| {
            let mut columns = motif.probabilities.clone();
            Stream::new(seed, stream::EXPLAIN, number as u32).shuffle(&mut columns);
            columns
        })
        .collect();
    let of_filter = |filter: &Motif| -> Match {
        let filter = &filter.probabilities;
        let mut null: Vec<f64> = shuffled.iter().map(|columns| best(measure, filter, columns).0).collect();
        null.sort_unstable_by(f64::total_cmp);
        let found: Vec<_> = database.iter().map(|motif| best(measure, filter, &motif.probabilities)).collect();
        let p = |score: f64| {
            let above = null.len() - null.partition_point(|n| *n < score);
            (above + 1) as f64 / (null.len() + 1) as f64
        };
        let p: Vec<f64> = found.iter().map(|f| p(f.0)).collect();
        let q = benjamini_hochberg(&p);
        let top = (0..found.len()).max_by(|&a, &b| found[a].0.total_cmp(&found[b].0)).expect("a database is not empty");
        let (score, offset, overlap, reverse) = found[top];
        Match { motif: database[top].id.clone(), score, offset, overlap, reverse, p: p[top], q: q[top] }
    };
    filters.par_iter().map(of_filter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::meme::built_in;

    #[test]
    fn motifs_match_themselves_cut_turned_and_blurred_and_noise_matches_nothing() {
        let database = built_in();
        let cut = |m: &Motif| m.probabilities[2..m.width() - 1].to_vec();
        let blur = |columns: Vec<[f64; 4]>| columns.iter().map(|c| c.map(|p| 0.8 * p + 0.05)).collect::<Vec<_>>();
        let filters: Vec<Motif> = database
            .iter()
            .enumerate()
            .map(|(i, m)| {
                let columns = blur(cut(m));
                let probabilities = if i % 2 == 1 { reversed(&columns) } else { columns };
                Motif { id: "f".into(), probabilities }
            })
            .collect();
        for measure in [Measure::Pearson, Measure::Euclid] {
            for (i, found) in match_motifs(&filters, &database, measure, 1).iter().enumerate() {
                assert_eq!(found.motif, database[i].id);
                assert!(found.q < 0.05 && found.reverse == (i % 2 == 1), "{found:?}");
            }
        }
        let mut random = Stream::new(3, 1, 0);
        let noise: Vec<Motif> = (0..20)
            .map(|_| {
                let mut column = || {
                    let raw: [f64; 4] = std::array::from_fn(|_| random.uniform_f64().powi(3));
                    let sum: f64 = raw.iter().sum();
                    raw.map(|v| v / sum)
                };
                Motif { id: "noise".into(), probabilities: (0..13).map(|_| column()).collect() }
            })
            .collect();
        let called = match_motifs(&noise, &database, Measure::Pearson, 1).iter().filter(|m| m.q < 0.05).count();
        assert!(called <= 2, "{called} of 20 random filters called");
    }
}
