//! The commands of boosted trees: what `train`, `evaluate`, `predict` and `summary` do with `target-finder`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::Output;
use super::summary::thousands;
use super::train::{fold_settings, free_folder, print_report};
use super::watch::{Watch, catch_interrupts, interrupted};
use super::{
    evaluate as evaluate_command, predict as predict_command, summary as summary_command, train as train_command,
};
use crate::boosting::{FeatureTable, Observer, session};
use crate::config::{self, BoostedConfig};
use crate::data::split::Split;
use crate::error::{Error, Result};
use crate::train::{Part, RunFolder};

/// Features listed after training.
const LISTED: usize = 10;

/// Whether a run folder, or else a preset, is one of trees.
pub fn is_run(folder: Option<&Path>, preset: &str) -> Result<bool> {
    match folder {
        Some(path) => config::is_boosted(&RunFolder::open(path)?.file("config.toml").to_string_lossy()),
        None => config::is_boosted(preset),
    }
}

fn run_config(folder: &RunFolder) -> Result<BoostedConfig> {
    config::load_boosted(&folder.file("config.toml").to_string_lossy(), &[])
}

/// `epi-engine train --preset target-finder`, or `--resume` of such a run.
pub fn train(args: &train_command::Args, out: &Output) -> anyhow::Result<ExitCode> {
    let (config, folder) = match &args.resume {
        Some(path) => {
            let folder = RunFolder::open(path)?;
            (run_config(&folder)?, Some(folder))
        }
        None => (config::load_boosted(&args.preset, &settings(args)?)?, None),
    };
    if args.print_config {
        out.line(config.to_toml().trim_end());
        out.document(&config);
        return Ok(ExitCode::SUCCESS);
    }
    on_the_cpu(args.device.as_deref())?;
    if args.at_once != 1 {
        return Err(Error::config("--at-once", "folds of trees already grow at the same time, one a thread").into());
    }
    let table = FeatureTable::read(&config.features)?;
    let splits = session::splits(&config, &table.pairs.table)?;
    // Checked before anything is written.
    let folder = match folder {
        Some(folder) => folder,
        None => {
            let folder = RunFolder::create(&args.out.clone().unwrap_or_else(|| free_folder(&args.preset)))?;
            folder.write("config.toml", config.to_toml().as_bytes())?;
            folder
        }
    };
    let _lock = folder.lock()?;
    let watch = Watch::new(out, Some(&folder));
    introduce(&config, &table, &splits, &watch)?;
    watch.log(&format!("writes to  {}", folder.path().display()))?;
    catch_interrupts();
    let missing = session::missing(&splits, folder.path()).len();
    if missing < splits.len() {
        watch.log(&format!("resumes    {} of {} folds are finished", splits.len() - missing, splits.len()))?;
    }
    let started = Instant::now();
    let progress = Progress::new(out, &watch, missing, config.model.trees);
    let outcome = session::train(&config, &table, &splits, folder.path(), &progress);
    progress.bar.finish_and_clear();
    let outcome = outcome?;
    watch.log(&format!(
        "trained    {missing} x {} trees in {:.1} s",
        config.model.trees,
        started.elapsed().as_secs_f64()
    ))?;
    out.line(outcome.report.table("TARGETFINDER").trim_end());
    out.line(session::verdict(&outcome.report));
    out.line(format!(
        "most important features (share of the error that their splits took away; all in {})",
        folder.file("importances.tsv").display()
    ));
    for (name, share) in outcome.importances.iter().take(LISTED) {
        out.line(format!("  {name:<32}{:>6.1} %", 100.0 * share));
    }
    out.document(&outcome.document);
    Ok(ExitCode::SUCCESS)
}

/// The first lines of a run.
fn introduce(config: &BoostedConfig, table: &FeatureTable, splits: &[Split], watch: &Watch) -> Result<()> {
    let (model, features) = (&config.model, table.names.len());
    let path = config.features.path.as_deref().unwrap_or(Path::new("")).display();
    watch.log(&format!("device     cpu, {} threads, a fold on each", rayon::current_num_threads()))?;
    watch.log(&format!(
        "data       {path}: {} pairs, {} positive, {features} features",
        table.pairs.table.rows.len(),
        table.pairs.table.positives()
    ))?;
    watch.log(&format!(
        "model      {} trees of depth {}, learning rate {}, {} of {features} features tried a split",
        model.trees,
        model.depth,
        model.learning_rate,
        model.features_tried.of(features)
    ))?;
    for note in table.pairs.notes.iter() {
        watch.log(&format!("warning    {note}"))?;
    }
    let mut said: Vec<&String> = Vec::new();
    for split in splits {
        watch.log(&format!("split      {}", split.description))?;
        // One warning about the shares of a leak stands for those of all folds.
        let own = split
            .warnings
            .iter()
            .filter(|w| !w.contains("leak") && !w.contains("LEAKY") || split.fold == splits[0].fold);
        said.extend(own.filter(|w| !said.contains(w)).collect::<Vec<_>>());
    }
    said.iter().try_for_each(|warning| watch.log(&format!("warning    {warning}")))
}

/// A bar over the trees of all folds; a line for every fold that is finished.
struct Progress<'a> {
    out: &'a Output,
    watch: &'a Watch<'a>,
    bar: ProgressBar,
    folds: usize,
    finished: AtomicU32,
    started: Instant,
}

impl<'a> Progress<'a> {
    fn new(out: &'a Output, watch: &'a Watch<'a>, folds: usize, trees: usize) -> Self {
        let bar = out.progress((folds * trees) as u64, "trees");
        bar.set_message(format!("{folds} folds"));
        bar.enable_steady_tick(Duration::from_millis(500));
        Progress { out, watch, bar, folds, finished: AtomicU32::new(0), started: Instant::now() }
    }
}

impl Observer for Progress<'_> {
    fn tree(&self) {
        self.bar.inc(1);
    }
    fn fold(&self, fold: u32, seconds: f64) {
        let finished = self.finished.fetch_add(1, Ordering::SeqCst) + 1;
        let left =
            self.started.elapsed().as_secs_f64() / f64::from(finished) * (self.folds as f64 - f64::from(finished));
        let line =
            format!("fold {fold:<5} {seconds:.1} s; {finished} of {} finished, about {left:.0} s left", self.folds);
        // A log on a full disk must not end a training that can still go on.
        if let Err(error) = self.bar.suspend(|| self.watch.log(&line)) {
            self.out.warn(error.to_string());
        }
    }
    fn interrupted(&self) -> bool {
        interrupted()
    }
}

/// The `--set` list that the named options stand for, before the explicit ones.
fn settings(args: &train_command::Args) -> Result<Vec<String>> {
    if args.data.is_some() {
        let message = "trees read a table of measurements (--features), not sequences";
        return Err(Error::config("--data", message));
    }
    if args.precision.is_some() {
        return Err(Error::config("--precision", "trees are grown in f64; leave it out"));
    }
    let mut settings = Vec::new();
    let mut set = |key: &str, value: &str| settings.push(format!("{key}={}", toml::Value::from(value)));
    if let Some(features) = &args.features {
        set("features.path", &features.to_string_lossy());
    }
    if let Some(split) = &args.split {
        set("split.kind", split);
    }
    match args.fold.as_deref() {
        Some("all") => settings.push("train.all_folds=true".into()),
        Some(fold) => {
            settings.extend(fold_settings(fold)?);
            settings.push("train.all_folds=false".into());
        }
        None => {}
    }
    settings.extend(args.settings.iter().cloned());
    Ok(settings)
}

/// Error for a device that grows no trees.
fn on_the_cpu(device: Option<&str>) -> Result<()> {
    match device {
        None | Some("auto" | "cpu") => Ok(()),
        Some(other) => Err(Error::config("--device", format!("`{other}`: trees are grown on the CPU"))),
    }
}

/// `epi-engine evaluate RUN`.
pub fn evaluate(args: &evaluate_command::Args, out: &Output) -> anyhow::Result<ExitCode> {
    on_the_cpu(Some(&args.device))?;
    if args.data.is_some() {
        let message =
            "a run of trees is evaluated on its own table; score another one with `predict RUN --pairs TABLE`";
        return Err(Error::config("--data", message).into());
    }
    let part = match args.part {
        Part::Train => session::Part::Train,
        Part::Test => session::Part::Test,
        Part::All => session::Part::All,
        Part::Validation => {
            let message = "trees choose nothing on validation: its rows train. Use test, train or all";
            return Err(Error::config("--part", message).into());
        }
    };
    let folder = RunFolder::open(&args.run)?;
    let config = run_config(&folder)?;
    let table = FeatureTable::read(&config.features)?;
    let splits = session::splits(&config, &table.pairs.table)?;
    introduce(&config, &table, &splits, &Watch::new(out, None))?;
    let report = session::evaluate_part(&config, &table, &splits, folder.path(), part)?;
    print_report(&report, "TargetFinder", out);
    if part == session::Part::Test {
        out.line(session::verdict(&report));
    } else {
        out.line("These rows were trained on, in whole or in part: their scores are no measure of the model");
    }
    Ok(ExitCode::SUCCESS)
}

/// `epi-engine predict RUN --pairs TABLE`: the mean over the run's ensembles.
pub fn predict(args: &predict_command::Args, out: &Output) -> anyhow::Result<ExitCode> {
    on_the_cpu(Some(&args.device))?;
    if args.genome.is_some() {
        let message = "trees read measurements, not sequence: --pairs is a table with the features of the run";
        return Err(Error::config("--genome", message).into());
    }
    let folder = RunFolder::open(&args.run)?;
    let ensembles = session::ensembles(&run_config(&folder)?, folder.path())?;
    let table = FeatureTable::read_named(&args.pairs, &ensembles[0].0.features)?;
    table.pairs.notes.iter().for_each(|note| out.warn(note.to_string()));
    if ensembles.len() > 1 {
        out.note(format!(
            "scores are means over {} ensembles; rows that any of them was trained on look better than they are",
            ensembles.len()
        ));
    }
    let scores = session::predict(&table.columns, ensembles.iter().map(|(_, ensemble)| ensemble));
    predict_command::write_scores(&table.pairs.table, &scores, args.out.as_deref(), &table.pairs.notes, out)?;
    Ok(ExitCode::SUCCESS)
}

/// `epi-engine summary target-finder`, or of a run.
pub fn summary(args: &summary_command::Args, out: &Output) -> anyhow::Result<ExitCode> {
    let path = Path::new(&args.model);
    let folder = path.is_dir().then(|| RunFolder::open(path)).transpose()?;
    let source = folder.as_ref().map_or(args.model.clone(), |f| f.file("config.toml").to_string_lossy().to_string());
    let config = config::load_boosted(&source, &args.settings)?;
    let model = &config.model;
    out.line("target-finder: gradient-boosted trees on genomic features, binary log loss, Newton leaves");
    let mut document = json!({ "model": "target-finder", "config": config });
    let row = |name: &str, value: String| out.line(format!("  {name:<34}{value:>14}"));
    row("trees of an ensemble", thousands(model.trees));
    row("splits between root and leaf", model.depth.to_string());
    row("learning rate", model.learning_rate.to_string());
    row("features tried a split", toml::Value::from(model.features_tried).to_string().trim_matches('"').to_string());
    let Some(folder) = folder else {
        row("leaves of an ensemble, at most", thousands(model.trees << model.depth));
        out.document(&document);
        return Ok(ExitCode::SUCCESS);
    };
    let ensembles = session::ensembles(&config, folder.path())?;
    let (about, _) = &ensembles[0];
    let nodes: usize = ensembles.iter().flat_map(|(_, e)| &e.trees).map(|t| t.nodes.len()).sum();
    let leaves: usize = ensembles.iter().flat_map(|(_, e)| &e.trees).map(|t| t.nodes.len().div_ceil(2)).sum();
    row("features", about.features.len().to_string());
    row("ensembles", ensembles.len().to_string());
    row("splits, all ensembles", thousands(nodes - leaves));
    row("leaves, all ensembles", thousands(leaves));
    let found =
        json!({ "features": about.features, "ensembles": ensembles.len(), "splits": nodes - leaves, "leaves": leaves });
    if let (Value::Object(map), Value::Object(more)) = (&mut document, found) {
        map.extend(more);
    }
    out.document(&document);
    Ok(ExitCode::SUCCESS)
}
