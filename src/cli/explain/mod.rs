//! `epi-engine explain`: what a trained model reads in the sequence, and what changing it does.

mod attention;
mod attributions;
mod filters;
mod interactions;
mod latent;
mod mutate;
mod variants;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Output;
use super::watch::Watch;
use crate::backend::{Backend, Device, device};
use crate::config::{self, Config};
use crate::data::{Dataset, EpochPlan, Sample};
use crate::error::Error;
use crate::evaluate::{read_predictions, score};
use crate::explain::{Partial, Place};
use crate::train::session::{self, Part, Trained};
use crate::train::{Observer, RunFolder};

/// What a trained model reads in the sequence, and what changing it does
#[derive(clap::Args)]
#[command(after_help = "Examples:
  epi-engine explain attributions runs/fold0 --rows 12
  epi-engine explain mutate runs/fold0 --top 1")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Contribution of every base to the score: gradient × input or integrated gradients
    Attributions(attributions::Args),
    /// In-silico mutagenesis: every base, windows, deletions, motif knock-outs
    Mutate(mutate::Args),
    /// Score every variant of a VCF in each pair whose windows hold it
    Variants(variants::Args),
    /// Convolution filters as motifs, and the known motifs that they resemble
    Filters(filters::Args),
    /// Attention maps of single pairs
    Attention(attention::Args),
    /// Filters that attend to each other in interacting pairs more than in a background
    Interactions(interactions::Args),
    /// The latent space of an autoencoder: maps, walks, back-projection
    Latent(latent::Args),
}

pub fn run(args: &Args, out: &Output) -> Result<ExitCode> {
    match &args.command {
        Command::Attributions(args) => attributions::run(args, out)?,
        Command::Mutate(args) => mutate::run(args, out)?,
        Command::Variants(args) => variants::run(args, out)?,
        Command::Filters(args) => filters::run(args, out)?,
        Command::Attention(args) => attention::run(args, out)?,
        Command::Interactions(args) => interactions::run(args, out)?,
        Command::Latent(args) => latent::run(args, out)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Which run, on which device, into which folder.
#[derive(clap::Args)]
pub struct RunArgs {
    /// Run folder made by `epi-engine train`
    run: PathBuf,
    /// Another data set than the run's
    #[arg(long, value_name = "X.epi")]
    data: Option<PathBuf>,
    /// Where to write (default: the folder `explain` of the run)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Copies that are computed at once
    // With the unchanged copy beside them, they fill whole slices of the CPU's LSTM.
    #[arg(long, value_name = "N", default_value_t = 63)]
    batch: usize,
    /// auto, cpu, cuda[:N], emulator or reference
    #[arg(long, default_value = "auto")]
    device: String,
}

/// What [`RunArgs`] name, open.
pub struct Opened {
    pub folder: RunFolder,
    pub config: Config,
    pub device: Device,
    pub dataset: Dataset,
    pub out: RunFolder,
    pub batch: usize,
    other_data: bool,
}

impl RunArgs {
    pub fn open(&self, out: &Output) -> Result<Opened> {
        if self.batch == 0 {
            return Err(Error::config("--batch", "at least 1").into());
        }
        let folder = RunFolder::open(&self.run)?;
        let mut config = config::load(&folder.file("config.toml").to_string_lossy(), &[])?;
        if let Some(data) = &self.data {
            config.data.path = Some(data.clone());
            (config.split.test, config.split.validation) = Default::default();
        }
        let (device, why) = Device::open(self.device.parse()?, device::precision(&config.train.precision)?, 0)?;
        let dataset = session::open_dataset(&config)?;
        let path = self.out.clone().unwrap_or_else(|| folder.file("explain"));
        std::fs::create_dir_all(&path).map_err(Error::io(&path))?;
        out.note(format!("device     {why}"));
        out.note(format!("writes     {}", path.display()));
        let out = RunFolder::at(&path);
        Ok(Opened { folder, config, device, dataset, out, batch: self.batch, other_data: self.data.is_some() })
    }
}

/// Which pairs.
#[derive(clap::Args)]
pub struct PairArgs {
    /// Rows of the data set
    #[arg(long, value_name = "N,…", value_delimiter = ',', conflicts_with = "top")]
    rows: Vec<u32>,
    /// The pairs with the highest scores
    #[arg(long, value_name = "N", default_value_t = 1)]
    top: usize,
    /// Where to look for these
    #[arg(long, value_enum, default_value = "test")]
    part: Part,
}

/// Options too long to be part of a key.
fn digest(options: &Value) -> String {
    Sha256::digest(options.to_string()).iter().take(16).map(|b| format!("{b:02x}")).collect()
}

/// For a command that was asked to stop.
fn stopped(done: u64, total: usize, what: &str) -> Error {
    Error::Interrupted(format!("{done} of {total} {what} are kept; start again to go on"))
}

impl Opened {
    /// What kept results are results of: weights, data, device, batch and the options `what` of a command.
    pub fn key(&self, device: &str, what: Value) -> crate::Result<String> {
        let weights = Sha256::digest(self.folder.read("best.safetensors")?);
        let weights: String = weights.iter().take(8).map(|b| format!("{b:02x}")).collect();
        let data = self.dataset.fingerprint();
        Ok(json!({"weights": weights, "data": data, "device": device, "batch": self.batch, "what": what}).to_string())
    }
    /// Kept results of a command, which may end at any time and go on in a later run.
    pub fn partial<T>(
        &self,
        name: &str,
        key: &str,
        group: usize,
        read: impl Fn(&str) -> Option<T>,
    ) -> crate::Result<(Partial, Vec<T>)> {
        Partial::open(&self.out.file(&format!(".{name}.partial")), key, group, read)
    }
    /// The samples of a part of the run's split.
    pub fn part(&self, part: Part) -> crate::Result<Vec<Sample>> {
        let split = session::make_split(&self.config, &self.dataset)?;
        Ok(match part {
            Part::Train => split.train,
            Part::Validation => split.validation,
            Part::Test => split.test,
            Part::All => (0..self.dataset.len()).map(|row| self.dataset.table().sample(row)).collect(),
        })
    }
    /// The pairs that are asked for; those with the highest scores are looked up in the run's `predictions.tsv` where that
    /// holds them, and scored otherwise.
    pub fn pairs<B: Backend>(
        &self,
        args: &PairArgs,
        trained: &Trained<B>,
        backend: &B,
        out: &Output,
    ) -> Result<Vec<Place>> {
        let mut rows = args.rows.clone();
        if rows.is_empty() {
            let known = self.folder.file("predictions.tsv");
            let mut scored: Vec<(f64, u32)> = if !self.other_data && args.part == Part::Test && known.is_file() {
                read_predictions(&known)?.iter().map(|p| (f64::from(p.score), p.row)).collect()
            } else {
                let samples = self.part(args.part)?;
                let plan = EpochPlan::evaluation(&samples, self.batch);
                let mut watch = Watch::new(out, None);
                let mut tick = |done| watch.scoring("pairs", done, samples.len() as u64);
                let found = score(backend, &trained.model, &trained.parameters, &self.dataset, &plan, None, &mut tick)?;
                watch.finish();
                samples.iter().zip(found.probabilities).map(|(s, p)| (f64::from(p), s.row)).collect()
            };
            scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            rows = scored.iter().take(args.top).map(|s| s.1).collect();
        }
        Ok(rows.into_iter().map(|row| Place::of(&self.dataset, row)).collect::<crate::Result<_>>()?)
    }
}
