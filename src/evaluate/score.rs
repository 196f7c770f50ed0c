//! Scores of the samples of a part, by any model on any device.

use super::Reconstruction;
use crate::autograd::Tape;
use crate::backend::{Backend, StepState};
use crate::data::Dataset;
use crate::data::batch::{Batch, EpochPlan};
use crate::error::Result;
use crate::models::{DeviceBatch, Model};
use crate::nn::Parameters;

/// Probability of "interacting" for each sample of a plan, in its order, and the mean loss.
#[derive(Clone, Debug, Default)]
pub struct Scores {
    /// `[n]`, in [0, 1].
    pub probabilities: Vec<f32>,
    /// Mean loss per sample; `None` without samples.
    pub loss: Option<f64>,
    /// Of an autoencoder.
    pub reconstruction: Option<Reconstruction>,
}

/// Scores at most `batches` batches of `plan` (an evaluation plan) in evaluation mode; `tick` is told the samples done.
pub fn score<B: Backend>(
    backend: &B,
    model: &impl Model,
    parameters: &Parameters<B>,
    dataset: &Dataset,
    plan: &EpochPlan,
    batches: Option<usize>,
    tick: &mut dyn FnMut(u64),
) -> Result<Scores> {
    let step = backend.new_step()?;
    backend.write_step(&step, &StepState::default())?;
    let (mut batch, mut out, mut loss) = (Batch::new(), Scores::default(), 0.0);
    for index in 0..plan.batches().min(batches.unwrap_or(usize::MAX)) {
        plan.fill(dataset, 0, index, &mut batch);
        let device = DeviceBatch::upload(backend, &batch.enhancer, &batch.promoter, &batch.labels, &batch.weights)?;
        let mut tape = Tape::evaluation(backend, &step);
        let output = model.forward(&mut tape, &parameters.constants(), &device)?;
        let probabilities = backend.to_f32(&output.probabilities)?;
        out.probabilities.extend(probabilities.chunks_exact(2).map(|p| p[1]));
        loss += f64::from(backend.to_f32(output.loss.value())?[0]) * batch.len() as f64;
        if let Some(found) = &output.reconstruction {
            let sums = found.each_ref().map(|sums| backend.to_f64(sums));
            let all = out.reconstruction.get_or_insert_default();
            let lengths = [dataset.enhancer_length(), dataset.promoter_length()];
            for ((of, sums), length) in [&mut all.enhancer, &mut all.promoter].into_iter().zip(sums).zip(lengths) {
                let sums = sums?;
                of.add([sums[0], sums[1], sums[2]], 4 * length * batch.len());
            }
        }
        tick(out.probabilities.len() as u64);
    }
    let n = out.probabilities.len();
    out.loss = (n > 0).then(|| loss / n as f64);
    Ok(out)
}
