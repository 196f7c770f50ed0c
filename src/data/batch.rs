//! Batches: which rows, in which order, how moved and how weighted. Every batch is a function of (seed, epoch, index),
//! so a run resumes by number and no state is kept here.

use crate::backend::{DnaBatch, Order, OrderEntry};
use crate::data::augment::{Augmentation, Draw};
use crate::data::{Dataset, Sample, Side};
use crate::rng::Permutation;
use crate::{Error, Result};

/// Host side of one batch of samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `[B, enhancer_length]`
    pub enhancer: DnaBatch,
    /// `[B, promoter_length]`
    pub promoter: DnaBatch,
    /// `[B]`, 0 or 1.
    pub labels: Vec<f32>,
    /// `[B]`, weight of each sample in the loss.
    pub weights: Vec<f32>,
    /// `[B]`, row of the pair table.
    pub rows: Vec<u32>,
}

impl Batch {
    /// An empty batch that [`EpochPlan::fill`] will size.
    pub fn new() -> Self {
        let none = DnaBatch::new(0, 1);
        Batch { enhancer: none.clone(), promoter: none, labels: vec![], weights: vec![], rows: vec![] }
    }
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.rows.len()
    }
    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
    /// Keeps its buffers when the size stays, which is always but for a short last batch.
    fn resize(&mut self, dataset: &Dataset, n: usize) {
        let fit = |dna: &mut DnaBatch, length: usize| {
            if (dna.batch(), dna.length()) != (n, length) {
                *dna = DnaBatch::new(n, length);
            }
        };
        fit(&mut self.enhancer, dataset.enhancer_length());
        fit(&mut self.promoter, dataset.promoter_length());
        self.labels.clear();
        self.weights.clear();
        self.rows.clear();
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

/// How training makes up for rare positives. Validation and test parts are never balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// Natural prevalence.
    None,
    /// Class weights in the loss: both classes weigh the same in total, the mean weight is 1.
    Weights,
    /// Every positive this many times.
    Oversample(u32),
}

impl std::str::FromStr for Balance {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text.split_once('=') {
            None if text == "none" => Ok(Balance::None),
            None if text == "weights" => Ok(Balance::Weights),
            Some(("oversample", k)) if k.parse().is_ok_and(|k: u32| (1..=10_000).contains(&k)) => {
                Ok(Balance::Oversample(k.parse().expect("checked")))
            }
            _ => {
                Err(Error::config("data.balance", format!("`{text}` is none of: none, weights, oversample=K (K ≥ 1)")))
            }
        }
    }
}

impl std::fmt::Display for Balance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Balance::None => f.write_str("none"),
            Balance::Weights => f.write_str("weights"),
            Balance::Oversample(k) => write!(f, "oversample={k}"),
        }
    }
}

/// The samples of an epoch and how they are cut into batches.
#[derive(Clone, Debug)]
pub struct EpochPlan {
    samples: Vec<Sample>,
    /// Weight of a negative and of a positive.
    class_weights: [f32; 2],
    batch: usize,
    /// `None`: samples in the order given.
    seed: Option<u64>,
    augmentation: Augmentation,
}

impl EpochPlan {
    /// Training: `samples` balanced, in the keyed order of `seed` and the epoch, augmented if asked.
    pub fn training(samples: &[Sample], balance: Balance, augmentation: Augmentation, seed: u64, batch: usize) -> Self {
        let positive = |sample: &&Sample| sample.label == 1;
        let (n, positives) = (samples.len(), samples.iter().filter(positive).count());
        let mut list = samples.to_vec();
        let mut class_weights = [1.0; 2];
        match balance {
            Balance::Weights if positives > 0 && positives < n => {
                class_weights = [n - positives, positives].map(|c| (n as f64 / (2.0 * c as f64)) as f32);
            }
            Balance::Oversample(k) => {
                for _ in 1..k {
                    list.extend(samples.iter().filter(positive));
                }
            }
            _ => {}
        }
        EpochPlan { samples: list, class_weights, batch: batch.max(1), seed: Some(seed), augmentation }
    }
    /// Evaluation: every sample once, in the order given, as the split made it.
    pub fn evaluation(samples: &[Sample], batch: usize) -> Self {
        let (samples, augmentation) = (samples.to_vec(), Augmentation::default());
        EpochPlan { samples, class_weights: [1.0; 2], batch: batch.max(1), seed: None, augmentation }
    }
    /// The list that the order runs over.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }
    /// Samples of an epoch, copies included (a dropped single last sample too).
    pub fn len(&self) -> usize {
        self.samples.len()
    }
    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }
    /// Largest number of samples in a batch.
    pub fn batch_size(&self) -> usize {
        self.batch
    }
    /// Weight of a negative and of a positive in the loss.
    pub fn class_weights(&self) -> [f32; 2] {
        self.class_weights
    }
    /// Batches of an epoch. In training a last batch of a single sample is dropped: batch norm has no variance there.
    pub fn batches(&self) -> usize {
        let (whole, rest) = (self.samples.len() / self.batch, self.samples.len() % self.batch);
        let dropped = self.seed.is_some() && rest == 1 && whole > 0;
        whole + usize::from(rest > 0 && !dropped)
    }
    /// Samples of batch `index`.
    pub fn size(&self, index: usize) -> usize {
        self.batch.min(self.samples.len().saturating_sub(index * self.batch))
    }
    /// Sample and treatment of one position of the order of `epoch`.
    pub fn sample(&self, epoch: u32, position: usize) -> (&Sample, Draw) {
        let Some(seed) = self.seed else { return (&self.samples[position], Draw::default()) };
        let entry = Permutation::new(self.samples.len() as u64, seed, epoch).at(position as u64) as usize;
        (&self.samples[entry], self.augmentation.draw(seed, epoch, position as u64))
    }
    /// The same list and order for a device that makes its batches itself.
    pub fn order(&self, dataset: &Dataset) -> Order {
        let entry = |s: &Sample| OrderEntry {
            windows: [dataset.window_of(Side::Enhancer, s.enhancer), dataset.window_of(Side::Promoter, s.promoter)],
            shifts: s.shift.map(i32::from),
            label: f32::from(s.label),
            weight: self.class_weights[usize::from(s.label)],
        };
        let Augmentation { shift, reverse_complement } = self.augmentation;
        Order { entries: self.samples.iter().map(entry).collect(), seed: self.seed, shift, reverse_complement }
    }
    /// Makes batch `index` of `epoch`; `out` keeps its buffers.
    ///
    /// # Panics
    /// If there is no such batch or the samples are not those of `dataset`.
    pub fn fill(&self, dataset: &Dataset, epoch: u32, index: usize, out: &mut Batch) {
        assert!(index < self.batches(), "batch {index} of {}", self.batches());
        let n = self.size(index);
        out.resize(dataset, n);
        for b in 0..n {
            let (&sample, draw) = self.sample(epoch, index * self.batch + b);
            let [enhancer, promoter] = sample.shift.map(i32::from);
            let rc = draw.reverse_complement;
            let (enhancer, promoter) = (enhancer + draw.enhancer_shift, promoter + draw.promoter_shift);
            dataset.write_window(Side::Enhancer, sample.enhancer, enhancer, rc, &mut out.enhancer, b);
            dataset.write_window(Side::Promoter, sample.promoter, promoter, rc, &mut out.promoter, b);
            out.labels.push(f32::from(sample.label));
            out.weights.push(self.class_weights[usize::from(sample.label)]);
            out.rows.push(sample.row);
        }
    }
}
