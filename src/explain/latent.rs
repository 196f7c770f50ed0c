//! The code of an autoencoder: principal components, the direction of interaction, walks along it, and what drives it.

use super::attribution::one_hot;
use super::partial::{Partial, line, numbers};
use super::scorer::{Edit, Reuse, Scorer, Windows};
use super::svg::Svg;
use crate::autograd::{Tape, Var};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::models::{DeviceBatch, Model};
use crate::rng::{Stream, stream};

/// Codes and class logits of some pairs.
#[derive(Clone, Debug, Default)]
pub struct Codes {
    /// `[n][D]`
    pub codes: Vec<Vec<f64>>,
    /// `[n][2]`: activations of the logistic layer.
    pub logits: Vec<[f64; 2]>,
}

/// Codes and logistic activations, a batch at a time; in `kept` too, a line a pair (both activations, then the code), where
/// those of an earlier run that stopped come from.
///
/// # Errors
/// [`Error::Unsupported`] for networks without a code.
pub fn codes<B: Backend>(
    scorer: &Scorer<'_, B>,
    pairs: &[Windows],
    kept: Option<(&mut Partial, Vec<Vec<f64>>)>,
    tick: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Codes> {
    let mut all = Codes::default();
    let (mut partial, known) = kept.unzip();
    for mut numbers in known.unwrap_or_default() {
        let logits = [numbers[0], numbers[1]];
        all.codes.push(numbers.split_off(2));
        all.logits.push(logits);
    }
    for chunk in pairs[all.codes.len().min(pairs.len())..].chunks(scorer.batch()) {
        let borrowed: Vec<[&[u8]; 2]> = chunk.iter().map(|w| [w.codes[0].as_slice(), w.codes[1].as_slice()]).collect();
        let batch = scorer.upload(&borrowed)?;
        let mut tape = scorer.tape();
        let code = scorer.model.code(&mut tape, &scorer.parameters.constants(), &batch).map_err(no_code)?;
        let (logits, _) = decode(scorer, code.value().clone(), windows_of(&chunk[0]))?;
        let values = scorer.backend.to_f64(code.value())?;
        let new = values.chunks_exact(values.len() / chunk.len());
        if let Some(partial) = &mut partial {
            partial.append(new.clone().zip(&logits).map(|(code, logits)| line(logits.iter().chain(code))))?;
        }
        all.codes.extend(new.map(<[f64]>::to_vec));
        all.logits.extend(logits);
        tick(all.codes.len() as u64)?;
    }
    Ok(all)
}

fn no_code(error: Error) -> Error {
    match error {
        Error::Unsupported { message, .. } => {
            let model = message.split_whitespace().next().unwrap_or_default();
            Error::Unsupported { op: "latent", message: format!("{model} has no code: it is no autoencoder") }
        }
        other => other,
    }
}

fn windows_of(windows: &Windows) -> [usize; 2] {
    [0, 1].map(|side| windows.codes[side].len())
}

/// Logits and both windows `[B,L,4]` of codes on the device.
fn decode<B: Backend>(
    scorer: &Scorer<'_, B>,
    code: crate::backend::Tensor<B>,
    lengths: [usize; 2],
) -> Result<(Vec<[f64; 2]>, [Vec<f64>; 2])> {
    let mut tape = scorer.tape();
    let (logits, windows) =
        scorer.model.from_code(&mut tape, &scorer.parameters.constants(), &Var::constant(code), lengths)?;
    let logits = scorer.backend.to_f64(logits.value())?;
    let windows = [scorer.backend.to_f64(windows[0].value())?, scorer.backend.to_f64(windows[1].value())?];
    Ok((logits.chunks_exact(2).map(|l| [l[0], l[1]]).collect(), windows))
}

/// The first principal components of points, by power iteration on the matrix of their inner products.
#[derive(Clone, Debug)]
pub struct Components {
    /// Coordinates of each point, `[n][2]`.
    pub points: Vec<[f64; 2]>,
    /// Share of the variance along each.
    pub shares: [f64; 2],
}

/// Two principal components of `n` points whose inner products are `gram(i, j)`.
pub fn principal_components(n: usize, gram: impl Fn(usize, usize) -> f64) -> Components {
    let mut g: Vec<f64> = (0..n * n).map(|k| gram(k / n, k % n)).collect();
    // Centred: the points less their mean.
    let means: Vec<f64> = g.chunks_exact(n).map(|row| row.iter().sum::<f64>() / n as f64).collect();
    let mean = means.iter().sum::<f64>() / n as f64;
    for i in 0..n {
        for j in 0..n {
            g[i * n + j] += mean - means[i] - means[j];
        }
    }
    let total: f64 = (0..n).map(|i| g[i * n + i]).sum();
    let mut out = Components { points: vec![[0.0; 2]; n], shares: [0.0; 2] };
    for component in 0..2 {
        let mut random = Stream::new(1, stream::EXPLAIN, component as u32);
        let mut v: Vec<f64> = (0..n).map(|_| random.normal()).collect();
        let mut value = 0.0;
        for _ in 0..200 {
            let w: Vec<f64> = g.chunks_exact(n).map(|row| row.iter().zip(&v).map(|(g, v)| g * v).sum()).collect();
            value = w.iter().map(|w| w * w).sum::<f64>().sqrt();
            if value <= 0.0 {
                break;
            }
            v = w.iter().map(|w| w / value).collect();
        }
        for i in 0..n {
            out.points[i][component] = v[i] * value.max(0.0).sqrt();
            for j in 0..n {
                g[i * n + j] -= value * v[i] * v[j];
            }
        }
        out.shares[component] = if total > 0.0 { value / total } else { 0.0 };
    }
    out
}

/// Inner product of two pairs of windows as one-hot vectors: bases that agree.
pub fn agreeing_bases(a: &Windows, b: &Windows) -> f64 {
    let same = |side: usize| a.codes[side].iter().zip(&b.codes[side]).filter(|(x, y)| x == y && **x < 4).count();
    (same(0) + same(1)) as f64
}

/// The direction of the code along which the log odds rise: the difference of the two rows of the logistic layer. By one
/// unit along it (normalised), they rise by its length.
pub fn direction<B: Backend>(scorer: &Scorer<'_, B>) -> Result<(Vec<f64>, f64)> {
    let weight = scorer.backend.to_f64(&scorer.parameters.get("head.weight")?)?;
    let (first, second) = weight.split_at(weight.len() / 2);
    let difference: Vec<f64> = second.iter().zip(first).map(|(b, a)| b - a).collect();
    let length = difference.iter().map(|d| d * d).sum::<f64>().sqrt();
    Ok((difference.iter().map(|d| d / length.max(f64::MIN_POSITIVE)).collect(), length))
}

/// One step of a walk along the direction of interaction.
#[derive(Clone, Debug)]
pub struct Step {
    /// In standard deviations of the codes along the direction.
    pub step: f64,
    pub log_odds: f64,
    /// Bases of each reconstructed window that differ from the reconstruction at step 0.
    pub changed: [usize; 2],
}

/// A pair's code moved along the direction, and projected back.
#[derive(Clone, Debug)]
pub struct Projection {
    pub steps: Vec<Step>,
    /// Change of the reconstruction from one standard deviation against to one along the direction, `[L,4]` per side.
    pub reconstruction: [Vec<f64>; 2],
    /// Derivative of the position along the direction with respect to each input base, `[L,4]` per side.
    pub drivers: [Vec<f64>; 2],
    /// Correlation of what the derivatives predict for single-base changes with what these do to the log odds.
    pub agreement: Option<f64>,
    pub copies: usize,
}

impl Projection {
    /// As [`Partial`] keeps it.
    pub fn line(&self) -> String {
        let steps = self.steps.iter().flat_map(|s| [s.step, s.log_odds, s.changed[0] as f64, s.changed[1] as f64]);
        let maps = self.reconstruction.iter().chain(&self.drivers).flatten().copied();
        // An absent correlation is kept as NaN, which none ever is.
        let head = [self.agreement.unwrap_or(f64::NAN), self.copies as f64, self.steps.len() as f64];
        line(head.into_iter().chain(steps).chain(maps))
    }
    /// What [`Projection::line`] wrote of windows of these lengths.
    pub fn read(line: &str, lengths: [usize; 2]) -> Option<Self> {
        let all = numbers::<f64>(line)?;
        let (&[agreement, copies, n], rest) = all.split_first_chunk()?;
        let (steps, mut maps) = rest.split_at_checked(4 * n as usize)?;
        let step = |s: &[f64]| Step { step: s[0], log_odds: s[1], changed: [s[2] as usize, s[3] as usize] };
        let mut map = |side: usize| -> Option<Vec<f64>> {
            let (map, after) = maps.split_at_checked(4 * lengths[side])?;
            maps = after;
            Some(map.to_vec())
        };
        Some(Projection {
            steps: steps.chunks_exact(4).map(step).collect(),
            reconstruction: [map(0)?, map(1)?],
            drivers: [map(0)?, map(1)?],
            agreement: Some(agreement).filter(|a| !a.is_nan()),
            copies: copies as usize,
        })
    }
}

fn best_bases(window: &[f64]) -> Vec<usize> {
    let best = |p: &[f64]| (1..4).fold(0, |best, a| if p[a] > p[best] { a } else { best });
    window.chunks_exact(4).map(best).collect()
}

/// Walks from a pair's `code` in steps of `spread` and says what drives the direction in its input; `copies` single-base
/// changes, drawn under `seed`, are scored for the agreement.
pub fn project<B: Backend>(
    scorer: &Scorer<'_, B>,
    windows: &Windows,
    code: &[f64],
    (axis, spread): (&[f64], f64),
    (copies, seed): (usize, u64),
) -> Result<Projection> {
    const STEPS: [f64; 7] = [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0];
    let (backend, lengths) = (scorer.backend, windows_of(windows));
    let moved: Vec<f64> =
        STEPS.iter().flat_map(|s| code.iter().zip(axis).map(move |(c, a)| c + s * spread * a)).collect();
    let moved = backend.from_f64(&moved, &[STEPS.len(), code.len()])?;
    let (logits, decoded) = decode(scorer, moved, lengths)?;
    let at = |step: usize, side: usize| &decoded[side][step * 4 * lengths[side]..][..4 * lengths[side]];
    let middle = [0, 1].map(|side| best_bases(at(3, side)));
    let steps = STEPS.iter().enumerate().map(|(i, &step)| Step {
        step,
        log_odds: logits[i][1] - logits[i][0],
        changed: [0, 1].map(|s| best_bases(at(i, s)).iter().zip(&middle[s]).filter(|(a, b)| a != b).count()),
    });
    let steps: Vec<Step> = steps.collect();
    let reconstruction = [0, 1].map(|s| at(4, s).iter().zip(at(2, s)).map(|(b, a)| b - a).collect());

    let mut tape = Tape::evaluation_with_gradients(backend, scorer.step());
    let mut leaf = |side: usize| -> Result<Var<B>> {
        let input = one_hot(&windows.codes[side]);
        Ok(tape.leaf(backend.from_f64(&input, &[1, lengths[side], 4])?))
    };
    let leaves = [leaf(0)?, leaf(1)?];
    let batch = DeviceBatch::soft(backend, leaves.clone())?;
    let code = scorer.model.code(&mut tape, &scorer.parameters.constants(), &batch)?;
    let gradients = tape.backward(&code, backend.from_f64(axis, code.shape())?)?;
    let of = |side: usize| gradients.of(&leaves[side]).map_or(Ok(vec![0.0; 4 * lengths[side]]), |g| backend.to_f64(g));
    let drivers = [of(0)?, of(1)?];

    let mut random = Stream::new(seed, stream::EXPLAIN, 0);
    let mut edits = Vec::new();
    for _ in 0..copies {
        let side = random.below(2) as usize;
        let (start, turn) = (random.below(lengths[side] as u32) as usize, random.below(3) as u8);
        let old = windows.codes[side][start];
        if old < 4 {
            edits.push(Edit { side, start, removed: 1, inserted: vec![(old + 1 + turn) % 4] });
        }
    }
    edits.sort_by_key(|e| (e.side, e.start));
    let base = scorer.base(windows.clone())?;
    let scores = scorer.edited(&base, &edits, Reuse::Exact)?;
    let expected: Vec<f64> = edits
        .iter()
        .map(|e| {
            let old = usize::from(windows.codes[e.side][e.start]);
            let slope = &drivers[e.side][4 * e.start..4 * e.start + 4];
            slope[usize::from(e.inserted[0])] - slope[old]
        })
        .collect();
    let found: Vec<f64> = scores.iter().map(|s| f64::from(s.log_odds - base.score.log_odds)).collect();
    Ok(Projection { steps, reconstruction, drivers, agreement: correlation(&expected, &found), copies: edits.len() })
}

/// Pearson's correlation; `None` when either does not vary.
fn correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| f(a - ma, b - mb)).sum::<f64>();
    let value = sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt();
    value.is_finite().then_some(value)
}

/// Figure 5 of the seed report: both spaces along their principal components, and the logistic layer's activations;
/// interacting pairs red.
pub fn draw(input: &Components, latent: &Components, codes: &Codes, labels: &[u8]) -> String {
    const SIZE: f64 = 280.0;
    let mut svg = Svg::new();
    let titles = [
        format!("input: {:.1} and {:.1} % of the variance", 100.0 * input.shares[0], 100.0 * input.shares[1]),
        format!("code: {:.1} and {:.1} % of the variance", 100.0 * latent.shares[0], 100.0 * latent.shares[1]),
        "activations of the logistic layer".to_string(),
    ];
    for (panel, (points, title)) in [&input.points, &latent.points, &codes.logits].into_iter().zip(titles).enumerate() {
        let (x, y) = (10.0 + (SIZE + 30.0) * panel as f64, 30.0);
        svg.text(x, y - 8.0, 12.0, &title);
        let range = |axis: usize| {
            let values = points.iter().map(|p| p[axis]);
            let (low, high) = values.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
            (low, (high - low).max(1e-12))
        };
        let ranges = [range(0), range(1)];
        svg.heat_map([x, y, SIZE, SIZE], &[], 1.0);
        for wanted in 0..2 {
            for (point, _) in points.iter().zip(labels).filter(|(_, l)| **l == wanted) {
                let at = |axis: usize| (point[axis] - ranges[axis].0) / ranges[axis].1;
                let colour = ["#2166ac", "#b2182b"][usize::from(wanted)];
                svg.rectangle([x + at(0) * (SIZE - 3.0), y + (1.0 - at(1)) * (SIZE - 3.0), 3.0, 3.0], colour);
            }
        }
    }
    svg.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_those_of_a_known_cloud() {
        let mut random = Stream::new(5, 1, 0);
        // Spread 3 along (1,1,0)/√2, 1 along (1,-1,0)/√2, 0.1 along the third axis.
        let points: Vec<[f64; 3]> = (0..300)
            .map(|_| {
                let [a, b, c] = [3.0 * random.normal(), random.normal(), 0.1 * random.normal()];
                [7.0 + (a + b) / 2f64.sqrt(), (a - b) / 2f64.sqrt(), c]
            })
            .collect();
        let found = principal_components(300, |i, j| points[i].iter().zip(&points[j]).map(|(a, b)| a * b).sum());
        assert!(
            (found.shares[0] - 0.9).abs() < 0.03 && found.shares[0] + found.shares[1] > 0.998,
            "{:?}",
            found.shares
        );
        let along: Vec<f64> = points.iter().map(|p| (p[0] + p[1]) / 2f64.sqrt()).collect();
        let first: Vec<f64> = found.points.iter().map(|p| p[0]).collect();
        assert!(correlation(&along, &first).unwrap().abs() > 0.999);
    }
}
