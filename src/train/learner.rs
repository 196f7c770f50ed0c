//! A network, its optimiser, and one training step after another: with batches from the host, or, where the device can, from a
//! data set that lies there, by a step that was recorded once.

use crate::autograd::Tape;
use crate::backend::{Backend, Tensor};
use crate::data::{Batch, Dataset, EpochPlan};
use crate::error::Result;
use crate::models::{DeviceBatch, Model, Network};
use crate::nn::{Optimizer, Parameters};

/// Losses that are kept on the device before they must be read.
pub const KEPT_LOSSES: usize = 1024;

/// Which step to make.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    pub dataset: &'a Dataset,
    /// The training list, and its number among those of [`Learner::place`].
    pub plan: &'a EpochPlan,
    pub list: usize,
    pub epoch: u32,
    /// Batch of the epoch.
    pub batch: usize,
    pub lr: f32,
}

/// What learns.
pub struct Learner<B: Backend> {
    backend: B,
    pub model: Network,
    pub parameters: Parameters<B>,
    pub optimizer: Optimizer<B>,
    /// Seed of dropout.
    seed: u64,
    /// Gradient of the loss: 1.
    one: Tensor<B>,
    /// Losses of the latest steps, each in its place by number.
    losses: Tensor<B>,
    pending: usize,
    batch: Batch,
    /// The data set on the device, with each training list.
    resident: Vec<B::Resident>,
    /// A whole batch's step; recorded from the list of this number.
    graph: Option<(usize, B::Graph)>,
    /// Whether a whole batch was learned since the recording was forgotten. What the first one makes to last (gradients, tables)
    /// may lie in memory that it let go of, and would be missing in a recording; a second one finds what a recording finds.
    settled: bool,
}

impl<B: Backend> Learner<B> {
    /// Ready for steps whose batches come from the host.
    pub fn new(
        backend: &B,
        model: Network,
        parameters: Parameters<B>,
        optimizer: Optimizer<B>,
        seed: u64,
    ) -> Result<Self> {
        let (one, losses) = (backend.from_f32(&[1.0], &[1])?, backend.zeros(&[KEPT_LOSSES])?);
        let (backend, batch, pending) = (backend.clone(), Batch::new(), 0);
        let (resident, graph, settled) = (Vec::new(), None, false);
        Ok(Learner {
            backend,
            model,
            parameters,
            optimizer,
            seed,
            one,
            losses,
            pending,
            batch,
            resident,
            graph,
            settled,
        })
    }
    /// Puts the data set and its training lists on the device, if that is of use and leaves room for a step.
    pub fn place(&mut self, dataset: &Dataset, plans: &[EpochPlan]) -> Result<()> {
        let lengths = [dataset.enhancer_length(), dataset.promoter_length()];
        let batch = plans.iter().map(EpochPlan::batch_size).max().unwrap_or(1);
        let step = self.model.activation_bytes(batch, lengths[0], lengths[1], true);
        if let Some(windows) = self.backend.upload_windows(&dataset.window_set(), step)? {
            let list = |plan: &EpochPlan| self.backend.with_order(&windows, &plan.order(dataset));
            self.resident = plans.iter().map(list).collect::<Result<_>>()?;
        }
        Ok(())
    }
    /// Whether batches are made on the device.
    pub fn placed(&self) -> bool {
        !self.resident.is_empty()
    }
    /// Gives the recorded step and its memory back. To be called before anything that a step depends on is exchanged, and
    /// before other work that needs much memory; the second step from there is recorded anew.
    pub fn forget_recording(&mut self) {
        self.graph = None;
        self.settled = false;
    }
    /// Steps whose loss has not been read.
    pub fn pending(&self) -> usize {
        self.pending
    }
    /// One optimiser step; nothing is waited for and its loss stays on the device. Returns the number of samples.
    pub fn step(&mut self, step: &Step<'_>) -> Result<usize> {
        let Step { plan, list, .. } = *step;
        let (cursor, size) = ((step.batch * plan.batch_size()) as u32, plan.size(step.batch));
        self.optimizer.begin(&self.backend, step.lr, step.epoch, cursor)?;
        self.pending += 1;
        let Some(resident) = self.resident.get(list).cloned() else {
            plan.fill(step.dataset, step.epoch, step.batch, &mut self.batch);
            let Batch { enhancer, promoter, labels, weights, .. } = &self.batch;
            let batch = DeviceBatch::upload(&self.backend, enhancer, promoter, labels, weights)?;
            self.learn(&batch)?;
            return Ok(size);
        };
        // A short last batch has other shapes; it comes once an epoch.
        let whole = size == plan.batch_size();
        if let Some((_, graph)) = self.graph.as_ref().filter(|(recorded, _)| whole && *recorded == list) {
            self.backend.replay(graph)?;
            return Ok(size);
        }
        self.learn_gathered(&resident, size)?;
        if whole {
            self.graph = None;
            if !std::mem::replace(&mut self.settled, true) {
                return Ok(size);
            }
            let backend = self.backend.clone();
            let graph = backend.capture(&mut || self.learn_gathered(&resident, size))?;
            self.graph = graph.map(|graph| (list, graph));
        }
        Ok(size)
    }
    fn learn_gathered(&mut self, resident: &B::Resident, size: usize) -> Result<()> {
        let batch = DeviceBatch::gather(&self.backend, resident, size, self.optimizer.step_record())?;
        self.learn(&batch)
    }
    /// Forward, backward and update with one batch.
    fn learn(&mut self, batch: &DeviceBatch<B>) -> Result<()> {
        let step = self.optimizer.step_record();
        let mut tape = Tape::training(&self.backend, step, self.seed);
        let bound = self.parameters.bind(&tape)?;
        let output = self.model.forward(&mut tape, &bound, batch)?;
        self.backend.log_value(&self.losses, output.loss.value(), step)?;
        tape.backward(&output.loss, self.one.clone())?;
        self.optimizer.update(&self.parameters)?;
        Ok(())
    }
    /// The losses of the steps since the last call, oldest first; waits for them.
    pub fn take_losses(&mut self) -> Result<Vec<f32>> {
        let count = std::mem::take(&mut self.pending);
        if count == 0 {
            return Ok(Vec::new());
        }
        let (all, last) = (self.backend.to_f32(&self.losses)?, self.optimizer.steps() as usize);
        Ok((last + 1 - count..=last).map(|step| all[step % KEPT_LOSSES]).collect())
    }
}
