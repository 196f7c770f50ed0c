//! What a run needs to go on where it stopped.
//!
//! `optimizer-<step>.safetensors` holds parameters, statistics and Adam's moments of one step; `state.json` names it and is
//! replaced last, in one move. So a crash at any instant leaves the old checkpoint or the new one, whole.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{RunFolder, Stopping};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::nn::{Optimizer, Parameters, TensorFile, write_tensors};

/// Version of the layout of `state.json`.
const VERSION: u32 = 1;

/// The host side of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub version: u32,
    /// The protocol, when it scores what training has seen; everything such a run writes says so.
    #[serde(rename = "LEAKY", skip_serializing_if = "Option::is_none")]
    pub leaky: Option<String>,
    /// Fingerprint of the data set: a run goes on only with the pairs it began with.
    pub data: String,
    /// Optimiser steps made, and the samples they have seen.
    pub step: u32,
    #[serde(default)]
    pub samples: u64,
    /// The epoch and the batch of it that come next.
    pub epoch: u32,
    pub batch: usize,
    /// The phase of training, and the step and the epoch that it began with.
    #[serde(default)]
    pub phase: usize,
    #[serde(default)]
    pub phase_step: u32,
    #[serde(default)]
    pub phase_epoch: u32,
    /// Sum of the losses since the last line of the log, and how many there were.
    pub loss_sum: f64,
    pub loss_count: u32,
    pub stopping: Stopping,
    /// Training is over; only the final scores may be missing.
    pub finished: bool,
    /// File with parameters, statistics and moments.
    pub tensors: String,
}

impl State {
    /// The beginning of a run on the data set with this fingerprint.
    pub fn start(leaky: Option<String>, data: String) -> Self {
        State {
            version: VERSION,
            leaky,
            data,
            step: 0,
            samples: 0,
            epoch: 0,
            batch: 0,
            phase: 0,
            phase_step: 0,
            phase_epoch: 0,
            loss_sum: 0.0,
            loss_count: 0,
            stopping: Stopping::default(),
            finished: false,
            tensors: String::new(),
        }
    }
    /// Writes a checkpoint and makes it the current one.
    pub fn save<B: Backend>(
        &mut self,
        folder: &RunFolder,
        backend: &B,
        parameters: &Parameters<B>,
        optimizer: &Optimizer<B>,
    ) -> Result<()> {
        let old = std::mem::replace(&mut self.tensors, format!("optimizer-{}.safetensors", self.step));
        let [m, v] = optimizer.moments();
        let flat = [("m", m), ("v", v), ("parameters", parameters.values()), ("statistics", parameters.statistics())];
        let flat = flat.map(|(name, tensor)| (name, tensor.clone()));
        folder.write_with(&self.tensors, |out, path| write_tensors(backend, &flat, out, path))?;
        folder.write_with("last.safetensors", |out, path| parameters.write_safetensors(out, path))?;
        folder.write_json("state.json", self)?;
        if !old.is_empty() && old != self.tensors {
            remove(&folder.file(&old))?;
        }
        Ok(())
    }
    /// Removes the tensors of the current checkpoint, which nothing but resuming reads: half of what a run takes on disk.
    pub fn drop_tensors(folder: &RunFolder) -> Result<()> {
        Self::read(folder)?.map_or(Ok(()), |state| remove(&folder.file(&state.tensors)))
    }
    /// The state of a run as its folder has it; `None` if it never wrote a checkpoint.
    fn read(folder: &RunFolder) -> Result<Option<State>> {
        let path = folder.file("state.json");
        if !path.exists() {
            return Ok(None);
        }
        let state: State = serde_json::from_str(&folder.read_text("state.json")?)
            .map_err(|e| Error::input(&path, e.line() as u64, format!("not a checkpoint of this program: {e}")))?;
        if state.version != VERSION {
            let message = format!("checkpoint version {}, this program reads {VERSION}", state.version);
            return Err(Error::input(&path, None, message));
        }
        Ok(Some(state))
    }
    /// Reads the current checkpoint into `parameters` and `optimizer`; `None` if the run never wrote one.
    pub fn load<B: Backend>(
        folder: &RunFolder,
        backend: &B,
        parameters: &Parameters<B>,
        optimizer: &mut Optimizer<B>,
    ) -> Result<Option<State>> {
        let Some(state) = Self::read(folder)? else { return Ok(None) };
        let path = folder.file(&state.tensors);
        if state.finished && !path.exists() {
            let message = "was removed when this run was over, as a study does: score it with `epi-engine evaluate`, or train anew";
            return Err(Error::input(&path, None, message));
        }
        let mut file = TensorFile::open(&path)?;
        for (name, target) in [("parameters", parameters.values()), ("statistics", parameters.statistics())] {
            let values = file.read(name)?;
            if values.len() != target.len() {
                return Err(Error::input(&path, None, "belongs to a model of another size than config.toml's"));
            }
            backend.copy(target, &backend.from_f32(&values, target.shape())?)?;
        }
        optimizer.restore(backend, state.step, state.phase_step, &file.read("m")?, &file.read("v")?)?;
        Ok(Some(state))
    }
}

/// Removes a file that may be gone already.
fn remove(path: &Path) -> Result<()> {
    std::fs::remove_file(path).or_else(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(Error::io(path)(e)),
    })
}
