//! The study file: sources of pairs, and groups of runs over them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::Control;
use crate::data::split::SplitKind;
use crate::error::{Error, Result};

/// Everything that a study consists of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// Folder of the study; `--out` overrides it.
    #[serde(default = "default_out")]
    pub out: PathBuf,
    /// What the networks run on: `auto`, `cpu`, `cuda[:N]`, `emulator`, `reference`.
    #[serde(default = "default_device")]
    pub device: String,
    /// Folder that relative paths of the sources start from; `--data-dir` overrides it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// Factor of every sample budget; `--scale` overrides it.
    #[serde(default = "one")]
    pub scale: f64,
    /// Cells that run at the same time, each with its share of the processor; `--at-once` overrides it.
    #[serde(default = "one_cell")]
    pub at_once: usize,
    /// Where pairs come from, by the name that groups use.
    pub data: BTreeMap<String, Source>,
    /// The runs, in the order in which they are made.
    pub groups: Vec<Group>,
}

fn default_out() -> PathBuf {
    "runs/study".into()
}
fn default_device() -> String {
    "auto".into()
}
fn one() -> f64 {
    1.0
}
fn one_cell() -> usize {
    1
}

/// Where pairs come from: an `.epi` file, a genome and a table, a table of features (trees), planted motifs, or, with none of
/// these, the bundled pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// What tables call it: `BENGI`, `TargetFinder`, …
    pub dataset: String,
    /// The cell lines in it, as the file names them; needed by groups that name lines or take each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cell_lines: Vec<String>,
    /// An `.epi` file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// A genome and a table of pairs, which the study prepares in its own folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub genome: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<PathBuf>,
    /// TargetFinder's `training.csv.gz`, or a table in its form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<PathBuf>,
    /// Motifs planted into windows of the bundled pairs, made in the study's own folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planted: Option<Planted>,
}

/// A set with a known answer, as `epi-engine synth --data demo` makes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planted {
    /// `additive` or `pair`.
    pub level: String,
    /// Samples of each part.
    pub train: usize,
    pub validation: usize,
    pub test: usize,
    /// Bases of both windows.
    #[serde(default = "short_window")]
    pub length: usize,
    #[serde(default = "first_seed")]
    pub seed: u64,
}

fn short_window() -> usize {
    300
}
fn first_seed() -> u64 {
    1
}

/// What a source is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    Bundled,
    File,
    Genome,
    Features,
    Planted,
}

impl Source {
    /// Which of its keys are given.
    ///
    /// # Errors
    /// [`Error::Config`] naming the source for keys that exclude each other.
    pub fn kind(&self, name: &str) -> Result<SourceKind> {
        let given = [
            (SourceKind::File, self.file.is_some()),
            (SourceKind::Genome, self.genome.is_some() || self.pairs.is_some()),
            (SourceKind::Features, self.features.is_some()),
            (SourceKind::Planted, self.planted.is_some()),
        ];
        let mut given = given.iter().filter(|(_, given)| *given).map(|(kind, _)| *kind);
        let kind = given.next().unwrap_or(SourceKind::Bundled);
        if given.next().is_some() || (kind == SourceKind::Genome && (self.genome.is_none() || self.pairs.is_none())) {
            let message =
                "give one of: file, genome together with pairs, features, planted; or none, for the bundled pairs";
            return Err(Error::config(format!("data.{name}"), message));
        }
        Ok(kind)
    }
}

/// Runs that share a budget and settings: models × sources × cell lines × protocols × controls × seeds × folds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    pub name: String,
    pub models: Vec<ModelChoice>,
    /// Names of sources.
    pub data: Vec<String>,
    /// `all` (all lines of a source together), `each` (every line by itself), or names of lines. For `cross-cell`: the lines
    /// that are tested.
    #[serde(default = "all_lines")]
    pub cell_lines: Vec<String>,
    /// `cross-cell` only: the lines that train, one at a time, or `others` for all but the tested one together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub train_on: Vec<String>,
    /// Evaluation protocols, as `--split` names them.
    pub protocols: Vec<String>,
    /// Which folds are tested: numbers from 0, or `"all"`.
    #[serde(default)]
    pub folds: Folds,
    /// How many folds there are; by default 5, and 10 for the leaky protocols and for trees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u32>,
    /// Groups held out by name instead of folds (chromosomes, column values).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub validation: Vec<String>,
    #[serde(default = "first_seeds")]
    pub seeds: Vec<u64>,
    #[serde(default = "no_control")]
    pub controls: Vec<Control>,
    /// Samples that each run trains on at most; 0 = as many as its epochs hold.
    #[serde(default)]
    pub samples: u64,
    /// Further settings, as `--set` takes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<String>,
}

fn all_lines() -> Vec<String> {
    vec!["all".into()]
}
fn first_seeds() -> Vec<u64> {
    vec![1]
}
fn no_control() -> Vec<Control> {
    vec![Control::None]
}

/// A preset by name, or a preset (or TOML file) under a name of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ModelChoice {
    Preset(String),
    Named(NamedModel),
}

/// A preset under a name of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedModel {
    pub label: String,
    pub preset: String,
}

impl ModelChoice {
    /// What tables and folders call it.
    pub fn label(&self) -> &str {
        match self {
            ModelChoice::Preset(name) => name,
            ModelChoice::Named(named) => &named.label,
        }
    }
    /// Preset or file.
    pub fn preset(&self) -> &str {
        match self {
            ModelChoice::Preset(name) => name,
            ModelChoice::Named(named) => &named.preset,
        }
    }
}

/// Which folds are tested.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "toml::Value", into = "toml::Value")]
pub enum Folds {
    All,
    Some(Vec<u32>),
}

impl Default for Folds {
    fn default() -> Self {
        Folds::Some(vec![0])
    }
}

impl TryFrom<toml::Value> for Folds {
    type Error = String;
    fn try_from(value: toml::Value) -> std::result::Result<Self, String> {
        let number = |v: &toml::Value| v.as_integer().and_then(|n| u32::try_from(n).ok());
        let folds = match &value {
            toml::Value::String(name) if name == "all" => Some(Folds::All),
            toml::Value::Array(list) if !list.is_empty() => {
                list.iter().map(number).collect::<Option<_>>().map(Folds::Some)
            }
            _ => None,
        };
        folds.ok_or_else(|| format!("folds = {value}: use \"all\" or a list of numbers from 0, e.g. [0, 1]"))
    }
}

impl From<Folds> for toml::Value {
    fn from(folds: Folds) -> Self {
        match folds {
            Folds::All => "all".into(),
            Folds::Some(list) => list.into_iter().map(i64::from).collect::<Vec<_>>().into(),
        }
    }
}

impl Study {
    /// Reads and checks a study file.
    ///
    /// # Errors
    /// [`Error::Input`] with the line of what is no study; [`Error::Config`] for values that cannot work.
    pub fn read(path: &Path) -> Result<Study> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let study: Study = toml::from_str(&text).map_err(|e| {
            let line = e.span().map(|s| text[..s.start.min(text.len())].matches('\n').count() as u64 + 1);
            Error::input(path, line, e.message().to_string())
        })?;
        study.validate()?;
        Ok(study)
    }
    /// The study as TOML, as its folder keeps it.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a study is made of TOML types")
    }
    /// Checks names and numbers; what a model makes of its settings is seen when the cells are made.
    pub fn validate(&self) -> Result<()> {
        self.device.parse::<crate::backend::DeviceChoice>()?;
        if self.at_once == 0 {
            return Err(Error::config("at_once", "0: at least one cell has to run"));
        }
        if !(self.scale.is_finite() && self.scale > 0.0) {
            return Err(Error::config("scale", format!("{} must be a positive number", self.scale)));
        }
        for (name, source) in &self.data {
            source.kind(name)?;
            plain(&format!("data.{name}.dataset"), &source.dataset)?;
        }
        if self.groups.is_empty() {
            return Err(Error::config("groups", "a study needs at least one [[groups]]"));
        }
        self.groups.iter().try_for_each(|group| self.validate_group(group))
    }
    fn validate_group(&self, group: &Group) -> Result<()> {
        let wrong = |key: &str, message: String| Err(Error::config(format!("group `{}`, {key}", group.name), message));
        for (key, length) in [
            ("models", group.models.len()),
            ("data", group.data.len()),
            ("cell_lines", group.cell_lines.len()),
            ("protocols", group.protocols.len()),
            ("seeds", group.seeds.len()),
            ("controls", group.controls.len()),
        ] {
            if length == 0 {
                return wrong(key, "an empty list makes no run; leave the group out".into());
            }
        }
        for model in &group.models {
            plain(&format!("group `{}`, label", group.name), model.label())?;
        }
        for name in &group.data {
            let Some(source) = self.data.get(name) else {
                let known: Vec<&str> = self.data.keys().map(String::as_str).collect();
                return wrong("data", format!("there is no [data.{name}]; there are: {}", known.join(", ")));
            };
            for line in group.cell_lines.iter().chain(&group.train_on) {
                let special = ["all", "each", "others"].contains(&line.as_str());
                if !special && !source.cell_lines.contains(line) {
                    let known = source.cell_lines.join(", ");
                    return wrong("cell_lines", format!("data.{name}.cell_lines has no `{line}`; it lists: {known}"));
                }
                if line == "each" && source.cell_lines.is_empty() {
                    return wrong("cell_lines", format!("`each` needs data.{name}.cell_lines, the list of them"));
                }
            }
        }
        for protocol in &group.protocols {
            let kind: SplitKind = protocol.parse()?;
            let cross = matches!(kind, SplitKind::CrossCell { .. });
            if cross && group.cell_lines.iter().any(|l| l == "all") {
                return wrong("cell_lines", format!("`{protocol}` tests one line: name lines, or `each`"));
            }
            if cross == group.train_on.is_empty() {
                let message = "cross-cell protocols need train_on (lines, or `others`); no other protocol takes it";
                return wrong("train_on", message.into());
            }
        }
        Ok(())
    }
}

/// Error for a name that cannot be part of a path.
fn plain(key: &str, name: &str) -> Result<()> {
    let fits = |c: char| c.is_alphanumeric() || "._-+".contains(c);
    if !name.is_empty() && name.chars().all(fits) && !name.starts_with('.') {
        return Ok(());
    }
    Err(Error::config(key, format!("`{name}` names a folder: use letters, digits and . _ - +")))
}
