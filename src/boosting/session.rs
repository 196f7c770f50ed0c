//! From a configuration to a finished run: folds in parallel, out-of-fold scores, importances, files.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rayon::prelude::*;
use serde_json::{Value, json};

use super::file::{self, About};
use super::{Columns, Ensemble, FeatureTable, Growth, fit};
use crate::config::{BoostedBalance, BoostedConfig};
use crate::data::dataset::write_atomically;
use crate::data::format::crc32;
use crate::data::split::{Split, SplitKind, SplitSpec, split};
use crate::data::{PairTable, Sample};
use crate::error::{Error, Result};
use crate::evaluate::{FoldScores, Options, Report, Scored, evaluate, predictions, write_predictions};

/// What a run tells while it goes on, from any of its threads.
pub trait Observer: Sync {
    /// One more tree was grown.
    fn tree(&self) {}
    /// The ensemble of a fold is written, after so many seconds.
    fn fold(&self, _fold: u32, _seconds: f64) {}
    /// Whether to stop now; finished folds stay.
    fn interrupted(&self) -> bool {
        false
    }
}

/// Says nothing and never stops.
pub struct Silent;
impl Observer for Silent {}

/// Which rows to score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Train,
    Test,
    All,
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub report: Report,
    /// Features and their shares, means over the ensembles, the largest first.
    pub importances: Vec<(String, f64)>,
    /// `metrics.json`.
    pub document: Value,
}

/// The splits of a run: every fold, or the one that is asked for. Nothing is chosen on validation: its rows train.
///
/// # Errors
/// As [`split`]; [`Error::Config`] for protocols that join elements of different rows, which have no features.
pub fn splits(config: &BoostedConfig, table: &PairTable) -> Result<Vec<Split>> {
    let spec = SplitSpec::from_config(&config.split, 0)?;
    if matches!(spec.kind, SplitKind::PaperText | SplitKind::PaperCode) {
        let message = format!("`{}` makes pairs that no table has measured; trees take the other splits", spec.kind);
        return Err(Error::config("split.kind", message));
    }
    let rows: Vec<u32> = (0..table.rows.len() as u32).collect();
    let one = |fold: u32| split(table, &rows, &SplitSpec { fold, ..spec.clone() }, None).and_then(|s| joined(table, s));
    if !config.train.all_folds {
        return Ok(vec![one(spec.fold)?]);
    }
    let first = one(0)?;
    let folds = first.folds;
    std::iter::once(Ok(first)).chain((1..folds).map(one)).collect()
}

/// Adds the validation part to the training part.
fn joined(table: &PairTable, mut split: Split) -> Result<Split> {
    split.train.append(&mut split.validation);
    split.train.sort_by_key(|s| s.row);
    let positives = |part: &[Sample]| part.iter().filter(|s| s.label == 1).count();
    let (rows, found) = (split.train.len(), positives(&split.train));
    if found == 0 || found == rows {
        let message = format!(
            "fold {} trains on {rows} pairs of one class; ask for fewer folds, another split, or add pairs",
            split.fold
        );
        return Err(Error::config("split", message));
    }
    let size = |part: &[Sample]| format!("{} pairs ({} positive)", part.len(), positives(part));
    let (leaky, train, test) = (if split.leaky { " (LEAKY)" } else { "" }, size(&split.train), size(&split.test));
    let mut held_out: Vec<u32> =
        split.test.iter().filter_map(|s| table.enhancers[s.enhancer as usize].contig).collect();
    held_out.sort_unstable();
    held_out.dedup();
    let names: Vec<&str> = held_out.iter().map(|&c| table.contigs[c as usize].as_str()).collect();
    let on = if split.kind == SplitKind::Chromosome { format!(" on {}", names.join(", ")) } else { String::new() };
    let Split { kind, fold, folds, .. } = &split;
    split.description = format!("{kind}{leaky}, fold {fold} of {folds}: train {train}, test {test}{on}");
    Ok(split)
}

/// The file of a fold's ensemble in a run folder.
pub fn model_path(folder: &Path, fold: u32) -> PathBuf {
    folder.join(format!("fold-{fold}.trees"))
}

/// Folds whose ensemble is not written yet.
pub fn missing<'a>(splits: &'a [Split], folder: &Path) -> Vec<&'a Split> {
    splits.iter().filter(|s| !model_path(folder, s.fold).exists()).collect()
}

fn about(config: &BoostedConfig, table: &FeatureTable, fingerprint: &str, split: &Split) -> About {
    let rows: Vec<u8> = split.train.iter().flat_map(|s| s.row.to_le_bytes()).collect();
    About {
        model: config.model.clone(),
        balance: config.train.balance,
        seed: config.train.seed,
        features: table.names.clone(),
        table: fingerprint.to_string(),
        split: split.kind.to_string(),
        fold: split.fold,
        folds: split.folds,
        rows: split.train.len(),
        positives: split.train.iter().filter(|s| s.label == 1).count(),
        rows_crc32: format!("{:08x}", crc32(&rows)),
    }
}

/// Grows the ensembles that `folder` does not hold yet, one fold a thread, then scores every fold's test part and writes
/// `predictions.tsv`, `importances.tsv` and `metrics.json`.
///
/// # Errors
/// [`Error::Interrupted`] when the observer says so; [`Error::Input`] when an ensemble of the folder was grown from
/// something else.
pub fn train(
    config: &BoostedConfig,
    table: &FeatureTable,
    splits: &[Split],
    folder: &Path,
    observer: &dyn Observer,
) -> Result<Outcome> {
    let started = Instant::now();
    let (labels, fingerprint) = (table.labels(), table.fingerprint());
    // What is there already must belong to this run, before hours go into the rest.
    open(config, table, splits.iter().filter(|s| model_path(folder, s.fold).exists()), folder)?;
    let growth = Growth {
        trees: config.model.trees,
        learning_rate: config.model.learning_rate,
        depth: config.model.depth,
        tried: config.model.features_tried.of(table.names.len()),
        balanced: config.train.balance == BoostedBalance::Weights,
        seed: config.train.seed,
    };
    missing(splits, folder).into_par_iter().with_max_len(1).try_for_each(|split| -> Result<()> {
        let started = Instant::now();
        let rows: Vec<u32> = split.train.iter().map(|s| s.row).collect();
        let tick = || {
            observer.tree();
            !observer.interrupted()
        };
        let ensemble = fit(&table.columns, &labels, &rows, &growth, tick).ok_or_else(|| {
            let message = "finished folds are kept; --resume goes on with the others";
            Error::Interrupted(format!("{}: {message}", folder.display()))
        })?;
        file::write(&model_path(folder, split.fold), &about(config, table, &fingerprint, split), &ensemble)?;
        observer.fold(split.fold, started.elapsed().as_secs_f64());
        Ok(())
    })?;
    let ensembles = open(config, table, splits.iter(), folder)?;
    let seconds = started.elapsed().as_secs_f64();
    let (report, lines) = scored(table, splits, &ensembles, Part::Test, |scored, options| {
        Ok((evaluate(&table.pairs.table, scored, options)?, predictions(&table.pairs.table, scored, options)?))
    })?;
    write_predictions(&folder.join("predictions.tsv"), &lines)?;
    let importances = importances(&table.names, &ensembles);
    write_text(&folder.join("importances.tsv"), &importance_table(&importances, splits, &ensembles, table))?;
    let mut document = report.to_json();
    let map = document.as_object_mut().expect("a report is an object");
    map.insert("verdict".into(), json!(verdict(&report)));
    let shares: serde_json::Map<String, Value> =
        importances.iter().map(|(n, share)| (n.clone(), json!(share))).collect();
    map.insert("importances".into(), shares.into());
    let pairs = &table.pairs.table;
    map.insert("data".into(), json!({ "cell_lines": pairs.cell_line_counts(0..pairs.rows.len() as u32) }));
    map.insert("training".into(), json!({ "trees": config.model.trees, "folds": splits.len(), "seconds": seconds }));
    let text = serde_json::to_string_pretty(&document).expect("results are JSON types");
    write_text(&folder.join("metrics.json"), &(text + "\n"))?;
    Ok(Outcome { report, importances, document })
}

/// Scores a part of every fold with the ensembles of a run.
pub fn evaluate_part(
    config: &BoostedConfig,
    table: &FeatureTable,
    splits: &[Split],
    folder: &Path,
    part: Part,
) -> Result<Report> {
    let ensembles = open(config, table, splits.iter(), folder)?;
    scored(table, splits, &ensembles, part, |scored, options| evaluate(&table.pairs.table, scored, options))
}

/// Every ensemble of a run, and what it was grown from.
///
/// # Errors
/// [`Error::Input`] when there is none, or when a fold of a run over all folds is missing.
pub fn ensembles(config: &BoostedConfig, folder: &Path) -> Result<Vec<(About, Ensemble)>> {
    let unfinished = || {
        let message = "not all of its ensembles are grown: continue the run with `epi-engine train --resume`";
        Error::input(folder, None, message)
    };
    if !config.train.all_folds {
        let path = model_path(folder, config.split.fold);
        let path = if config.split.test.is_empty() { path } else { model_path(folder, 0) };
        return if path.exists() { Ok(vec![file::read(&path)?]) } else { Err(unfinished()) };
    }
    let mut all: Vec<(About, Ensemble)> = Vec::new();
    while all.is_empty() || (all.len() as u32) < all[0].0.folds {
        let path = model_path(folder, all.len() as u32);
        if !path.exists() {
            return Err(unfinished());
        }
        all.push(file::read(&path)?);
    }
    Ok(all)
}

/// Mean probability of every row of a table over ensembles.
pub fn predict<'a>(columns: &Columns, ensembles: impl Iterator<Item = &'a Ensemble> + Clone + Sync) -> Vec<f32> {
    let n = ensembles.clone().count().max(1) as f64;
    let one = |row: usize| {
        let sum: f64 = ensembles.clone().map(|e| e.probability(|feature| columns.value(feature, row))).sum();
        (sum / n) as f32
    };
    (0..columns.rows()).map(one).collect()
}

/// The ensembles of these splits, each compared with what the run would grow.
fn open<'a>(
    config: &BoostedConfig,
    table: &FeatureTable,
    splits: impl Iterator<Item = &'a Split>,
    folder: &Path,
) -> Result<Vec<Ensemble>> {
    let fingerprint = table.fingerprint();
    let one = |split: &Split| {
        let path = model_path(folder, split.fold);
        if !path.exists() {
            let message = "not all of its ensembles are grown: continue the run with `epi-engine train --resume`";
            return Err(Error::input(folder, None, message));
        }
        let (found, ensemble) = file::read(&path)?;
        if found == about(config, table, &fingerprint, split) {
            return Ok(ensemble);
        }
        let why = if found.table == fingerprint { "with other settings" } else { "from another table" };
        let message =
            format!("was grown {why} than this run's: put the old one back, or start a new run with another --out");
        Err(Error::input(path, None, message))
    };
    splits.map(one).collect()
}

/// Scores `part` of each split with its ensemble and hands all of it to `then`.
fn scored<T>(
    table: &FeatureTable,
    splits: &[Split],
    ensembles: &[Ensemble],
    part: Part,
    then: impl FnOnce(&[FoldScores], &Options) -> Result<T>,
) -> Result<T> {
    let samples: Vec<Vec<Sample>> = splits
        .iter()
        .map(|s| match part {
            Part::Train => s.train.clone(),
            Part::Test => s.test.clone(),
            Part::All => {
                let mut all = [&s.train[..], &s.test].concat();
                all.sort_by_key(|s| s.row);
                all
            }
        })
        .collect();
    let probability = |ensemble: &Ensemble, sample: &Sample| {
        ensemble.probability(|feature| table.columns.value(feature, sample.row as usize)) as f32
    };
    let scores: Vec<Vec<f32>> = samples
        .iter()
        .zip(ensembles)
        .map(|(samples, ensemble)| samples.par_iter().map(|s| probability(ensemble, s)).collect())
        .collect();
    let folds: Vec<FoldScores> = splits
        .iter()
        .zip(samples.iter().zip(&scores))
        .map(|(split, (samples, scores))| FoldScores {
            split,
            part: Scored { samples, scores },
            validation: Scored::NONE,
        })
        .collect();
    then(&folds, &Options::default())
}

fn importances(names: &[String], ensembles: &[Ensemble]) -> Vec<(String, f64)> {
    let mean = |f: usize| ensembles.iter().map(|e| e.importances[f]).sum::<f64>() / ensembles.len().max(1) as f64;
    let mut all: Vec<(String, f64)> = names.iter().cloned().enumerate().map(|(f, name)| (name, mean(f))).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all
}

/// `importances.tsv`: the mean share of each feature, its share in every fold, the protocol.
fn importance_table(
    sorted: &[(String, f64)],
    splits: &[Split],
    ensembles: &[Ensemble],
    table: &FeatureTable,
) -> String {
    let mut text = String::from("feature\timportance");
    splits.iter().for_each(|s| text.push_str(&format!("\tfold{}", s.fold)));
    text.push_str("\tsplit\n");
    for (name, mean) in sorted {
        let feature = table.names.iter().position(|n| n == name).expect("a feature of the table");
        let _ = write!(text, "{name}\t{mean:.6}");
        ensembles.iter().for_each(|e| text.push_str(&format!("\t{:.6}", e.importances[feature])));
        let _ = writeln!(text, "\t{}{}", splits[0].kind, if splits[0].leaky { ":LEAKY" } else { "" });
    }
    text
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    write_atomically(path, |out| std::io::Write::write_all(out, text.as_bytes()))
}

/// What the scores mean, in words.
pub fn verdict(report: &Report) -> String {
    let known = |score: Option<f64>| score.map_or("undefined".to_string(), |s| format!("{s:.3}"));
    let scores = &report.scores.scores;
    let (aupr, base) = (known(scores.aupr), known(scores.base_rate));
    if report.leaky {
        let lookup = known(report.lookup.scores.aupr);
        return format!(
            "LEAKY: training has seen the elements of these pairs, so AUPR {aupr} measures memory of loci; a lookup of \
             element names, which reads no feature, has {lookup}. `--split chromosome` scores loci that are new"
        );
    }
    let (_, auroc) = report.scores.get("auroc");
    let (_, interval) = report.scores.get("aupr");
    let beside = format!("AUPR {aupr} beside a base rate of {base}, AUROC {}", known(scores.auroc));
    match (auroc, interval, scores.base_rate) {
        (Some(auroc), Some(aupr), Some(base)) if auroc.low > 0.5 && aupr.low > base => {
            format!("better than chance: {beside}; both 95 % intervals lie above what guessing gives")
        }
        (Some(_), Some(_), Some(_)) => format!(
            "at chance: {beside}, with 95 % intervals that reach what guessing gives. These features do not tell which \
             pairs of unseen loci interact"
        ),
        _ => format!("undecided: {beside}, but too few loci for an interval"),
    }
}
