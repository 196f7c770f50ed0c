//! The cells of a study put together: folds and seeds of one model on one cell line under one protocol.

use std::path::Path;

use super::files::{Calibration, Counts, Logged, Mapped, Metrics, RunConfig, RunFiles, Stratum};
use super::format::model_name;
use super::marks::Estimate;
use super::pooled::{OfSeed, Pooled, pool};
use crate::study::{Cell, CellState, Index};

/// One run of a series, without its predictions.
#[derive(Clone, Debug)]
pub struct Run {
    /// Position in the index.
    pub cell: usize,
    pub history: Vec<Logged>,
    pub per_chromosome: Vec<Stratum>,
    pub per_distance: Vec<Stratum>,
    pub calibration: Calibration,
    pub n: usize,
}

/// What the finished runs of a series scored.
#[derive(Clone, Debug)]
pub struct Scored {
    pub pooled: Pooled,
    /// AUPR and AUROC of the lookup and of the distance on the same rows: of the one run, or means weighted by rows.
    pub lookup: [Estimate; 2],
    pub distance: [Estimate; 2],
    /// Macro F1 per batch as the released program prints it, mean over runs; under `paper-code`.
    pub released: Option<f64>,
    /// Labels and scores of the first seed.
    pub pairs: Vec<(u8, f32)>,
    pub runs: Vec<Run>,
    pub leaky: bool,
    pub config: RunConfig,
    pub cell_lines: Vec<(String, Counts)>,
    pub latent: Option<Vec<Mapped>>,
}

/// A model on a cell line under a protocol.
#[derive(Clone, Debug)]
pub struct Series {
    /// What tables call it: the model with its control.
    pub label: String,
    pub model: String,
    pub control: bool,
    pub dataset: String,
    pub cell_line: String,
    pub protocol: String,
    pub trained_on: Vec<String>,
    /// Positions in the index.
    pub cells: Vec<usize>,
    pub done: usize,
    /// Why it has no score, or which part of it has.
    pub note: String,
    pub scored: Option<Scored>,
}

impl Series {
    /// Whether other lines train than the one that is scored.
    pub fn crosses(&self) -> bool {
        self.cell_line != "all" && !self.trained_on.is_empty() && self.trained_on != [self.cell_line.clone()]
    }
    /// A score with its interval.
    pub fn score(&self, name: &str) -> Estimate {
        self.scored.as_ref().map_or((None, None), |s| s.pooled.score(name))
    }
    /// Whether the protocol leaks.
    pub fn leaky(&self) -> bool {
        self.scored.as_ref().is_some_and(|s| s.leaky)
            || ["random", "paper-text", "paper-code"].contains(&&*self.protocol)
    }
    /// The protocol, if it leaks.
    pub fn stamp(&self) -> Option<&str> {
        self.leaky().then_some(self.protocol.as_str())
    }
}

/// The model with its control, for people.
pub fn label(cell: &Cell) -> String {
    let model = model_name(&cell.model);
    match cell.control.name() {
        "none" => model,
        "random-dna" => format!("{model} on random DNA"),
        other => format!("{model}, {}", other.replace('-', " ")),
    }
}

/// The series of a study in the order of its index, and what is wrong with folders of finished cells.
pub fn read(folder: &Path, index: &Index) -> (Vec<Series>, Vec<String>) {
    let key = |c: &Cell| {
        let of = [&c.group, &c.model, &c.dataset, &c.cell_line, &c.protocol].map(String::clone);
        (of, c.control.name(), c.trained_on.clone())
    };
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (i, cell) in index.cells.iter().enumerate() {
        match groups.iter_mut().find(|g| key(&index.cells[g[0]]) == key(cell)) {
            Some(group) => group.push(i),
            None => groups.push(vec![i]),
        }
    }
    let mut warnings = Vec::new();
    let mut all: Vec<Series> = groups.into_iter().map(|cells| series(folder, index, cells, &mut warnings)).collect();
    // Groups of the study file that ask for the same thing are told apart by their names.
    let same = |a: &Series, b: &Series| {
        let key = |s: &Series| (s.label.clone(), s.dataset.clone(), s.cell_line.clone(), s.protocol.clone());
        key(a) == key(b) && a.trained_on == b.trained_on
    };
    let twice: Vec<bool> = all.iter().map(|a| all.iter().filter(|b| same(a, b)).count() > 1).collect();
    for (series, _) in all.iter_mut().zip(twice).filter(|(_, twice)| *twice) {
        series.label = format!("{} ({})", series.label, index.cells[series.cells[0]].group);
    }
    (all, warnings)
}

fn series(folder: &Path, index: &Index, cells: Vec<usize>, warnings: &mut Vec<String>) -> Series {
    let first = &index.cells[cells[0]];
    let mut runs: Vec<(usize, RunFiles)> = Vec::new();
    let mut damaged = None;
    for &i in cells.iter().filter(|&&i| index.cells[i].state == CellState::Done) {
        let cell = &index.cells[i];
        let path = folder.join(cell.folder.as_deref().unwrap_or(Path::new("")));
        match RunFiles::read(&path) {
            Ok(run) if run.metrics.is_some() && run.predictions.is_some() => runs.push((i, run)),
            Ok(_) => {
                let message =
                    format!("{}: metrics.json or predictions.tsv is missing; `study` writes it anew", path.display());
                warnings.push(format!("{}: {message}", cell.title()));
                damaged = Some("files missing".to_string());
            }
            Err(error) => {
                warnings.push(format!("{}: {error}", cell.title()));
                damaged = Some("files damaged".to_string());
            }
        }
    }
    let done = runs.len();
    let note = match (done, damaged) {
        (n, _) if n == cells.len() => String::new(),
        (0, Some(damaged)) => damaged,
        (0, None) => state(index, &cells),
        (n, _) => format!("{n} of {} runs", cells.len()),
    };
    Series {
        label: label(first),
        model: first.model.clone(),
        control: first.control.name() != "none",
        dataset: first.dataset.clone(),
        cell_line: first.cell_line.clone(),
        protocol: first.protocol.clone(),
        trained_on: first.trained_on.clone(),
        scored: scored(index, runs),
        done,
        note,
        cells,
    }
}

/// The state of cells of which none is done: the one that tells most.
fn state(index: &Index, cells: &[usize]) -> String {
    use CellState::{Failed, Interrupted, NoData, Pending, Running};
    let has = |state: CellState| cells.iter().any(|&i| index.cells[i].state == state);
    let found = [NoData, Failed, Running, Interrupted, Pending].into_iter().find(|&s| has(s));
    found.unwrap_or(Pending).name().to_string()
}

fn scored(index: &Index, mut runs: Vec<(usize, RunFiles)>) -> Option<Scored> {
    let mut seeds: Vec<u64> = runs.iter().map(|(i, _)| index.cells[*i].seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    let of_seed = |seed: &u64| -> OfSeed {
        let runs = runs.iter().enumerate().filter(|(_, (i, _))| index.cells[*i].seed == *seed);
        runs.flat_map(|(at, (_, run))| run.predictions.iter().flatten().map(move |p| (at, p))).collect()
    };
    let by_seed: Vec<OfSeed> = seeds.iter().map(of_seed).collect();
    let mut pooled = pool(&by_seed, runs.len() > 1)?;
    let pairs = by_seed[0].iter().map(|(_, p)| (p.label, p.score)).collect();
    drop(by_seed);
    let metrics: Vec<&Metrics> = runs.iter().filter_map(|(_, run)| run.metrics.as_ref()).collect();
    // What the run itself says stands; several runs are pooled here.
    if let [one] = metrics.as_slice() {
        pooled.take(|name| one.score(name));
    }
    let weighted = |of: &dyn Fn(&Metrics) -> Estimate| -> Estimate {
        if let [one] = metrics.as_slice() {
            return of(one);
        }
        let known: Vec<(f64, f64)> = metrics.iter().filter_map(|m| Some((m.n as f64, of(m).0?))).collect();
        let n: f64 = known.iter().map(|k| k.0).sum();
        ((n > 0.0).then(|| known.iter().map(|(w, v)| w * v).sum::<f64>() / n), None)
    };
    let both = |of: &dyn Fn(&Metrics, &str) -> Estimate| ["aupr", "auroc"].map(|name| weighted(&|m| of(m, name)));
    let released = weighted(&|m| (m.macro_f1_per_batch.and_then(|p| p.value), None)).0;
    let (lookup, distance) = (both(&|m, name| m.lookup(name)), both(&|m, name| m.distance(name)));
    let mut cell_lines: Vec<(String, Counts)> = metrics.iter().map(|m| m.cell_lines()).next().unwrap_or_default();
    cell_lines.dedup_by(|a, b| a.0 == b.0);
    let leaky = metrics.iter().any(|m| m.leaky);
    let latent = runs.iter().find_map(|(_, run)| run.latent_map().map(<[Mapped]>::to_vec));
    let config = runs[0].1.config.clone();
    let kept = |(cell, run): (usize, RunFiles)| {
        let m = run.metrics?;
        let Metrics { per_chromosome, per_distance, calibration, n, .. } = m;
        Some(Run { cell, history: run.history, per_chromosome, per_distance, calibration, n })
    };
    let runs = runs.drain(..).filter_map(kept).collect();
    Some(Scored { pooled, lookup, distance, released, pairs, runs, leaky, config, cell_lines, latent })
}
