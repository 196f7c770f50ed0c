//! One execution of an operator on one backend, everything it produced brought back to the host.

use super::SEED;
use super::case::{Fill, Input, Values};
use epi_engine::Result;
use epi_engine::backend::{Backend, DnaBatch, StepState, Tensor};
use epi_engine::rng::{Dropout, Stream};
use std::collections::BTreeMap;
use std::fmt::Debug;

/// A primitive with its settings, runnable on any backend.
pub trait Op: Debug + Sync {
    /// Host inputs of a case.
    fn inputs(&self, fill: Fill, seed: u64) -> Vec<Input>;
    /// Forward, and backward where [`Run::differentiate`] hands out a cotangent.
    fn run<B: Backend>(&self, run: &mut Run<B>) -> Result<()>;
}

/// What a run starts from.
#[derive(Clone, Copy)]
pub struct Options {
    pub backward: bool,
    /// Content of the gradient slots before the run.
    pub slot_start: f64,
    /// Rounds inputs and cotangent to bf16, so that products of bf16 lose nothing.
    pub bf16: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { backward: true, slot_start: 0.0, bf16: false }
    }
}

/// Host copy of a tensor that a run produced.
#[derive(Clone, Debug)]
pub struct Output {
    pub values: Vec<f64>,
    pub shape: Vec<usize>,
    /// A gradient slot, as opposed to a returned tensor.
    pub slot: bool,
}

/// By name: `out`, `d<input>`, and whatever else the operator reports.
pub type Outputs = BTreeMap<String, Output>;

/// The run in progress, as an operator sees it.
pub struct Run<'a, B: Backend> {
    pub b: &'a B,
    inputs: &'a [Input],
    options: Options,
    results: Vec<(String, Tensor<B>, bool)>,
    uploaded: BTreeMap<String, Tensor<B>>,
}

impl<B: Backend> Run<'_, B> {
    fn host(&self, name: &str) -> &Input {
        self.inputs.iter().find(|input| input.name == name).unwrap_or_else(|| panic!("no input {name}"))
    }
    /// The input of this name on the device; the same memory each time.
    pub fn input(&mut self, name: &str) -> Result<Tensor<B>> {
        if let Some(tensor) = self.uploaded.get(name) {
            return Ok(tensor.clone());
        }
        let input = self.host(name);
        let tensor = self.b.from_f64(input.float(), &input.shape)?;
        self.uploaded.insert(name.into(), tensor.clone());
        Ok(tensor)
    }
    /// Sequences on the device.
    pub fn dna(&self, name: &str) -> Result<B::Dna> {
        let input = self.host(name);
        let Values::Dna(codes) = &input.values else { panic!("{name} is not DNA") };
        self.b.upload_dna(&DnaBatch::from_codes(codes, input.shape[0], input.shape[1]))
    }
    /// The step record that all runs share: the 4th step.
    pub fn step(&self) -> Result<B::Step> {
        let (step, state) = (self.b.new_step()?, test_step());
        self.b.write_step(&step, &state)?;
        Ok(step)
    }
    /// Reports `out`; in a backward run, returns a random cotangent of its shape.
    pub fn differentiate(&mut self, out: &Tensor<B>) -> Result<Option<Tensor<B>>> {
        self.report("out", out);
        if !self.options.backward {
            return Ok(None);
        }
        let mut values = cotangent(out.len());
        if self.options.bf16 {
            round(&mut values);
        }
        Ok(Some(self.b.from_f64(&values, out.shape())?))
    }
    /// Reports a tensor.
    pub fn report(&mut self, name: &str, tensor: &Tensor<B>) {
        self.results.push((name.into(), tensor.clone(), false));
    }
    /// A gradient slot for input `name`, reported as `d<name>`.
    pub fn slot(&mut self, name: &str) -> Result<Tensor<B>> {
        let input = self.host(name);
        let slot = self.b.from_f64(&vec![self.options.slot_start; input.float().len()], &input.shape)?;
        self.results.push((format!("d{name}"), slot.clone(), true));
        Ok(slot)
    }
}

/// The step record of every run.
pub fn test_step() -> StepState {
    let (beta1, beta2) = (f64::from(0.9f32), f64::from(0.999f32));
    StepState {
        step: 4,
        philox_step: 3,
        lr: 1e-3,
        bias_correction1: (1.0 - beta1.powi(4)) as f32,
        bias_correction2: (1.0 - beta2.powi(4)) as f32,
        batch_cursor: 0,
        epoch: 0,
    }
}

/// Dropout of layer `stream` in every run.
pub fn test_dropout(probability: f32, stream: u32) -> Dropout {
    Dropout { probability, seed: SEED, stream }
}

/// Fixed random cotangent of `n` elements.
pub fn cotangent(n: usize) -> Vec<f64> {
    let mut rng = Stream::new(SEED, 0xC07A, 0);
    (0..n).map(|_| f64::from(rng.normal() as f32)).collect()
}

/// To bf16.
fn round(values: &mut [f64]) {
    values.iter_mut().for_each(|v| *v = half::bf16::from_f64(*v).to_f64());
}

/// Runs an operator and fetches what it reported.
pub fn execute<B: Backend>(b: &B, op: &impl Op, inputs: &[Input], options: Options) -> Result<Outputs> {
    let mut rounded = inputs.to_vec();
    for input in &mut rounded {
        if let (true, Values::Float(values)) = (options.bf16, &mut input.values) {
            round(values);
        }
    }
    let inputs = &rounded;
    let mut run = Run { b, inputs, options, results: Vec::new(), uploaded: BTreeMap::new() };
    op.run(&mut run)?;
    b.synchronize()?;
    let fetch = |(name, tensor, slot): (String, Tensor<B>, bool)| {
        Ok((name, Output { values: b.to_f64(&tensor)?, shape: tensor.shape().to_vec(), slot }))
    };
    run.results.into_iter().map(fetch).collect()
}
