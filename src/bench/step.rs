//! Whole training and evaluation steps of a model on random DNA, dropout on: the steps of `epi-engine train`, recorded where the
//! device can.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::statistics::{Timing, peak_memory_mib};
use crate::autograd::Tape;
use crate::backend::{Adam, Backend, Device, DnaBatch, StepState};
use crate::config::ModelConfig;
use crate::data::{Augmentation, Balance, Batch, Contents, Dataset, Element, EpochPlan, PairTable, Row, Sample};
use crate::error::Result;
use crate::models::{DeviceBatch, Model, Network};
use crate::nn::{Optimizer, Parameters};
use crate::on_device;
use crate::rng::Stream;
use crate::train::{Learner, Step, together};

/// What to time.
#[derive(Clone, Debug)]
pub struct StepBench {
    /// What `--precision` asked for, for the report.
    pub precision: String,
    pub batch: usize,
    pub enhancer_length: usize,
    pub promoter_length: usize,
    /// Timed training steps, after those that are not counted: one, or those that come before a recorded step is replayed.
    pub train_steps: usize,
    /// Timed evaluation passes, after one that is not counted.
    pub evaluate_steps: usize,
}

impl Default for StepBench {
    fn default() -> Self {
        StepBench {
            precision: "f32".into(),
            batch: 64,
            enhancer_length: 3000,
            promoter_length: 2000,
            train_steps: 5,
            evaluate_steps: 5,
        }
    }
}

/// Throughput of one mode.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Throughput {
    /// At the median.
    pub samples_per_s: f64,
    #[serde(flatten)]
    pub timing: Timing,
}

/// Samples per second of all models.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Together {
    pub train: f64,
    pub evaluate: f64,
}

/// The result of `bench step`.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    pub model: &'static str,
    pub device: String,
    pub threads: usize,
    pub precision: String,
    pub batch: usize,
    /// Of one of the models.
    pub train: Throughput,
    pub evaluate: Throughput,
    /// How many were timed at the same time, and what they did together where there were several.
    pub models: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub together: Option<Together>,
    /// Of the device; of the whole process where the device has no memory of its own.
    pub peak_memory_mib: Option<f64>,
    pub commit: String,
    /// Loss of the last training step: finite, or the timings mean nothing.
    pub loss: f32,
}

/// Codes of `rows` random sequences of `length` bases, the same for the same seed.
fn random_codes(rows: usize, length: usize, seed: u64) -> Vec<u8> {
    let mut stream = Stream::new(seed, 0, 0);
    (0..rows * length).map(|_| (stream.next_u32() >> 30) as u8).collect()
}

/// Random sequences `[batch, length]`, the same for the same seed.
pub(super) fn random_dna(batch: usize, length: usize, seed: u64) -> DnaBatch {
    DnaBatch::from_codes(&random_codes(batch, length, seed), batch, length)
}

/// Random pairs in memory, as many as two batches hold.
fn random_pairs(bench: &StepBench) -> Result<Dataset> {
    let (pairs, lengths) = (2 * bench.batch, [bench.enhancer_length, bench.promoter_length]);
    let elements = |length: usize| vec![Element { contig: None, start: 0, end: length as i64 }; pairs];
    let mut table = PairTable {
        enhancers: elements(lengths[0]),
        promoters: elements(lengths[1]),
        cell_lines: vec!["random".into()],
        enhancer_length: lengths[0],
        promoter_length: lengths[1],
        ..PairTable::default()
    };
    table.rows =
        (0..pairs as u32).map(|i| Row { enhancer: i, promoter: i, label: (i % 2) as u8, cell_line: 0 }).collect();
    let mut contents = Contents::new(table, 0, serde_json::Value::Null);
    for (windows, (length, seed)) in contents.windows.iter_mut().zip(lengths.into_iter().zip(1..)) {
        for codes in random_codes(pairs, length, seed).chunks_exact(length) {
            windows.push(codes);
        }
    }
    contents.into_dataset()
}

/// What one of the models that are timed together took.
struct Timed {
    device: String,
    /// Seconds of each step.
    steps: [Vec<f64>; 2],
    /// From the first of these steps to the end of the last one, training and evaluation.
    spans: [[Instant; 2]; 2],
    peak_memory: Option<usize>,
    loss: f32,
}

/// Holds the models back until all are ready, or one has failed.
struct Start {
    models: usize,
    ready: [AtomicUsize; 2],
    failed: AtomicBool,
}

impl Start {
    fn wait(&self, mode: usize) {
        self.ready[mode].fetch_add(1, Ordering::SeqCst);
        while self.ready[mode].load(Ordering::SeqCst) < self.models && !self.failed.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// Times `models` of a kind: one on `device`, or several at the same time, each on a context of its own.
///
/// # Errors
/// Windows that the model does not take, and whatever the device says.
pub fn run(device: &Device, config: &ModelConfig, bench: &StepBench, models: usize) -> Result<StepReport> {
    let dataset = random_pairs(bench)?;
    let start = Start { models, ready: Default::default(), failed: AtomicBool::new(false) };
    let one = |_: usize| {
        let own = if models > 1 { Some(device.again()?.among(models)) } else { None };
        on_device!(own.as_ref().unwrap_or(device), backend => time(backend, config, bench, &dataset, &start))
    };
    let watched = |i: usize| one(i).inspect_err(|_| start.failed.store(true, Ordering::SeqCst));
    let timed = together(models, models, watched).into_iter().collect::<Result<Vec<_>>>()?;
    let throughput = |mode: usize| {
        let timing = Timing::of(timed.iter().flat_map(|t| t.steps[mode].iter().copied()).collect());
        Throughput { samples_per_s: bench.batch as f64 / timing.ms_median * 1e3, timing }
    };
    let all = |mode: usize| {
        let first = timed.iter().map(|t| t.spans[mode][0]).min();
        let last = timed.iter().map(|t| t.spans[mode][1]).max();
        let steps: usize = timed.iter().map(|t| t.steps[mode].len()).sum();
        let seconds = first.zip(last).map_or(f64::NAN, |(first, last)| (last - first).as_secs_f64());
        (steps * bench.batch) as f64 / seconds
    };
    let memory: Option<usize> = timed.iter().map(|t| t.peak_memory).sum();
    Ok(StepReport {
        model: Network::new(config).name(),
        device: timed[0].device.clone(),
        threads: rayon::current_num_threads(),
        precision: bench.precision.clone(),
        batch: bench.batch,
        train: throughput(0),
        evaluate: throughput(1),
        models,
        together: (models > 1).then(|| Together { train: all(0), evaluate: all(1) }),
        peak_memory_mib: memory.map(|b| b as f64 / f64::from(1 << 20)).or_else(peak_memory_mib),
        commit: super::commit(),
        loss: timed[0].loss,
    })
}

/// Runs and times one model.
fn time<B: Backend>(
    backend: &B,
    config: &ModelConfig,
    bench: &StepBench,
    dataset: &Dataset,
    start: &Start,
) -> Result<Timed> {
    let model = Network::new(config);
    model.check_lengths(bench.enhancer_length, bench.promoter_length)?;
    let parameters = Parameters::new(backend, model.specs(bench.enhancer_length, bench.promoter_length), 1)?;
    let adam = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, clip: None };
    let optimizer = Optimizer::new(&parameters, adam)?;
    let samples: Vec<Sample> = (0..dataset.len()).map(|row| dataset.table().sample(row)).collect();
    let augmentation = Augmentation { shift: 0, reverse_complement: true };
    let plan = EpochPlan::training(&samples, Balance::None, augmentation, 1, bench.batch);
    let mut learner = Learner::new(backend, model, parameters, optimizer, 1)?;
    learner.place(dataset, std::slice::from_ref(&plan))?;

    // Where steps are recorded, the first two are plain ones and the second ends with the recording.
    let settle = if learner.placed() { 3 } else { 1 };
    let (mut number, mut loss) = (0, f32::NAN);
    let mut train = || -> Result<()> {
        let (epoch, batch) = (number / plan.batches(), number % plan.batches());
        number += 1;
        learner.step(&Step { dataset, plan: &plan, list: 0, epoch: epoch as u32, batch, lr: 1e-3 })?;
        loss = learner.take_losses()?.last().copied().unwrap_or(f32::NAN);
        Ok(())
    };
    let (steps, span) = timed(settle, bench.train_steps, &mut train, || start.wait(0))?;
    learner.forget_recording();

    let step = backend.new_step()?;
    backend.write_step(&step, &StepState::default())?;
    let listed = EpochPlan::evaluation(&samples, bench.batch);
    let mut batch = Batch::new();
    let mut evaluate = || -> Result<()> {
        listed.fill(dataset, 0, 0, &mut batch);
        let Batch { enhancer, promoter, labels, weights, .. } = &batch;
        let uploaded = DeviceBatch::upload(backend, enhancer, promoter, labels, weights)?;
        let mut tape = Tape::evaluation(backend, &step);
        let output = learner.model.forward(&mut tape, &learner.parameters.constants(), &uploaded)?;
        backend.to_f32(&output.probabilities)?;
        Ok(())
    };
    let (passes, passed) = timed(1, bench.evaluate_steps, &mut evaluate, || start.wait(1))?;
    Ok(Timed {
        device: backend.name(),
        steps: [steps, passes],
        spans: [span, passed],
        peak_memory: backend.peak_memory(),
        loss,
    })
}

/// Seconds of each of `steps`, after some that are not counted and when `ready` lets them begin; and the time from first to last.
fn timed(
    uncounted: usize,
    steps: usize,
    once: &mut dyn FnMut() -> Result<()>,
    ready: impl Fn(),
) -> Result<(Vec<f64>, [Instant; 2])> {
    (0..uncounted).try_for_each(|_| once())?;
    ready();
    let began = Instant::now();
    let mut seconds = Vec::new();
    for _ in 0..steps.max(1) {
        let started = Instant::now();
        once()?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    Ok((seconds, [began, Instant::now()]))
}
