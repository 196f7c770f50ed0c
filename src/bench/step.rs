//! Whole training and evaluation steps of a model on random DNA, dropout on.

use std::time::Instant;

use serde::Serialize;

use super::statistics::{Timing, peak_memory_mib};
use crate::autograd::Tape;
use crate::backend::{Adam, Backend, DnaBatch, StepState};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::models::{DeviceBatch, Model, Network};
use crate::nn::{Optimizer, Parameters};
use crate::rng::Stream;

/// What to time.
#[derive(Clone, Debug)]
pub struct StepBench {
    /// What `--precision` asked for, for the report.
    pub precision: String,
    pub batch: usize,
    pub enhancer_length: usize,
    pub promoter_length: usize,
    /// Timed training steps, after one that is not counted.
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

/// The result of `bench step`.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    pub model: &'static str,
    pub device: String,
    pub threads: usize,
    pub precision: String,
    pub batch: usize,
    pub train: Throughput,
    pub evaluate: Throughput,
    /// Of the device; of the whole process where the device has no memory of its own.
    pub peak_memory_mib: Option<f64>,
    pub commit: String,
    /// Loss of the last training step: finite, or the timings mean nothing.
    pub loss: f32,
}

/// Random sequences `[batch, length]`, the same for the same seed.
pub(super) fn random_dna(batch: usize, length: usize, seed: u64) -> DnaBatch {
    let mut stream = Stream::new(seed, 0, 0);
    let codes: Vec<u8> = (0..batch * length).map(|_| (stream.next_u32() >> 30) as u8).collect();
    DnaBatch::from_codes(&codes, batch, length)
}

/// Runs and times.
pub fn run<B: Backend>(backend: &B, config: &ModelConfig, bench: &StepBench) -> Result<StepReport> {
    let model = Network::new(config);
    model.check_lengths(bench.enhancer_length, bench.promoter_length)?;
    let mut parameters = Parameters::new(backend, model.specs(bench.enhancer_length, bench.promoter_length), 1)?;
    let adam = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, clip: None };
    let mut optimizer = Optimizer::new(&parameters, adam)?;
    let enhancer = random_dna(bench.batch, bench.enhancer_length, 1);
    let promoter = random_dna(bench.batch, bench.promoter_length, 2);
    let labels: Vec<f32> = (0..bench.batch).map(|i| (i % 2) as f32).collect();
    let weights = vec![1.0; bench.batch];
    let upload = || DeviceBatch::upload(backend, &enhancer, &promoter, &labels, &weights);

    let mut loss = f32::NAN;
    let mut train = || -> Result<f64> {
        let started = Instant::now();
        optimizer.begin(backend, 1e-3, 0, 0)?;
        let batch = upload()?;
        let mut tape = Tape::training(backend, optimizer.step_record(), 1);
        let bound = parameters.bind(&tape)?;
        let output = model.forward(&mut tape, &bound, &batch)?;
        tape.backward(&output.loss, backend.from_f32(&[1.0], &[1])?)?;
        optimizer.update(&parameters)?;
        loss = backend.to_f32(output.loss.value())?[0];
        Ok(started.elapsed().as_secs_f64())
    };
    let train = timed(bench.train_steps, bench.batch, &mut train)?;

    let step = backend.new_step()?;
    backend.write_step(&step, &StepState::default())?;
    let mut evaluate = || -> Result<f64> {
        let started = Instant::now();
        let mut tape = Tape::evaluation(backend, &step);
        let output = model.forward(&mut tape, &parameters.constants(), &upload()?)?;
        backend.to_f32(&output.probabilities)?;
        Ok(started.elapsed().as_secs_f64())
    };
    let evaluate = timed(bench.evaluate_steps, bench.batch, &mut evaluate)?;
    Ok(StepReport {
        model: model.name(),
        device: backend.name(),
        threads: rayon::current_num_threads(),
        precision: bench.precision.clone(),
        batch: bench.batch,
        train,
        evaluate,
        peak_memory_mib: backend.peak_memory().map(|b| b as f64 / f64::from(1 << 20)).or_else(peak_memory_mib),
        commit: super::commit(),
        loss,
    })
}

fn timed(steps: usize, batch: usize, once: &mut dyn FnMut() -> Result<f64>) -> Result<Throughput> {
    once()?;
    let seconds = (0..steps.max(1)).map(|_| once()).collect::<Result<Vec<_>>>()?;
    let timing = Timing::of(seconds);
    Ok(Throughput { samples_per_s: batch as f64 / timing.ms_median * 1e3, timing })
}
