//! What a run folder holds, read and checked. What is absent is `None`; what is damaged is an error that names the file.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::marks::Estimate;
use crate::config::{self, BoostedConfig, Config};
use crate::error::{Error, Result};
use crate::evaluate::{Prediction, read_predictions};
use crate::metrics::Interval;
use crate::models::{Model, Network};
use crate::train::RunFolder;

/// `config.toml`.
#[derive(Clone, Debug)]
pub enum RunConfig {
    Network(Box<Config>),
    Trees(Box<BoostedConfig>),
}

impl RunConfig {
    /// Name of the architecture; the variant of EPSAT or EPLAE is in the rest of the configuration.
    pub fn model(&self) -> &'static str {
        match self {
            RunConfig::Network(config) => config.model.name(),
            RunConfig::Trees(_) => "target-finder",
        }
    }
    /// The protocol.
    pub fn split(&self) -> &str {
        match self {
            RunConfig::Network(config) => &config.split.kind,
            RunConfig::Trees(config) => &config.split.kind,
        }
    }
    /// Learned parameters, in all and by part; `None` for trees and where the lengths of the windows are not known.
    pub fn parameters(&self) -> Option<(usize, Vec<(String, usize)>)> {
        let RunConfig::Network(config) = self else { return None };
        let (enhancer, promoter) = (config.data.enhancer_length, config.data.promoter_length);
        let network = Network::new(&config.model);
        network.check_lengths(enhancer, promoter).ok()?;
        let mut parts: Vec<(String, usize)> = Vec::new();
        for spec in network.specs(enhancer, promoter).iter().filter(|s| s.trainable) {
            let part = network.part(&spec.name);
            match parts.iter_mut().find(|(name, _)| name == part) {
                Some((_, n)) => *n += spec.len(),
                None => parts.push((part.to_string(), spec.len())),
            }
        }
        Some((parts.iter().map(|p| p.1).sum(), parts))
    }
}

/// A row of `per_chromosome` or `per_distance`.
#[derive(Clone, Debug, Deserialize)]
pub struct Stratum {
    pub name: String,
    pub n: usize,
    pub positives: usize,
    pub base_rate: Option<f64>,
    pub aupr: Option<f64>,
    pub auroc: Option<f64>,
}

/// A bin of the calibration.
#[derive(Clone, Debug, Deserialize)]
pub struct Bin {
    pub low: f64,
    pub high: f64,
    pub n: usize,
    pub mean_score: Option<f64>,
    pub positive_rate: Option<f64>,
}

/// `calibration` of `metrics.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Calibration {
    pub ece: Option<f64>,
    pub bins: Vec<Bin>,
}

/// `baselines` of `metrics.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Baselines {
    pub lookup: Map<String, Value>,
    /// `None` without coordinates.
    pub distance: Option<Map<String, Value>>,
}

/// Pairs of a part of the split or of a cell line.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Counts {
    pub pairs: usize,
    pub positives: usize,
}

/// `macro_f1_per_batch` of `metrics.json`, under `paper-code`.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct PerBatch {
    pub value: Option<f64>,
    pub batch: usize,
}

/// `metrics.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Metrics {
    pub split: String,
    pub folds: Vec<u32>,
    pub leaky: bool,
    pub n: usize,
    pub positives: usize,
    pub f1_threshold: f64,
    pub f1_threshold_chosen: bool,
    pub interval_unit: String,
    pub interval_units: u32,
    pub baselines: Baselines,
    pub calibration: Calibration,
    pub per_chromosome: Vec<Stratum>,
    pub per_distance: Vec<Stratum>,
    pub macro_f1: Option<f64>,
    pub macro_f1_per_batch: Option<PerBatch>,
    pub warnings: Vec<String>,
    /// Pairs of the data set by cell line; absent from folders of earlier versions.
    pub data: Option<Map<String, Value>>,
    /// `{aupr, aupr_low, aupr_high, …}`.
    #[serde(flatten)]
    scores: Map<String, Value>,
}

/// Value and interval of a score among `{name, name_low, name_high}`.
pub fn estimate(scores: &Map<String, Value>, name: &str) -> Estimate {
    let number = |key: &str| scores.get(key).and_then(Value::as_f64);
    let interval = number(&format!("{name}_low")).zip(number(&format!("{name}_high")));
    (number(name), interval.map(|(low, high)| Interval { low, high }))
}

impl Metrics {
    /// The model's score called `name`.
    pub fn score(&self, name: &str) -> Estimate {
        estimate(&self.scores, name)
    }
    /// The lookup's.
    pub fn lookup(&self, name: &str) -> Estimate {
        estimate(&self.baselines.lookup, name)
    }
    /// The distance baseline's.
    pub fn distance(&self, name: &str) -> Estimate {
        self.baselines.distance.as_ref().map_or((None, None), |d| estimate(d, name))
    }
    /// Pairs of each cell line of the data set.
    pub fn cell_lines(&self) -> Vec<(String, Counts)> {
        let lines = self.data.as_ref().and_then(|d| d.get("cell_lines")).and_then(Value::as_object);
        let one = |(name, counts): (&String, &Value)| Some((name.clone(), Counts::deserialize(counts).ok()?));
        lines.into_iter().flatten().filter_map(one).collect()
    }
}

/// A line of `metrics.jsonl`.
#[derive(Clone, Debug, Deserialize)]
pub struct Logged {
    pub step: u32,
    pub split: String,
    pub loss: Option<f64>,
    pub auroc: Option<f64>,
    pub aupr: Option<f64>,
    pub phase: Option<String>,
}

/// A line of `explain/latent.tsv`.
#[derive(Clone, Debug, Deserialize)]
pub struct Mapped {
    pub label: u8,
    pub input_1: f64,
    pub input_2: f64,
    pub code_1: f64,
    pub code_2: f64,
    pub logit_0: f64,
    pub logit_1: f64,
}

/// `state.json`, as far as a report needs it.
#[derive(Clone, Debug, Deserialize)]
pub struct Reached {
    pub step: u32,
    pub finished: bool,
    pub stopping: crate::train::Stopping,
}

/// A run folder.
#[derive(Clone, Debug)]
pub struct RunFiles {
    pub path: PathBuf,
    pub config: RunConfig,
    pub config_text: String,
    pub metrics: Option<Metrics>,
    pub history: Vec<Logged>,
    pub predictions: Option<Vec<Prediction>>,
    pub reached: Option<Reached>,
    pub log: Option<String>,
    pub latent: Option<Vec<Mapped>>,
    /// `importances.tsv` of trees: feature and mean share.
    pub importances: Vec<(String, f64)>,
    /// The folders `fold-K` of a run of all folds.
    pub folds: Vec<RunFiles>,
}

impl RunFiles {
    /// Reads a run folder.
    ///
    /// # Errors
    /// [`Error::Input`] for a folder that holds no run and for a damaged file.
    pub fn read(path: &Path) -> Result<RunFiles> {
        let folder = RunFolder::open(path)?;
        let config_path = folder.file("config.toml").to_string_lossy().to_string();
        let config = if config::is_boosted(&config_path)? {
            RunConfig::Trees(Box::new(config::load_boosted(&config_path, &[])?))
        } else {
            RunConfig::Network(Box::new(config::load(&config_path, &[])?))
        };
        let fold = |k: u32| path.join(format!("fold-{k}"));
        let folds = (0..).map(fold).take_while(|f| f.join("config.toml").is_file());
        let predictions = folder.file("predictions.tsv");
        Ok(RunFiles {
            path: path.to_path_buf(),
            config,
            config_text: folder.read_text("config.toml")?,
            metrics: json(&folder, "metrics.json", "continue the run with --resume, which writes it anew")?,
            history: history(&folder)?,
            predictions: predictions.is_file().then(|| read_predictions(&predictions)).transpose()?,
            reached: json(&folder, "state.json", "the run cannot go on from it")?,
            log: folder.file("log.txt").is_file().then(|| folder.read_text("log.txt")).transpose()?,
            latent: latent(&folder)?,
            importances: importances(&folder)?,
            folds: folds.map(|f| RunFiles::read(&f)).collect::<Result<_>>()?,
        })
    }
    /// Name of the folder.
    pub fn name(&self) -> String {
        let full = std::path::absolute(&self.path).unwrap_or(self.path.clone());
        full.file_name().map_or("run".into(), |n| n.to_string_lossy().to_string())
    }
    /// The protocol, when the run says that it leaks.
    pub fn leaky(&self) -> Option<&str> {
        self.metrics.as_ref().filter(|m| m.leaky).map(|m| m.split.as_str())
    }
    /// The map of an autoencoder's code, and the folder it is of: the run's, or its first fold's that has one.
    pub fn latent_map(&self) -> Option<&[Mapped]> {
        self.latent.as_deref().or_else(|| self.folds.iter().find_map(|f| f.latent.as_deref()))
    }
}

fn json<T: DeserializeOwned>(folder: &RunFolder, name: &str, remedy: &str) -> Result<Option<T>> {
    let path = folder.file(name);
    if !path.is_file() {
        return Ok(None);
    }
    let damaged = |e: serde_json::Error| Error::input(&path, e.line() as u64, format!("damaged ({e}); {remedy}"));
    serde_json::from_str(&folder.read_text(name)?).map(Some).map_err(damaged)
}

/// The lines of `metrics.jsonl`. A last line that is cut short belongs to a run that is at work or was killed.
fn history(folder: &RunFolder) -> Result<Vec<Logged>> {
    let path = folder.file("metrics.jsonl");
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let text = folder.read_text("metrics.jsonl")?;
    let lines: Vec<&str> = text.lines().collect();
    let mut all = Vec::with_capacity(lines.len());
    for (i, line) in lines.iter().enumerate() {
        match serde_json::from_str(line) {
            Ok(logged) => all.push(logged),
            Err(_) if i + 1 == lines.len() && !text.ends_with('\n') => {}
            Err(e) => return Err(Error::input(&path, i as u64 + 1, format!("not a line of this log: {e}"))),
        }
    }
    Ok(all)
}

fn latent(folder: &RunFolder) -> Result<Option<Vec<Mapped>>> {
    let path = folder.file("explain/latent.tsv");
    if !path.is_file() {
        return Ok(None);
    }
    let bad = |e: csv::Error| {
        let line = e.position().map(csv::Position::line);
        Error::input(&path, line, format!("not a line that `explain latent` writes: {e}"))
    };
    let mut reader = csv::ReaderBuilder::new().delimiter(b'\t').from_path(&path).map_err(bad)?;
    let all: Vec<Mapped> = reader.deserialize().collect::<std::result::Result<_, _>>().map_err(bad)?;
    Ok(Some(all))
}

fn importances(folder: &RunFolder) -> Result<Vec<(String, f64)>> {
    let path = folder.file("importances.tsv");
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let text = folder.read_text("importances.tsv")?;
    let one = |(i, line): (usize, &str)| {
        let mut fields = line.split('\t');
        let found = fields.next().zip(fields.next().and_then(|share| share.parse().ok()));
        let bad =
            || Error::input(&path, i as u64 + 1, "expected a feature and its share; --resume writes the file anew");
        found.map(|(name, share)| (name.to_string(), share)).ok_or_else(bad)
    };
    text.lines().enumerate().skip(1).map(one).collect()
}
