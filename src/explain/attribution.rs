//! Which bases a score rests on: gradient × input and integrated gradients (Sundararajan et al. 2017), in evaluation mode.

use std::io::Write;
use std::path::Path;

use super::Npz;
use super::pairs::{Place, SIDES, letter};
use super::partial::{line, numbers};
use super::scorer::{Scorer, Windows};
use super::shuffle::dinucleotides;
use super::svg::{Svg, element};
use crate::autograd::Tape;
use crate::backend::Backend;
use crate::data::dataset::write_atomically;
use crate::error::{Error, Result};
use crate::models::{DeviceBatch, Model};
use crate::rng::{Stream, stream};

/// How a score is divided among the bases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Method {
    /// Derivative of the log odds with respect to each base, at the base that is there.
    GradientInput,
    /// Derivatives averaged along the straight line from a baseline, times the way from there.
    Integrated,
}

/// Where integrated gradients begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Baseline {
    /// All N: zeros.
    Zeros,
    /// A quarter of each base.
    Uniform,
    /// Dinucleotide shuffles of both windows, averaged over several.
    Shuffle,
}

/// Options of [`attribute`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    pub method: Method,
    pub baseline: Baseline,
    /// Points of the integral (midpoint rule).
    pub steps: usize,
    /// Shuffles that are averaged.
    pub shuffles: usize,
    pub seed: u64,
}

/// The attributions of one pair.
#[derive(Clone, Debug)]
pub struct Attribution {
    /// `[L,4]` per side: contribution of each input channel to the log odds.
    pub values: [Vec<f64>; 2],
    /// Log odds of the pair, and of the baseline (mean over shuffles; `None` for gradient × input).
    pub log_odds: f64,
    pub baseline: Option<f64>,
}

impl Attribution {
    /// Sum over all bases of both windows.
    pub fn sum(&self) -> f64 {
        self.values.iter().flatten().sum()
    }
    /// Contribution of position `i` of a side.
    pub fn position(&self, side: usize, i: usize) -> f64 {
        self.values[side][4 * i..4 * i + 4].iter().sum()
    }
    /// As [`Partial`](super::Partial) keeps it: log odds, baseline (NaN without one), contributions of both sides.
    pub fn line(&self) -> String {
        let head = [self.log_odds, self.baseline.unwrap_or(f64::NAN)];
        line(head.iter().chain(self.values.iter().flatten()))
    }
    /// What [`Attribution::line`] wrote of windows of these lengths.
    pub fn read(line: &str, lengths: [usize; 2]) -> Option<Self> {
        let all = numbers::<f64>(line).filter(|all| all.len() == 2 + 4 * (lengths[0] + lengths[1]))?;
        let (enhancer, promoter) = all[2..].split_at(4 * lengths[0]);
        let baseline = Some(all[1]).filter(|b| !b.is_nan());
        Some(Attribution { values: [enhancer.to_vec(), promoter.to_vec()], log_odds: all[0], baseline })
    }
    /// By how much the sum misses the difference of the outputs; `None` for gradient × input, which promises none.
    pub fn incompleteness(&self) -> Option<f64> {
        Some((self.sum() - (self.log_odds - self.baseline?)).abs())
    }
}

/// Codes as `[L,4]` floats; N is all zeros.
pub fn one_hot(codes: &[u8]) -> Vec<f64> {
    codes.iter().flat_map(|&code| (0..4).map(move |a| f64::from(u8::from(a == code)))).collect()
}

/// Attributions of the log odds of one pair to both windows; `tick` is told the gradients done.
///
/// # Errors
/// [`Error::Unsupported`] for a network that cannot read soft windows.
pub fn attribute<B: Backend>(
    scorer: &Scorer<'_, B>,
    windows: &Windows,
    options: &Options,
    tick: &mut dyn FnMut(u64),
) -> Result<Attribution> {
    if !scorer.model.soft_windows() {
        let message = format!("{} cannot be differentiated with respect to its windows", scorer.model.name());
        return Err(Error::Unsupported { op: "attributions", message });
    }
    let input = [0, 1].map(|side| one_hot(&windows.codes[side]));
    let mut done = 0;
    let mut gradients = |points: &[[Vec<f64>; 2]]| -> Result<(Vec<f64>, [Vec<f64>; 2])> {
        let result = sum_of_gradients(scorer, points)?;
        done += points.len() as u64;
        tick(done);
        Ok(result)
    };
    if options.method == Method::GradientInput {
        let (log_odds, gradient) = gradients(std::slice::from_ref(&input))?;
        let values = [0, 1].map(|s| gradient[s].iter().zip(&input[s]).map(|(g, x)| g * x).collect());
        return Ok(Attribution { values, log_odds: log_odds[0], baseline: None });
    }
    let baselines: Vec<[Vec<f64>; 2]> = match options.baseline {
        Baseline::Zeros => vec![[0, 1].map(|s| vec![0.0; input[s].len()])],
        Baseline::Uniform => vec![[0, 1].map(|s| vec![0.25; input[s].len()])],
        Baseline::Shuffle => (0..options.shuffles.max(1) as u32)
            .map(|n| {
                let mut random = Stream::new(options.seed, stream::EXPLAIN, n);
                [0, 1].map(|s| one_hot(&dinucleotides(&windows.codes[s], &mut random)))
            })
            .collect(),
    };
    let mut values = [0, 1].map(|s| vec![0.0; input[s].len()]);
    let (mut at_baseline, share) = (0.0, 1.0 / baselines.len() as f64);
    for baseline in &baselines {
        let point = |share: f64| -> [Vec<f64>; 2] {
            [0, 1].map(|s| baseline[s].iter().zip(&input[s]).map(|(b, x)| b + share * (x - b)).collect())
        };
        let mut sums = [0, 1].map(|s| vec![0.0; input[s].len()]);
        let steps: Vec<f64> = (0..options.steps).map(|i| (i as f64 + 0.5) / options.steps as f64).collect();
        for chunk in steps.chunks(scorer.batch()) {
            let points: Vec<_> = chunk.iter().map(|&share| point(share)).collect();
            let (_, gradient) = gradients(&points)?;
            for s in 0..2 {
                sums[s].iter_mut().zip(&gradient[s]).for_each(|(sum, g)| *sum += g);
            }
        }
        for s in 0..2 {
            for ((value, sum), (b, x)) in values[s].iter_mut().zip(&sums[s]).zip(baseline[s].iter().zip(&input[s])) {
                *value += share * (x - b) * sum / options.steps as f64;
            }
        }
        at_baseline += share * gradients(std::slice::from_ref(baseline))?.0[0];
    }
    let (log_odds, _) = gradients(std::slice::from_ref(&input))?;
    Ok(Attribution { values, log_odds: log_odds[0], baseline: Some(at_baseline) })
}

/// Log odds at each point, and the sum over the points of their gradients.
fn sum_of_gradients<B: Backend>(scorer: &Scorer<'_, B>, points: &[[Vec<f64>; 2]]) -> Result<(Vec<f64>, [Vec<f64>; 2])> {
    let (b, n) = (scorer.backend, points.len());
    let mut tape = Tape::evaluation_with_gradients(b, scorer.step());
    let mut leaf = |side: usize| {
        let values: Vec<f64> = points.iter().flat_map(|point| &point[side]).copied().collect();
        Ok(tape.leaf(b.from_f64(&values, &[n, points[0][side].len() / 4, 4])?))
    };
    let leaves: Vec<_> = (0..2).map(&mut leaf).collect::<Result<_>>()?;
    let batch = DeviceBatch::soft(b, [leaves[0].clone(), leaves[1].clone()])?;
    let output = scorer.model.forward(&mut tape, &scorer.parameters.constants(), &batch)?;
    let logits = b.to_f64(output.logits.value())?;
    let width = logits.len() / n;
    let seed: Vec<f64> = (0..n).flat_map(|_| if width == 1 { vec![1.0] } else { vec![-1.0, 1.0] }).collect();
    let log_odds = logits.chunks_exact(width).map(|l| if width == 1 { l[0] } else { l[1] - l[0] }).collect();
    let gradients = tape.backward(&output.logits, b.from_f64(&seed, output.logits.shape())?)?;
    let mut sums: [Vec<f64>; 2] = Default::default();
    for side in 0..2 {
        let each = gradients.of(&leaves[side]).map_or(Ok(Vec::new()), |g| b.to_f64(g))?;
        let size = points[0][side].len();
        sums[side] = vec![0.0; size];
        for gradient in each.chunks_exact(size) {
            sums[side].iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
        }
    }
    Ok((log_odds, sums))
}

/// Per base: contribution of the base that is there (of all channels for integrated gradients).
pub fn write_table(path: &Path, pairs: &[(Place, Windows, Attribution)]) -> Result<()> {
    write_atomically(path, |out| {
        writeln!(out, "row\tside\tindex\tcontig\tposition\tbase\tattribution")?;
        for (place, windows, attribution) in pairs {
            for (side, codes) in windows.codes.iter().enumerate() {
                for (i, &code) in codes.iter().enumerate() {
                    let (base, value) = (place.base(side, i), attribution.position(side, i));
                    writeln!(out, "{}\t{}\t{i}\t{base}\t{}\t{value:e}", place.row, SIDES[side], letter(code))?;
                }
            }
        }
        Ok(())
    })
}

/// Adds `row<N>_<side>` `[L,4]`.
pub fn write_arrays(npz: &mut Npz, place: &Place, attribution: &Attribution) -> Result<()> {
    for side in 0..2 {
        let values: Vec<f32> = attribution.values[side].iter().map(|&v| v as f32).collect();
        npz.add(&format!("row{}_{}", place.row, SIDES[side]), &[values.len() / 4, 4], &values)?;
    }
    Ok(())
}

/// An overview of both windows, and the stretch with the largest contributions as letters.
pub fn draw(place: &Place, windows: &Windows, attribution: &Attribution) -> String {
    let mut svg = Svg::new();
    let positions =
        |side: usize| -> Vec<f64> { (0..windows.codes[side].len()).map(|i| attribution.position(side, i)).collect() };
    let limit = (0..2).flat_map(positions).fold(0.0f64, |m, v| m.max(v.abs()));
    let head = format!("log odds {:.4}; red raises, blue lowers, at most {limit:.4} a base", attribution.log_odds);
    svg.text(10.0, 18.0, 13.0, &head);
    for side in 0..2 {
        let row = positions(side);
        let present = one_hot(&windows.codes[side]);
        let letters: Vec<[f64; 4]> =
            row.iter().zip(present.chunks_exact(4)).map(|(v, x)| [0, 1, 2, 3].map(|a| x[a] * v)).collect();
        element(&mut svg, &place.title(side), &[row], &letters, limit);
    }
    svg.finish()
}
