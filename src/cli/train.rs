use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::Output;
use super::watch::{Watch, catch_interrupts};
use crate::backend::{Device, device};
use crate::config::{self, Config};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::evaluate::Report;
use crate::on_device;
use crate::train::{Fold, Outcome, RunFolder, session};

/// Train a model and score the test part
#[derive(clap::Args)]
#[command(after_help = "Examples:
  epi-engine train                                   the demonstration: EPSAT on bundled real pairs
  epi-engine train --preset epsat --data my.epi --split chromosome --fold 0/5 --out runs/fold0
  epi-engine train --set train.lr=0.0005 --set data.balance=oversample
  epi-engine train --resume runs/fold0               go on where it stopped, bit for bit")]
pub struct Args {
    /// Preset by name, or a TOML file
    #[arg(long, value_name = "NAME|FILE.toml", default_value = "demo")]
    preset: String,
    /// Data set made by `epi-engine prepare` (default: the bundled real pairs)
    #[arg(long, value_name = "X.epi")]
    data: Option<PathBuf>,
    /// Evaluation protocol: chromosome, column:NAME, component, cross-cell, promoter, enhancer, random, paper-text, paper-code
    #[arg(long, value_name = "KIND")]
    split: Option<String>,
    /// Fold I of K is tested, the next one validates; `all` trains K models and pools their test scores
    #[arg(long, value_name = "I/K|all")]
    fold: Option<String>,
    /// auto, cpu, cuda[:N], emulator or reference
    #[arg(long)]
    device: Option<String>,
    /// f32 or bf16
    #[arg(long)]
    precision: Option<String>,
    /// Run folder (default: runs/PRESET-N with the first free N)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Override a configuration value, e.g. --set train.lr=0.0005
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Print the resolved configuration as TOML and stop
    #[arg(long)]
    print_config: bool,
    /// Go on with the run in DIR
    #[arg(long, value_name = "DIR", conflicts_with_all = ["preset", "data", "split", "fold", "out", "settings", "precision"])]
    resume: Option<PathBuf>,
}

/// `--fold all` is remembered in the run folder's name space: one folder a fold.
const FOLD: &str = "fold-";

pub fn run(args: &Args, out: &Output) -> anyhow::Result<ExitCode> {
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
    let need = session::memory_estimate(&config, &dataset);
    let (device, why) = Device::open(config.train.device.parse()?, device::precision(&config.train.precision)?, need)?;
    // Checked before anything is written.
    session::check(&config, &dataset)?;
    let first = session::make_split(&config, &dataset)?;
    let resume = folder.is_some();
    let all = match &folder {
        Some(folder) => folder.file(&format!("{FOLD}0")).is_dir(),
        None => args.fold.as_deref() == Some("all"),
    };
    let folder = match folder {
        Some(folder) => folder,
        None => {
            let path = args.out.clone().unwrap_or_else(|| free_folder(&args.preset));
            let folder = RunFolder::create(&path)?;
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
    let (report, outcome) = on_device!(&device, backend => {
        if all {
            (train_all(backend, &config, &dataset, first.folds, &folder, resume, out)?, None)
        } else {
            let (fold, outcome) = train_one(backend, &config, &dataset, &folder, resume, out)?;
            (session::report(&config, &dataset, &[fold], &folder, Some(&outcome))?, Some(outcome))
        }
    });
    if let Some(outcome) = &outcome {
        let rate = outcome.samples as f64 / outcome.seconds.max(1e-9);
        watch.log(&format!("trained    {} steps in {:.1} s, {rate:.1} samples/s", outcome.steps, outcome.seconds))?;
    }
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
    out: &Output,
) -> Result<(Fold, Outcome)> {
    let mut watch = Watch::new(out, Some(folder));
    let split = session::make_split(config, dataset)?;
    let result = session::train_fold(backend, config, dataset, split, folder, resume, &mut watch);
    watch.finish();
    result
}

fn train_all<B: crate::backend::Backend>(
    backend: &B,
    config: &Config,
    dataset: &Dataset,
    folds: u32,
    folder: &RunFolder,
    resume: bool,
    out: &Output,
) -> Result<Report> {
    let mut scored = Vec::new();
    for i in 0..folds {
        let mut config = config.clone();
        (config.split.fold, config.split.folds) = (i, Some(folds));
        let path = folder.file(&format!("{FOLD}{i}"));
        let goes_on = resume && path.join("config.toml").is_file();
        let inner = if goes_on { RunFolder::open(&path)? } else { RunFolder::create(&path)? };
        if !goes_on {
            inner.write("config.toml", config.to_toml().as_bytes())?;
        }
        out.note(format!("fold {i} of {folds}"));
        let (fold, outcome) = train_one(backend, &config, dataset, &inner, goes_on, out)?;
        session::report(&config, dataset, std::slice::from_ref(&fold), &inner, Some(&outcome))?;
        scored.push(fold);
    }
    session::report(config, dataset, &scored, folder, None)
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
        let parsed = fold.split_once('/').and_then(|(i, k)| Some((i.parse::<u32>().ok()?, k.parse::<u32>().ok()?)));
        let (i, k) = parsed.ok_or_else(|| {
            Error::config("--fold", format!("`{fold}`: expected I/K with I counted from 0 (e.g. 0/5), or all"))
        })?;
        settings.extend([format!("split.fold={i}"), format!("split.folds={k}")]);
    }
    settings.extend(args.settings.iter().cloned());
    Ok(settings)
}

/// `runs/PRESET-N` with the first N that is free.
fn free_folder(preset: &str) -> PathBuf {
    let stem = Path::new(preset).file_stem().map_or("run".into(), |s| s.to_string_lossy());
    (1..).map(|n| PathBuf::from(format!("runs/{stem}-{n}"))).find(|p| !p.exists()).expect("some number is free")
}

fn name_of(dataset: &Dataset) -> String {
    let path = dataset.path();
    if path.as_os_str().is_empty() { "the bundled BENGI pairs".into() } else { path.display().to_string() }
}
