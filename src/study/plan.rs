//! From a study file to its cells, each with the whole configuration of its run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::file::{Folds, Group, ModelChoice, Source, SourceKind, Study};
use super::{Cell, CellState};
use crate::config::{self, BoostedConfig, Config, Control};
use crate::data::split::SplitKind;
use crate::error::{Error, Result};

/// A cell and what it runs.
#[derive(Clone, Debug)]
pub struct Task {
    pub cell: Cell,
    /// Name of its source in the study file.
    pub source: String,
    pub job: Job,
}

/// The configuration of a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Job {
    Network(Box<Config>),
    Trees(Box<BoostedConfig>),
}

impl Job {
    /// As `config.toml` of the run folder holds it.
    pub fn to_toml(&self) -> String {
        match self {
            Job::Network(config) => config.to_toml(),
            Job::Trees(config) => config.to_toml(),
        }
    }
    /// Reads the `config.toml` of a run.
    pub fn read(path: &Path) -> Result<Job> {
        let name = path.to_string_lossy();
        Ok(match config::is_boosted(&name)? {
            true => Job::Trees(config::load_boosted(&name, &[])?.into()),
            false => Job::Network(config::load(&name, &[])?.into()),
        })
    }
    /// Without what may differ between two starts of one study: where it runs, the folder that its data lie in, and window
    /// lengths that were read from the data.
    fn essence(&self) -> Job {
        let name = |path: &mut Option<PathBuf>| *path = path.as_ref().and_then(|p| p.file_name()).map(PathBuf::from);
        let mut job = self.clone();
        match &mut job {
            Job::Network(config) => {
                name(&mut config.data.path);
                (config.data.enhancer_length, config.data.promoter_length) = (0, 0);
                config.train.device.clear();
            }
            Job::Trees(config) => name(&mut config.features.path),
        }
        job
    }
    /// The first key whose value is another in `other`, with both values; `None` when they are one and the same run.
    pub fn difference(&self, other: &Job) -> Option<String> {
        let table = |job: &Job| job.essence().to_toml().parse::<toml::Table>().expect("a configuration is TOML");
        let (a, b) = (flat(&table(self)), flat(&table(other)));
        let key = a.keys().chain(b.keys()).find(|key| a.get(*key) != b.get(*key))?;
        let value = |of: &BTreeMap<String, toml::Value>| of.get(key).map_or("not set".into(), ToString::to_string);
        Some(format!("{key} was {}, is now {}", value(&b), value(&a)))
    }
}

/// `section.key` and its value.
fn flat(table: &toml::Table) -> BTreeMap<String, toml::Value> {
    let mut all = BTreeMap::new();
    for (section, value) in table {
        match value {
            toml::Value::Table(inner) => all.extend(inner.iter().map(|(k, v)| (format!("{section}.{k}"), v.clone()))),
            value => drop(all.insert(section.clone(), value.clone())),
        }
    }
    all
}

/// Every cell of a study, in the order of the file.
///
/// # Errors
/// [`Error::Config`] naming the group for settings that cannot work, and for two cells that would share a folder.
pub fn tasks(study: &Study, out: &Path) -> Result<Vec<Task>> {
    let mut tasks: Vec<Task> = Vec::new();
    for group in &study.groups {
        let named = |error: Error| match error {
            Error::Config { option, message } => Error::config(format!("group `{}`, {option}", group.name), message),
            other => other,
        };
        let before = tasks.len();
        expand(study, group, out, &mut tasks).map_err(named)?;
        if tasks.len() == before {
            let message = "makes no run: a line does not train for itself. Name other lines in train_on or cell_lines";
            return Err(Error::config(format!("group `{}`", group.name), message));
        }
    }
    let mut seen: BTreeMap<&Path, &Cell> = BTreeMap::new();
    for task in &tasks {
        let folder = task.cell.folder.as_deref().expect("a planned cell has a folder");
        if let Some(other) = seen.insert(folder, &task.cell) {
            let message = format!(
                "is also asked for by group `{}`; give one of them a label of its own: models = [{{ label = \"…\", preset = \"{}\" }}]",
                other.group, task.cell.preset
            );
            return Err(Error::config(format!("group `{}`: {}", task.cell.group, task.cell.title()), message));
        }
    }
    Ok(tasks)
}

/// Lines that are scored and lines that train.
struct Lines {
    scored: String,
    /// `None`: those that are scored.
    trained_on: Option<Vec<String>>,
}

fn lines(group: &Group, source: &Source, cross: bool) -> Vec<Lines> {
    let mut scored: Vec<&String> = Vec::new();
    for line in &group.cell_lines {
        match line.as_str() {
            "each" => scored.extend(&source.cell_lines),
            _ => scored.push(line),
        }
    }
    if !cross {
        return scored.into_iter().map(|line| Lines { scored: line.clone(), trained_on: None }).collect();
    }
    let mut all = Vec::new();
    for line in scored {
        let others = || source.cell_lines.iter().filter(|l| *l != line).cloned();
        for from in &group.train_on {
            let trained_on: Vec<Vec<String>> = match from.as_str() {
                "others" => vec![others().collect()],
                "each" => others().map(|l| vec![l]).collect(),
                name if name == line => Vec::new(),
                name => vec![vec![name.to_string()]],
            };
            all.extend(trained_on.into_iter().map(|t| Lines { scored: line.clone(), trained_on: Some(t) }));
        }
    }
    all
}

fn expand(study: &Study, group: &Group, out: &Path, tasks: &mut Vec<Task>) -> Result<()> {
    for model in &group.models {
        let trees = config::is_boosted(model.preset())?;
        for name in &group.data {
            let source = &study.data[name];
            let features = source.kind(name)? == SourceKind::Features;
            if features != trees {
                let message = match trees {
                    true => format!("`{}` learns from features, data.{name} has none", model.label()),
                    false => format!("`{}` reads DNA, data.{name} holds features only", model.label()),
                };
                return Err(Error::config("models", message));
            }
            for protocol in &group.protocols {
                let kind: SplitKind = protocol.parse()?;
                let cross = matches!(kind, SplitKind::CrossCell { .. });
                for lines in lines(group, source, cross) {
                    for &control in &group.controls {
                        for &seed in &group.seeds {
                            let draft =
                                Draft { study, group, model, source: (name, source), kind: &kind, control, seed, out };
                            for fold in draft.folds(trees) {
                                tasks.push(draft.task(&lines, fold, trees)?);
                            }
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// One combination of a group.
struct Draft<'a> {
    study: &'a Study,
    group: &'a Group,
    model: &'a ModelChoice,
    source: (&'a str, &'a Source),
    kind: &'a SplitKind,
    control: Control,
    seed: u64,
    out: &'a Path,
}

impl Draft<'_> {
    fn of(&self, trees: bool) -> u32 {
        self.group.of.unwrap_or(if trees || self.kind.leaky() { 10 } else { 5 })
    }
    /// Tested folds and their number; `None`: all of them in one run.
    fn folds(&self, trees: bool) -> Vec<(Option<u32>, u32)> {
        let whole = matches!(self.kind, SplitKind::CrossCell { .. }) || !self.group.test.is_empty() || self.by_parts();
        match &self.group.folds {
            _ if whole => vec![(Some(0), 1)],
            Folds::All if trees => vec![(None, self.of(true))],
            Folds::All => (0..self.of(trees)).map(|f| (Some(f), self.of(trees))).collect(),
            Folds::Some(list) => list.iter().map(|&f| (Some(f), self.of(trees))).collect(),
        }
    }
    /// Planted sets say by themselves which rows train.
    fn by_parts(&self) -> bool {
        self.source.1.planted.is_some() && matches!(self.kind, SplitKind::Column(_))
    }
    fn budget(&self) -> u64 {
        (self.group.samples as f64 * self.study.scale).round() as u64
    }
    fn task(&self, lines: &Lines, (fold, of): (Option<u32>, u32), trees: bool) -> Result<Task> {
        let (name, source) = self.source;
        let mut settings = self.settings(lines, fold, of);
        let data = data_path(self.study, name, source, self.out)?;
        let (job, trained_on) = if trees {
            if self.control != Control::None {
                return Err(Error::config("controls", "trees read no sequence: there is nothing to replace"));
            }
            if lines.scored != "all" && source.cell_lines.len() != 1 {
                let message =
                    format!("trees take a table whole: data.{name}.cell_lines must list `{}` alone", lines.scored);
                return Err(Error::config("cell_lines", message));
            }
            settings.push(format!("train.all_folds={}", fold.is_none()));
            let mut config = config::load_boosted(self.model.preset(), &settings)?;
            config.features.path.clone_from(&data);
            (Job::Trees(config.into()), source.cell_lines.clone())
        } else {
            let mut config = config::load(self.model.preset(), &settings)?;
            let trained = match (&lines.trained_on, lines.scored.as_str()) {
                (Some(from), scored) => {
                    config.data.cell_lines = from.iter().cloned().chain([scored.to_string()]).collect();
                    config.split.test = vec![scored.to_string()];
                    from.clone()
                }
                (None, "all") => source.cell_lines.clone(),
                (None, line) => {
                    config.data.cell_lines = vec![line.to_string()];
                    vec![line.to_string()]
                }
            };
            config.data.path.clone_from(&data);
            config.data.control = self.control;
            config.train.max_samples = match self.budget() {
                0 => 0,
                n => n.max(config.train.batch as u64),
            };
            config.train.device.clone_from(&self.study.device);
            config.validate()?;
            (Job::Network(config.into()), trained)
        };
        let place = match &lines.trained_on {
            None => format!("{}-{}", source.dataset, lines.scored),
            Some(from) if from.len() == 1 => format!("{}-{}-from-{}", source.dataset, lines.scored, from[0]),
            Some(_) => format!("{}-{}-from-others", source.dataset, lines.scored),
        };
        let run = fold.map_or(format!("allof{of}"), |fold| format!("fold{fold}of{of}"));
        let mut cell = Cell {
            group: self.group.name.clone(),
            model: self.model.label().into(),
            preset: self.model.preset().into(),
            dataset: source.dataset.clone(),
            cell_line: lines.scored.clone(),
            data,
            protocol: self.kind.to_string(),
            fold,
            folds: of,
            seed: self.seed,
            control: self.control,
            trained_on,
            budget_samples: match &job {
                Job::Network(config) => config.train.max_samples,
                Job::Trees(_) => 0,
            },
            folder: None,
            state: CellState::Pending,
            reason: None,
            samples_seen: 0,
            seconds: 0.0,
        };
        let parts = [cell.label(), place, cell.protocol.clone(), format!("{run}-seed{}", self.seed)];
        let parts = parts.map(|part| part.replace(|c: char| !(c.is_alphanumeric() || "._-+".contains(c)), "_"));
        cell.folder = Some(parts.iter().fold(PathBuf::from("runs"), |path, part| path.join(part)));
        Ok(Task { cell, source: name.to_string(), job })
    }
    /// What the group and the fold stand for, as `--set` takes it.
    fn settings(&self, lines: &Lines, fold: Option<u32>, of: u32) -> Vec<String> {
        let list = |names: &[String]| toml::Value::from(names.to_vec());
        let mut settings = vec![
            format!("split.test={}", list(&self.group.test)),
            format!("split.validation={}", list(&self.group.validation)),
            format!("split.kind={}", toml::Value::from(self.kind.to_string())),
            format!("train.seed={}", self.seed),
        ];
        if of > 1 && lines.trained_on.is_none() {
            settings.push(format!("split.folds={of}"));
            settings.extend(fold.map(|fold| format!("split.fold={fold}")));
        }
        settings.extend(self.group.set.iter().cloned());
        settings
    }
}

/// Where the data set or table of a source is, or will be once the study has made it; `None` for the bundled pairs.
pub(super) fn data_path(study: &Study, name: &str, source: &Source, out: &Path) -> Result<Option<PathBuf>> {
    let given = |path: &Option<PathBuf>| path.as_ref().map(|p| located(study, p));
    Ok(match source.kind(name)? {
        SourceKind::Bundled => None,
        SourceKind::File => given(&source.file),
        SourceKind::Features => given(&source.features),
        SourceKind::Genome | SourceKind::Planted => Some(out.join("data").join(format!("{name}.epi"))),
    })
}

/// A path of the study file, relative ones from the folder of the data.
pub(super) fn located(study: &Study, path: &Path) -> PathBuf {
    study.data_dir.as_ref().map_or_else(|| path.to_path_buf(), |dir| dir.join(path))
}
