use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use indicatif::MultiProgress;
use serde_json::json;

use super::watch::{Watch, catch_interrupts};
use super::{Output, output, trees};
use crate::backend::{Device, device};
use crate::config::{self, Config};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::evaluate::Report;
use crate::on_device;
use crate::train::{self, Fold, Outcome, RunFolder, session};

/// Train a model and score the test part
#[derive(clap::Args)]
#[command(after_help = "Examples:
  epi-engine train                                   the demonstration: EPSAT on bundled real pairs
  epi-engine train --preset epsat --data my.epi --split chromosome --fold 0/5 --out runs/fold0
  epi-engine train --preset speid --data my.epi --fold all --at-once 2
  epi-engine train --set train.lr=0.0005 --set data.balance=oversample
  epi-engine train --preset target-finder --features training.csv.gz
  epi-engine train --resume runs/fold0               go on where it stopped, bit for bit")]
pub struct Args {
    /// Preset by name, or a TOML file
    #[arg(long, value_name = "NAME|FILE.toml", default_value = "demo")]
    pub(super) preset: String,
    /// Data set made by `epi-engine prepare` (default: the bundled real pairs)
    #[arg(long, value_name = "X.epi")]
    pub(super) data: Option<PathBuf>,
    /// Table of genomic features for `target-finder`: TargetFinder's training.csv.gz, or a table in its form
    #[arg(long, value_name = "FILE.csv.gz")]
    pub(super) features: Option<PathBuf>,
    /// Evaluation protocol: chromosome, column:NAME, component, cross-cell, promoter, enhancer, random, paper-text, paper-code
    #[arg(long, value_name = "KIND")]
    pub(super) split: Option<String>,
    /// Fold I of K is tested, the next one validates; `all` trains K models and pools their test scores
    #[arg(long, value_name = "I/K|all")]
    pub(super) fold: Option<String>,
    /// With all folds: how many train at the same time; results are those of one after the other, except in bf16 on a card, where any
    /// number above 1 has the same
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) at_once: usize,
    /// auto, cpu, cuda[:N], emulator or reference
    #[arg(long)]
    pub(super) device: Option<String>,
    /// f32 or bf16
    #[arg(long)]
    pub(super) precision: Option<String>,
    /// Run folder (default: runs/PRESET-N with the first free N)
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Override a configuration value, e.g. --set train.lr=0.0005
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(super) settings: Vec<String>,
    /// Print the resolved configuration as TOML and stop
    #[arg(long)]
    pub(super) print_config: bool,
    /// Go on with the run in DIR
    #[arg(long, value_name = "DIR", conflicts_with_all = ["preset", "data", "features", "split", "fold", "out", "settings", "precision"])]
    pub(super) resume: Option<PathBuf>,
}

/// `--fold all` is remembered in the run folder's name space: one folder a fold.
const FOLD: &str = "fold-";

pub fn run(args: &Args, out: &Output) -> anyhow::Result<ExitCode> {
    if trees::is_run(args.resume.as_deref(), &args.preset)? {
        return trees::train(args, out);
    }
    if args.features.is_some() {
        let message = "only `--preset target-finder` learns from measurements; networks read DNA (--data)";
        return Err(Error::config("--features", message).into());
    }
    let (mut config, folder) = match &args.resume {
        Some(dir) => {
            let folder = RunFolder::open(dir)?;
            (config::load(&folder.file("config.toml").to_string_lossy(), &[])?, Some(folder))
        }
        None => (config::load(&args.preset, &settings(args)?)?, None),
    };
    if let (Some(device), Some(_)) = (&args.device, &args.resume) {
        config.train.device.clone_from(device);
    }
    if args.print_config {
        out.line(config.to_toml().trim_end());
        out.document(&config);
        return Ok(ExitCode::SUCCESS);
    }
    let dataset = session::open_dataset(&config)?;
    // The folder then tells how long windows must be for this model, whatever becomes of the data set.
    (config.data.enhancer_length, config.data.promoter_length) = (dataset.enhancer_length(), dataset.promoter_length());
    let resume = folder.is_some();
    let all = match &folder {
        Some(folder) => folder.file(&format!("{FOLD}0")).is_dir(),
        None => args.fold.as_deref() == Some("all"),
    };
    let first = session::make_split(&config, &dataset)?;
    let at_once = models_at_once(args.at_once, all, first.folds)?;
    let need = at_once * session::memory_estimate(&config, &dataset);
    let (device, why) = Device::open(config.train.device.parse()?, device::precision(&config.train.precision)?, need)?;
    // Checked before anything is written.
    session::check(&config, &dataset)?;
    let folder = match folder {
        Some(folder) => folder,
        None => {
            let path = args.out.clone().unwrap_or_else(|| free_folder(&args.preset));
            let folder = RunFolder::create(&path)?;
            if all {
                // By its first fold --resume tells that all are wanted, however early this run ends.
                std::fs::create_dir_all(folder.file(&format!("{FOLD}0"))).map_err(Error::io(&path))?;
            }
            folder.write("config.toml", config.to_toml().as_bytes())?;
            folder
        }
    };
    let _lock = folder.lock()?;
    let watch = Watch::new(out, Some(&folder));
    let mib = need as f64 / f64::from(1 << 20);
    watch.log(&format!("device     {why}; precision {}", config.train.precision))?;
    watch.log(&format!(
        "data       {}: {} pairs, {} positive, {} + {} bp",
        name_of(&dataset),
        dataset.len(),
        dataset.table().positives(),
        dataset.enhancer_length(),
        dataset.promoter_length()
    ))?;
    watch.log(&format!("split      {}", first.description))?;
    for warning in &first.warnings {
        watch.log(&format!("warning    {warning}"))?;
    }
    watch.log(&format!("memory     about {mib:.0} MiB"))?;
    watch.log(&format!("writes to  {}", folder.path().display()))?;
    catch_interrupts();
    let report = if all {
        let (count, folder) = (first.folds, &folder);
        Folds { device: &device, config: &config, dataset: &dataset, count, at_once, folder, resume, out }
            .train(&watch)?
    } else {
        let inner = Watch::new(out, Some(&folder));
        let (fold, outcome) =
            on_device!(&device, backend => train_one(backend, &config, &dataset, &folder, resume, inner)?);
        let rate = outcome.samples as f64 / outcome.seconds.max(1e-9);
        watch.log(&format!("trained    {} steps in {:.1} s, {rate:.1} samples/s", outcome.steps, outcome.seconds))?;
        session::report(&config, &dataset, &[fold], &folder, outcome.to_json())?
    };
    print_report(&report, config.model.name(), out);
    if args.preset == "demo" && !resume {
        out.line(format!(
            "After {} steps this shows that everything works, not what EPSAT can do: a model that deserves its figures takes \
             `epi-engine train --preset epsat` (50 epochs). Distance, which needs no training, is what it has to beat.",
            config.train.max_steps
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// What `--at-once` comes to where `all` of `folds` are trained, or one.
fn models_at_once(asked: usize, all: bool, folds: u32) -> Result<usize> {
    match asked {
        0 => Err(Error::config("--at-once", "0: at least one model has to train")),
        2.. if !all => Err(Error::config(
            "--at-once",
            "one model is trained here: use it with --fold all, or with `epi-engine study`",
        )),
        n => Ok(n.min(folds as usize)),
    }
}

/// The table of a report, as every command shows it.
pub(super) fn print_report(report: &Report, model: &str, out: &Output) {
    out.line(report.table(&model.to_uppercase()).trim_end());
    out.document(&report.to_json());
}

fn train_one<B: crate::backend::Backend>(
    backend: &B,
    config: &Config,
    dataset: &Dataset,
    folder: &RunFolder,
    resume: bool,
    mut watch: Watch<'_>,
) -> Result<(Fold, Outcome)> {
    let split = session::make_split(config, dataset)?;
    let result = session::train_fold(backend, config, dataset, split, folder, resume, &mut watch);
    watch.finish();
    result
}

/// All folds of a run.
struct Folds<'a> {
    device: &'a Device,
    config: &'a Config,
    dataset: &'a Dataset,
    count: u32,
    /// How many train at the same time.
    at_once: usize,
    folder: &'a RunFolder,
    resume: bool,
    out: &'a Output,
}

impl Folds<'_> {
    /// Trains every fold, then scores them together. After a failure no other fold is begun; those that run end first.
    fn train(&self, watch: &Watch<'_>) -> Result<Report> {
        let started = Instant::now();
        let (bars, failed) = (MultiProgress::with_draw_target(output::target()), AtomicBool::new(false));
        let trained = train::together(self.count as usize, self.at_once, |i| {
            if failed.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let result = self.one(i as u32, &bars);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            result.map(Some)
        });
        let (mut folds, mut samples) = (Vec::new(), 0);
        for (i, result) in trained.into_iter().enumerate() {
            let result = result.map_err(|error| match error {
                Error::Interrupted(_) => Error::Interrupted(format!(
                    "saved in fold {i} of {}; continue with --resume {}",
                    self.count,
                    self.folder.path().display()
                )),
                other => other,
            });
            // Only folds behind one that failed are missing.
            let Some((fold, outcome)) = result? else { continue };
            samples += outcome.samples;
            folds.push(fold);
        }
        let seconds = started.elapsed().as_secs_f64();
        let rate = samples as f64 / seconds.max(1e-9);
        watch.log(&format!(
            "trained    {} folds, {} at a time, in {seconds:.1} s with their scoring: {rate:.1} samples/s together",
            self.count, self.at_once
        ))?;
        let training = json!({
            "folds": self.count, "at_once": self.at_once, "samples": samples, "seconds": seconds, "samples_per_s": rate,
        });
        session::report(self.config, self.dataset, &folds, self.folder, training)
    }
    fn one(&self, i: u32, bars: &MultiProgress) -> Result<(Fold, Outcome)> {
        let mut config = self.config.clone();
        (config.split.fold, config.split.folds) = (i, Some(self.count));
        let path = self.folder.file(&format!("{FOLD}{i}"));
        let goes_on = self.resume && path.join("config.toml").is_file();
        let inner = if goes_on { RunFolder::open(&path)? } else { RunFolder::create(&path)? };
        if !goes_on {
            inner.write("config.toml", config.to_toml().as_bytes())?;
        }
        let name = format!("fold {i} of {}", self.count);
        let (fold, outcome) = if self.at_once == 1 {
            self.out.note(name);
            let watch = Watch::new(self.out, Some(&inner));
            on_device!(self.device, backend => train_one(backend, &config, self.dataset, &inner, goes_on, watch)?)
        } else {
            let device = self.device.again()?.among(self.at_once);
            let watch = Watch::among(self.out, &inner, name, bars);
            on_device!(&device, backend => train_one(backend, &config, self.dataset, &inner, goes_on, watch)?)
        };
        session::report(&config, self.dataset, std::slice::from_ref(&fold), &inner, outcome.to_json())?;
        Ok((fold, outcome))
    }
}

/// The `--set` list that the named options stand for, before the explicit ones.
fn settings(args: &Args) -> Result<Vec<String>> {
    let mut settings = Vec::new();
    let mut set = |key: &str, value: &str| settings.push(format!("{key}={}", toml::Value::from(value)));
    if let Some(data) = &args.data {
        set("data.path", &data.to_string_lossy());
    }
    for (key, value) in
        [("split.kind", &args.split), ("train.device", &args.device), ("train.precision", &args.precision)]
    {
        if let Some(value) = value {
            set(key, value);
        }
    }
    // Another data set or another kind of split has other groups than those that the preset holds out by name.
    if args.split.is_some() || args.data.is_some() || args.fold.is_some() {
        settings.extend(["split.test=[]".to_string(), "split.validation=[]".to_string()]);
    }
    if let Some(fold) = args.fold.as_deref().filter(|f| *f != "all") {
        settings.extend(fold_settings(fold)?);
    }
    settings.extend(args.settings.iter().cloned());
    Ok(settings)
}

/// What `--fold I/K` stands for.
pub(super) fn fold_settings(fold: &str) -> Result<[String; 2]> {
    let parsed = fold.split_once('/').and_then(|(i, k)| Some((i.parse::<u32>().ok()?, k.parse::<u32>().ok()?)));
    let (i, k) = parsed.ok_or_else(|| {
        Error::config("--fold", format!("`{fold}`: expected I/K with I counted from 0 (e.g. 0/5), or all"))
    })?;
    Ok([format!("split.fold={i}"), format!("split.folds={k}")])
}

/// `runs/PRESET-N` with the first N that is free.
pub(super) fn free_folder(preset: &str) -> PathBuf {
    let stem = Path::new(preset).file_stem().map_or("run".into(), |s| s.to_string_lossy());
    (1..).map(|n| PathBuf::from(format!("runs/{stem}-{n}"))).find(|p| !p.exists()).expect("some number is free")
}

fn name_of(dataset: &Dataset) -> String {
    let path = dataset.path();
    if path.as_os_str().is_empty() { "the bundled BENGI pairs".into() } else { path.display().to_string() }
}
