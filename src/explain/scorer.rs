//! Scores of windows and of edited copies of a window, with the convolution of the unedited copy reused.

use super::partial::numbers;
use crate::autograd::{Tape, Var};
use crate::backend::{Backend, DnaBatch, DnaConv, StepState};
use crate::data::{Dataset, Sample, Side};
use crate::error::{Error, Result};
use crate::models::{Changed, DeviceBatch, Kept, Model, Network, Output, SideInput};
use crate::nn::Parameters;

/// What a network says of one pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Log odds of "interacting": the difference of the two logits, or the logit of a network with one.
    pub log_odds: f32,
    /// Probability of "interacting".
    pub probability: f32,
}

impl Score {
    /// A score as [`Partial`](super::Partial) keeps it: log odds and probability.
    pub fn read(line: &str) -> Option<Self> {
        match numbers(line)?[..] {
            [log_odds, probability] => Some(Score { log_odds, probability }),
            _ => None,
        }
    }
}

/// Both windows of a pair as codes 0..=4, and what follows them on the forward strand.
#[derive(Clone, Debug, PartialEq)]
pub struct Windows {
    /// Enhancer, promoter.
    pub codes: [Vec<u8>; 2],
    /// Bases behind each window, which move in where a deletion makes room; N behind these.
    pub beyond: [Vec<u8>; 2],
}

impl Windows {
    /// The windows of a sample, and the stored flank behind them.
    pub fn of(dataset: &Dataset, sample: &Sample) -> Self {
        let stored = |side: Side| {
            let codes = dataset.stored_codes(side, sample.element(side));
            codes[codes.len() - dataset.flank()..].to_vec()
        };
        let codes = |side: Side| dataset.codes(side, sample.element(side));
        let [e, p] = [Side::Enhancer, Side::Promoter];
        Windows { codes: [codes(e), codes(p)], beyond: [stored(e), stored(p)] }
    }
}

/// A change of one window: `removed` bases from `start` on make room for `inserted`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// 0 enhancer, 1 promoter.
    pub side: usize,
    pub start: usize,
    pub removed: usize,
    pub inserted: Vec<u8>,
}

impl Edit {
    /// Whether no base behind the edit moves.
    pub fn in_place(&self) -> bool {
        self.removed == self.inserted.len()
    }
    /// The edited window, of the length of the old one.
    pub fn apply(&self, windows: &Windows) -> Vec<u8> {
        let (codes, beyond) = (&windows.codes[self.side], &windows.beyond[self.side]);
        let tail = codes[self.start + self.removed..].iter().chain(beyond).copied();
        let edited = codes[..self.start].iter().copied().chain(self.inserted.iter().copied()).chain(tail);
        let mut out: Vec<u8> = edited.take(codes.len()).collect();
        out.resize(codes.len(), 4);
        out
    }
}

/// A pair whose edited copies are to be scored: its score, and its pooled positions where the network has them.
pub struct Base<B: Backend> {
    pub windows: Windows,
    pub score: Score,
    positions: Option<Positions<B>>,
}

/// Pooled activations `[T,C]`, enhancer first.
struct Positions<B: Backend> {
    conv: DnaConv,
    rows: Vec<f32>,
    channels: usize,
    /// Positions of the enhancer and of the promoter.
    counts: [usize; 2],
    kept: Option<Kept<B>>,
}

/// How edited copies are scored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reuse {
    /// Everything behind the convolution runs in full.
    Exact,
    /// LSTM layers run over the changed positions and so many on each side; elsewhere the unedited copy's states stand.
    Margin(usize),
}

/// One network and its weights on one device, in evaluation mode.
pub struct Scorer<'a, B: Backend> {
    pub backend: &'a B,
    pub model: &'a Network,
    pub parameters: &'a Parameters<B>,
    step: B::Step,
    batch: usize,
}

impl<'a, B: Backend> Scorer<'a, B> {
    /// Scores `batch` copies at once.
    ///
    /// # Errors
    /// For a network whose score of a pair depends on its batch mates: there is nothing to explain about one pair.
    pub fn new(backend: &'a B, model: &'a Network, parameters: &'a Parameters<B>, batch: usize) -> Result<Self> {
        if !model.scores_samples_alone() {
            let message = "this network (epsat-paper) scores a pair together with its batch mates, so that a single pair has \
                           no score to explain; explain a run of the preset `epsat` instead";
            return Err(Error::config("RUN", message));
        }
        Self::of_windows(backend, model, parameters, batch)
    }
    /// For what needs no score, only what the network reads in single windows: any network will do.
    pub fn of_windows(backend: &'a B, model: &'a Network, parameters: &'a Parameters<B>, batch: usize) -> Result<Self> {
        let step = backend.new_step()?;
        backend.write_step(&step, &StepState::default())?;
        Ok(Scorer { backend, model, parameters, step, batch: batch.max(1) })
    }
    /// Copies scored at once.
    pub fn batch(&self) -> usize {
        self.batch
    }
    /// A tape that records nothing.
    pub fn tape(&self) -> Tape<B> {
        Tape::evaluation(self.backend, &self.step)
    }
    /// The step record of tapes.
    pub fn step(&self) -> &B::Step {
        &self.step
    }

    /// Scores pairs of windows.
    pub fn score(&self, pairs: &[[&[u8]; 2]]) -> Result<Vec<Score>> {
        let mut scores = Vec::with_capacity(pairs.len());
        for chunk in pairs.chunks(self.batch) {
            let batch = self.upload(chunk)?;
            let output = self.model.forward(&mut self.tape(), &self.parameters.constants(), &batch)?;
            scores.extend(self.read(&output, chunk.len())?);
        }
        Ok(scores)
    }
    /// Windows on the device, without labels.
    pub fn upload(&self, pairs: &[[&[u8]; 2]]) -> Result<DeviceBatch<B>> {
        let dna = |side: usize| {
            let mut dna = DnaBatch::new(pairs.len(), pairs[0][side].len());
            pairs.iter().enumerate().for_each(|(b, pair)| dna.write(b, pair[side].iter().copied()));
            dna
        };
        let [labels, weights] = [vec![0.0; pairs.len()], vec![1.0; pairs.len()]];
        DeviceBatch::upload(self.backend, &dna(0), &dna(1), &labels, &weights)
    }
    /// Scores of a forward pass over `n` samples.
    pub fn read(&self, output: &Output<B>, n: usize) -> Result<Vec<Score>> {
        let logits = self.backend.to_f32(output.logits.value())?;
        let width = logits.len() / n.max(1);
        let log_odds = logits.chunks_exact(width.max(1)).map(|l| if width == 1 { l[0] } else { l[1] - l[0] });
        let score = |log_odds: f32| Score { log_odds, probability: sigmoid(log_odds) };
        let scores: Vec<Score> = log_odds.map(score).collect();
        if scores.iter().any(|s| !s.log_odds.is_finite()) {
            return Err(Error::NonFinite("a score is not a number: the model's weights are not usable".into()));
        }
        Ok(scores)
    }

    /// Prepares a pair for edits.
    pub fn base(&self, windows: Windows) -> Result<Base<B>> {
        let score = self.score(&[[&windows.codes[0], &windows.codes[1]]])?[0];
        let Some(conv) = self.model.first_convolution() else { return Ok(Base { windows, score, positions: None }) };
        let (mut rows, mut counts, mut channels) = (Vec::new(), [0; 2], 0);
        for side in 0..2 {
            let codes = &windows.codes[side];
            let dna = self.backend.upload_dna(&DnaBatch::from_codes(codes, 1, codes.len()))?;
            let out = self.positions(side, &dna, conv.pool)?;
            (counts[side], channels) = (out.shape()[1], out.shape()[2]);
            rows.extend(self.backend.to_f32(out.value())?);
        }
        // The states of the unedited copy live on the host: beyond the bus they would cost more than they save.
        let kept = match self.backend.peak_memory() {
            None => self.model.keep(&mut self.tape(), &self.parameters.constants(), &rows)?,
            Some(_) => None,
        };
        Ok(Base { windows, score, positions: Some(Positions { conv, rows, channels, counts, kept }) })
    }
    fn positions(&self, side: usize, dna: &B::Dna, pool: usize) -> Result<Var<B>> {
        self.model.positions(&mut self.tape(), &self.parameters.constants(), side, SideInput::Dna(dna), pool)
    }

    /// Scores of edited copies, in the order of `edits`; at most a batch at a time is in memory.
    pub fn edited(&self, base: &Base<B>, edits: &[Edit], reuse: Reuse) -> Result<Vec<Score>> {
        let mut scores = Vec::with_capacity(edits.len());
        let mut rest = edits;
        while let Some(first) = rest.first() {
            let alike = |e: &&Edit| e.side == first.side && e.in_place() == first.in_place();
            let n = rest.iter().take(self.batch).take_while(alike).count();
            let (chunk, after) = rest.split_at(n);
            rest = after;
            scores.extend(match &base.positions {
                Some(positions) if first.in_place() => self.in_place(base, positions, chunk, reuse)?,
                _ => self.anew(base, chunk)?,
            });
        }
        Ok(scores)
    }
    /// Whether [`Reuse::Margin`] means anything here, and for how many positions.
    pub fn can_reuse(&self, base: &Base<B>) -> Option<usize> {
        let positions = base.positions.as_ref().filter(|p| p.kept.is_some())?;
        Some(positions.counts.iter().sum())
    }

    /// Whole windows through the whole network.
    fn anew(&self, base: &Base<B>, edits: &[Edit]) -> Result<Vec<Score>> {
        let edited: Vec<Vec<u8>> = edits.iter().map(|e| e.apply(&base.windows)).collect();
        let pair = |(e, codes): (&Edit, &'_ Vec<u8>)| -> [Vec<u8>; 2] {
            let mut pair = base.windows.codes.clone();
            pair[e.side].clone_from(codes);
            pair
        };
        let pairs: Vec<[Vec<u8>; 2]> = edits.iter().zip(&edited).map(pair).collect();
        let borrowed: Vec<[&[u8]; 2]> = pairs.iter().map(|[e, p]| [e.as_slice(), p.as_slice()]).collect();
        self.score(&borrowed)
    }

    /// Edits of one side that move nothing: the convolution runs over what it can see of them, copies whose pooled
    /// activations do not change keep the score, the others run through the rest of the network.
    fn in_place(&self, base: &Base<B>, positions: &Positions<B>, edits: &[Edit], reuse: Reuse) -> Result<Vec<Score>> {
        let (side, DnaConv { kernel, pool, .. }) = (edits[0].side, positions.conv);
        let (count, channels) = (positions.counts[side], positions.channels);
        let longest = edits.iter().map(|e| e.removed).max().unwrap_or(0).max(1);
        // Pooled positions that an edit of the longest kind can reach, whatever its phase.
        let n = ((kernel + longest - 2) / pool + 2).min(count);
        let first = |e: &Edit| ((e.start + 1).saturating_sub(kernel) / pool).min(count - n);
        let length = n * pool + kernel - 1;
        let mut dna = DnaBatch::new(edits.len(), length);
        for (b, edit) in edits.iter().enumerate() {
            let from = first(edit) * pool;
            let codes = &base.windows.codes[side][from..from + length];
            let new = |i: usize| (from + i).checked_sub(edit.start).and_then(|k| edit.inserted.get(k).copied());
            dna.write(b, codes.iter().enumerate().map(|(i, &code)| new(i).unwrap_or(code)));
        }
        let out = self.positions(side, &self.backend.upload_dna(&dna)?, pool)?;
        let rows = self.backend.to_f32(out.value())?;
        let offset = if side == 0 { 0 } else { positions.counts[0] };
        let size = n * channels;
        let start = |e: &Edit| offset + first(e);
        let changed: Vec<usize> = (0..edits.len())
            .filter(|&b| rows[b * size..][..size] != positions.rows[start(&edits[b]) * channels..][..size])
            .collect();
        let mut scores = vec![base.score; edits.len()];
        if changed.is_empty() {
            return Ok(scores);
        }
        let changes = Changed {
            starts: changed.iter().map(|&b| start(&edits[b])).collect(),
            count: n,
            rows: changed.iter().flat_map(|&b| &rows[b * size..][..size]).copied().collect(),
        };
        let labels = self.backend.zeros(&[changed.len()])?;
        let weights = self.backend.from_f32(&vec![1.0; changed.len()], &[changed.len()])?;
        let (mut tape, constants) = (self.tape(), self.parameters.constants());
        let output = match (reuse, &positions.kept) {
            (Reuse::Margin(margin), Some(kept)) => {
                self.model.from_changed(&mut tape, &constants, kept, &changes, margin, &labels, &weights)?
            }
            _ => {
                let total: usize = positions.counts.iter().sum();
                let mut all = Vec::with_capacity(changed.len() * positions.rows.len());
                for (i, &start) in changes.starts.iter().enumerate() {
                    all.extend(&positions.rows[..start * channels]);
                    all.extend(&changes.rows[i * size..][..size]);
                    all.extend(&positions.rows[(start + n) * channels..]);
                }
                let all = self.backend.from_f32(&all, &[changed.len(), total, channels])?;
                self.model.from_positions(&mut tape, &constants, Var::constant(all), &labels, &weights)?
            }
        };
        for (&b, score) in changed.iter().zip(self.read(&output, changed.len())?) {
            scores[b] = score;
        }
        Ok(scores)
    }
}

/// `1 / (1 + e^-x)`.
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
