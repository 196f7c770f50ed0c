//! One training run on one device.

use std::time::Instant;

use serde_json::{Value, json};

use super::{KEPT_LOSSES, Learner, RunFolder, State, Step, Stopping};
use crate::backend::{Adam, Backend};
use crate::config::{self, BestBy, Config, Phase, TrainConfig};
use crate::data::batch::EpochPlan;
use crate::data::split::Split;
use crate::data::{Augmentation, Balance, Dataset, Sample};
use crate::error::{Error, Result};
use crate::evaluate::{Scores, score};
use crate::metrics;
use crate::models::{Model, Network};
use crate::nn::{Optimizer, Parameters, Spec};

/// What a step looked like, for a progress display.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Optimiser steps made, and how many the run will make at most.
    pub step: u32,
    pub steps: u32,
    pub epoch: u32,
    /// Name of the phase, where training has several.
    pub phase: Option<&'a str>,
    /// Mean loss of the last logged steps.
    pub loss: Option<f64>,
    /// Training samples per second since the run (or its resumption) began.
    pub samples_per_s: f64,
}

/// Watches a run; every method may stay empty.
pub trait Observer {
    /// After every step.
    fn step(&mut self, _progress: &Progress<'_>) {}
    /// A line worth reading: evaluations, checkpoints, early stopping.
    fn say(&mut self, _line: &str) {}
    /// Scoring of a part: samples done of all.
    fn scoring(&mut self, _part: &str, _done: u64, _total: u64) {}
    /// Asked between steps: whether to save and stop now.
    fn interrupted(&self) -> bool {
        false
    }
}

/// Watches nothing.
pub struct Silent;
impl Observer for Silent {}

/// A finished training: how far it went and what was best.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub steps: u32,
    pub samples: u64,
    pub seconds: f64,
    pub state: State,
}

impl Outcome {
    /// As `metrics.json` tells it.
    pub fn to_json(&self) -> Value {
        json!({
            "steps": self.state.step, "best": self.state.stopping.best,
            "samples": self.samples, "seconds": self.seconds, "samples_seen": self.state.samples,
        })
    }
}

/// A training run: data, network with optimiser, folder.
pub struct Training<'a, B: Backend> {
    backend: &'a B,
    learner: Learner<B>,
    config: &'a TrainConfig,
    dataset: &'a Dataset,
    phases: Vec<Phase>,
    /// Training list of each phase.
    plans: Vec<EpochPlan>,
    validation: EpochPlan,
    folder: RunFolder,
    state: State,
}

/// The training list of a phase: balance and augmentation applied.
pub fn training_plan(config: &Config, balance: config::Balance, samples: &[Sample]) -> EpochPlan {
    let data = &config.data;
    let balance = match balance {
        config::Balance::None => Balance::None,
        config::Balance::Weights => Balance::Weights,
        config::Balance::Oversample => Balance::Oversample(data.positives_times as u32),
    };
    let augmentation = Augmentation { shift: data.shift, reverse_complement: data.reverse_complement };
    EpochPlan::training(samples, balance, augmentation, config.train.seed, config.train.batch)
}

/// `steps`, or `limit` if that is smaller and not 0.
fn limited(steps: u32, limit: u32) -> u32 {
    if limit > 0 { steps.min(limit) } else { steps }
}

/// Error for a phase that this model cannot go through.
pub(super) fn check_phases(model: &Network, specs: &[Spec], phases: &[Phase]) -> Result<()> {
    for phase in phases {
        model.clone().set_objective(phase.objective)?;
        if let Some(prefix) = phase.frozen.iter().find(|p| !specs.iter().any(|s| s.name.starts_with(p.as_str()))) {
            let names: Vec<_> = specs.iter().filter(|s| s.trainable).map(|s| s.name.as_str()).collect();
            let message = format!("frozen: no tensor of {} begins with `{prefix}`; there are {names:?}", model.name());
            return Err(Error::config("train.phases", message));
        }
        if specs.iter().filter(|s| s.trainable).all(|s| phase.frozen.iter().any(|p| s.name.starts_with(p))) {
            return Err(Error::config("train.phases", "frozen: nothing is left to train"));
        }
    }
    Ok(())
}

impl<'a, B: Backend> Training<'a, B> {
    /// Prepares a run; `resume` continues from the folder's checkpoint if there is one.
    pub fn new(
        backend: &'a B,
        config: &'a Config,
        dataset: &'a Dataset,
        split: &Split,
        folder: RunFolder,
        resume: bool,
    ) -> Result<Self> {
        let (train, validation) = (&split.train, &split.validation);
        let model = Network::new(&config.model);
        model.check_lengths(dataset.enhancer_length(), dataset.promoter_length())?;
        let phases = config.phases();
        let specs = model.specs(dataset.enhancer_length(), dataset.promoter_length());
        check_phases(&model, &specs, &phases)?;
        let plans: Vec<_> = phases.iter().map(|phase| training_plan(config, phase.balance, train)).collect();
        if plans.iter().any(|plan| plan.batches() == 0 || plan.size(0) < 2) {
            let message = format!("the training part has {} samples; at least 2 are needed", train.len());
            return Err(Error::config("split", message));
        }
        let t = &config.train;
        let parameters = Parameters::new(backend, specs, t.seed)?;
        let clip = (t.clip > 0.0).then_some(t.clip);
        let adam = Adam { beta1: t.beta1, beta2: t.beta2, eps: t.eps, clip };
        let mut optimizer = Optimizer::new(&parameters, adam)?;
        let mut state = State::start(split.leaky.then(|| split.kind.to_string()), dataset.fingerprint());
        if resume && let Some(found) = State::load(&folder, backend, &parameters, &mut optimizer)? {
            if found.data != state.data {
                let message = format!("{} is not the data set that this run began with", dataset.path().display());
                return Err(Error::config("--resume", message));
            }
            if found.phase >= phases.len() {
                let message =
                    format!("the checkpoint is of phase {}, config.toml has {}", found.phase + 1, phases.len());
                return Err(Error::config("--resume", message));
            }
            state = found;
        } else {
            model.start(&parameters)?;
        }
        folder.cut_metrics(state.step)?;
        let validation = EpochPlan::evaluation(validation, t.batch);
        let mut learner = Learner::new(backend, model, parameters, optimizer, t.seed)?;
        if t.graph {
            learner.place(dataset, &plans)?;
        }
        let mut training = Training { backend, learner, config: t, dataset, phases, plans, validation, folder, state };
        training.enter_phase()?;
        Ok(training)
    }
    fn phase(&self) -> &Phase {
        &self.phases[self.state.phase]
    }
    /// Steps of phase `i` if nothing stops it early.
    fn phase_steps(&self, i: usize) -> u32 {
        let all = u32::try_from(self.plans[i].batches()).unwrap_or(u32::MAX).saturating_mul(self.phases[i].epochs);
        limited(all, self.phases[i].max_steps)
    }
    /// The step that the phase ends with at the latest.
    fn phase_end(&self) -> u32 {
        let end = self.state.phase_step.saturating_add(self.phase_steps(self.state.phase));
        limited(end, self.config.step_limit())
    }
    /// Steps that the run will make at most.
    pub fn total_steps(&self) -> u32 {
        let later = (self.state.phase + 1..self.phases.len()).map(|i| self.phase_steps(i));
        let all = later.fold(self.phase_end(), u32::saturating_add);
        limited(all, self.config.step_limit())
    }
    /// Applies the settings of the phase that the state names.
    fn enter_phase(&mut self) -> Result<()> {
        let phase = &self.phases[self.state.phase];
        self.learner.forget_recording();
        self.learner.model.set_objective(phase.objective)?;
        let parameters = &mut self.learner.parameters;
        parameters.set_l2(phase.l2);
        parameters.freeze(&[""], false);
        parameters.freeze(&phase.frozen.iter().map(String::as_str).collect::<Vec<_>>(), true);
        Ok(())
    }
    /// Goes on to the next phase, with the best weights of this one and fresh moments; ends training after the last.
    fn end_phase(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let (next, step, limit) = (self.state.phase + 1, self.state.step, self.config.step_limit());
        if next == self.phases.len() || (limit > 0 && step >= limit) {
            self.state.finished = true;
            return Ok(());
        }
        self.load_best()?;
        self.learner.optimizer.restart(self.backend)?;
        if self.state.batch > 0 {
            (self.state.epoch, self.state.batch) = (self.state.epoch + 1, 0);
        }
        (self.state.phase, self.state.phase_step, self.state.phase_epoch) = (next, step, self.state.epoch);
        self.state.stopping = Stopping::default();
        self.enter_phase()?;
        if let Some(name) = &self.phase().name {
            observer.say(&format!("step {step:>6}  phase `{name}` begins with the best weights so far"));
        }
        Ok(())
    }
    /// Steps already made.
    pub fn steps_done(&self) -> u32 {
        self.state.step
    }
    /// The model's tensors as they are now.
    pub fn parameters(&self) -> &Parameters<B> {
        &self.learner.parameters
    }
    /// The network.
    pub fn model(&self) -> &Network {
        &self.learner.model
    }

    /// Trains to the end, to early stopping or to an interruption; the folder then holds a checkpoint of that moment.
    pub fn run(&mut self, observer: &mut dyn Observer) -> Result<Outcome> {
        let started = Instant::now();
        let (first_step, mut samples) = (self.state.step, 0u64);
        let mut shown_loss = None;
        let rate = |samples: u64| samples as f64 / started.elapsed().as_secs_f64().max(1e-9);
        if !self.state.finished && self.state.step >= self.phase_end() {
            // A limit that ended the run with a phase was lifted.
            self.end_phase(observer)?;
            self.save()?;
        }
        while !self.state.finished {
            let (total, plan) = (self.total_steps(), &self.plans[self.state.phase]);
            let batches = plan.batches();
            let (list, lr) = (self.state.phase, self.phase().lr);
            let (epoch, batch) = (self.state.epoch, self.state.batch);
            let seen = self.learner.step(&Step { dataset: self.dataset, plan, list, epoch, batch, lr })? as u64;
            samples += seen;
            self.state.samples += seen;
            self.state.step += 1;
            self.state.batch += 1;
            let epoch_ends = self.state.batch == batches;
            let phase_ends = self.state.step == self.phase_end();
            let evaluates = match self.config.evaluate_every {
                0 => epoch_ends,
                every => self.state.step.is_multiple_of(every),
            } || phase_ends;
            let saves =
                self.config.checkpoint_every > 0 && self.state.step.is_multiple_of(self.config.checkpoint_every);
            let stops = observer.interrupted();
            let logs = self.state.step.is_multiple_of(self.config.log_every.max(1)) || evaluates;
            if logs || saves || stops || self.learner.pending() == KEPT_LOSSES {
                self.collect()?;
            }
            if logs {
                shown_loss = self.log_training(rate(samples))?;
            }
            let progress = Progress {
                step: self.state.step,
                steps: total,
                epoch: self.state.epoch - self.state.phase_epoch,
                phase: self.phase().name.as_deref(),
                loss: shown_loss,
                samples_per_s: rate(samples),
            };
            observer.step(&progress);
            if epoch_ends {
                self.state.epoch += 1;
                self.state.batch = 0;
            }
            if evaluates {
                self.evaluate(observer)?;
                let patience = self.phase().patience;
                let exhausted = self.state.stopping.exhausted(patience);
                if exhausted {
                    observer.say(&format!("no better validation score in {patience} evaluations: stopping"));
                }
                if exhausted || phase_ends {
                    self.end_phase(observer)?;
                }
            }
            if saves || evaluates || stops {
                self.save()?;
            }
            if stops {
                return Err(Error::Interrupted(format!(
                    "saved at step {}; continue with --resume {}",
                    self.state.step,
                    self.folder.path().display()
                )));
            }
        }
        Ok(Outcome {
            steps: self.state.step - first_step,
            samples,
            seconds: started.elapsed().as_secs_f64(),
            state: self.state.clone(),
        })
    }

    /// Reads the losses that are still on the device; the first that is not finite ends the run.
    fn collect(&mut self) -> Result<()> {
        let losses = self.learner.take_losses()?;
        let first = self.state.step + 1 - losses.len() as u32;
        for (i, loss) in losses.into_iter().map(f64::from).enumerate() {
            if !loss.is_finite() {
                let kept = match self.state.tensors.is_empty() {
                    true => "no checkpoint had been written yet".to_string(),
                    false => format!("the last good checkpoint is {}", self.folder.file("last.safetensors").display()),
                };
                return Err(Error::NonFinite(format!(
                    "the loss of step {} is {loss}: training stopped; {kept}. Try a smaller train.lr or set train.clip=1",
                    first + i as u32
                )));
            }
            self.state.loss_sum += loss;
            self.state.loss_count += 1;
        }
        Ok(())
    }

    fn log_training(&mut self, samples_per_s: f64) -> Result<Option<f64>> {
        if self.state.loss_count == 0 {
            return Ok(None);
        }
        let loss = self.state.loss_sum / f64::from(self.state.loss_count);
        let rate = (samples_per_s * 10.0).round() / 10.0;
        self.log_metrics("train", json!({ "loss": loss, "lr": self.phase().lr, "samples_per_s": rate }))?;
        (self.state.loss_sum, self.state.loss_count) = (0.0, 0);
        Ok(Some(loss))
    }

    /// Appends a line to `metrics.jsonl` and the same numbers to TensorBoard's file.
    fn log_metrics(&self, split: &str, values: Value) -> Result<()> {
        let numbers = values.as_object().into_iter().flatten();
        let stamp = if self.state.leaky.is_some() { "LEAKY " } else { "" };
        let scalars: Vec<_> = numbers.filter_map(|(k, v)| Some((format!("{stamp}{split}/{k}"), v.as_f64()?))).collect();
        self.folder.append_events(self.state.step, &scalars)?;
        let mut line = json!({ "step": self.state.step, "epoch": self.state.epoch, "split": split });
        if let (Value::Object(line), Value::Object(values)) = (&mut line, values) {
            line.extend(self.phase().name.iter().map(|name| ("phase".to_string(), json!(name))));
            line.extend(values);
            line.extend(self.state.leaky.iter().map(|kind| ("LEAKY".to_string(), json!(kind))));
        }
        self.folder.append("metrics.jsonl", &line.to_string())
    }

    /// Scores the validation part, keeps the best weights.
    fn evaluate(&mut self, observer: &mut dyn Observer) -> Result<()> {
        if self.validation.is_empty() {
            self.save_best()?;
            return Ok(());
        }
        self.learner.forget_recording(); // scoring gets its memory
        let scores = self.score(&self.validation, "validation", observer)?;
        let labels: Vec<u8> = self.validation.samples()[..scores.probabilities.len()].iter().map(|s| s.label).collect();
        let values: Vec<f64> = scores.probabilities.iter().map(|&p| f64::from(p)).collect();
        let metrics::Scores { auroc, aupr, .. } = metrics::Ranking::ungrouped(&labels, &values, 0.5).scores();
        let loss = scores.loss.unwrap_or(f64::NAN);
        let mut line = json!({ "loss": loss, "auroc": auroc, "aupr": aupr, "n": labels.len() });
        if let (Some(r), Value::Object(line)) = (&scores.reconstruction, &mut line) {
            line.extend([
                ("mse".into(), json!(r.mse())),
                ("base_accuracy_enhancer".into(), json!(r.enhancer.base_accuracy())),
                ("base_accuracy_promoter".into(), json!(r.promoter.base_accuracy())),
            ]);
        }
        self.log_metrics("validation", line)?;
        // With a single class there is no ranking to judge by.
        let score = match (self.phase().best_by, aupr) {
            (BestBy::Aupr, Some(aupr)) if auroc.is_some() => aupr,
            (BestBy::MacroF1PerBatch, _) => {
                metrics::macro_f1_per_batch(&labels, &values, 0.5, self.config.batch).unwrap_or(-loss)
            }
            _ => -loss,
        };
        let best = self.state.stopping.observe(self.state.step, self.state.epoch, score);
        if best {
            self.save_best()?;
        }
        let show = |v: Option<f64>| v.map_or("-".to_string(), |v| format!("{v:.3}"));
        observer.say(&format!(
            "step {:>6}  epoch {:>3}  validation loss {loss:.4}  AUROC {}  AUPR {}{}{}",
            self.state.step,
            self.state.epoch,
            show(auroc),
            show(aupr),
            scores.reconstruction.map_or(String::new(), |r| format!("  {}", r.brief())),
            if best { "  (best)" } else { "" }
        ));
        Ok(())
    }

    fn save_best(&self) -> Result<()> {
        self.folder.write_with("best.safetensors", |out, path| self.learner.parameters.write_safetensors(out, path))
    }

    /// Scores a plan with the parameters as they are now.
    pub fn score(&self, plan: &EpochPlan, part: &str, observer: &mut dyn Observer) -> Result<Scores> {
        let limit = (self.config.max_steps > 0).then_some(self.config.max_steps as usize);
        let total = plan.len() as u64;
        let mut tick = |done| observer.scoring(part, done, total);
        score(self.backend, &self.learner.model, &self.learner.parameters, self.dataset, plan, limit, &mut tick)
    }

    /// Puts the weights of the best evaluation in place.
    pub fn load_best(&mut self) -> Result<()> {
        self.learner.parameters.load_safetensors(&self.folder.file("best.safetensors"))
    }

    fn save(&mut self) -> Result<()> {
        self.state.save(&self.folder, self.backend, &self.learner.parameters, &self.learner.optimizer)
    }
}
