//! From a configuration to a finished run: data set, split, training, scores of the test part, files.

use serde_json::{Value, json};

use super::run::check_phases;
use super::{Observer, Outcome, RunFolder, Training};
use crate::backend::Backend;
use crate::config::Config;
use crate::data::control::controlled;
use crate::data::demo::demo;
use crate::data::split::{Identity, Split, SplitSpec, split};
use crate::data::{Dataset, EpochPlan, PairTable, Sample};
use crate::error::{Error, Result};
use crate::evaluate::{
    FoldScores, Options, Reconstruction, Report, Scored, evaluate, predictions, score, write_predictions,
};
use crate::models::{Model, Network};
use crate::nn::Parameters;

/// The data set of a configuration: the named file, or the bundled one.
pub fn open_dataset(config: &Config) -> Result<Dataset> {
    let data = &config.data;
    let dataset = match &data.path {
        Some(path) => Dataset::open(path)?,
        None => demo()?,
    };
    for (key, wanted, found) in [
        ("data.enhancer_length", data.enhancer_length, dataset.enhancer_length()),
        ("data.promoter_length", data.promoter_length, dataset.promoter_length()),
    ] {
        if wanted != 0 && wanted != found {
            let message = format!(
                "{wanted} bp are asked for, {} holds windows of {found} bp. Prepare it anew with other lengths, or drop the key",
                dataset.path().display()
            );
            return Err(Error::config(key, message));
        }
    }
    controlled(dataset, data.control)
}

/// Rows of the cell lines that the configuration asks for.
fn rows(config: &Config, table: &PairTable) -> Result<Vec<u32>> {
    let wanted = &config.data.cell_lines;
    if let Some(unknown) = wanted.iter().find(|w| !table.cell_lines.contains(w)) {
        let message = format!("no cell line `{unknown}` here; there are: {}", table.cell_lines.join(", "));
        return Err(Error::config("data.cell_lines", message));
    }
    let keeps = |row: &u32| {
        wanted.is_empty() || wanted.contains(&table.cell_lines[table.rows[*row as usize].cell_line as usize])
    };
    Ok((0..table.rows.len() as u32).filter(keeps).collect())
}

/// Error for a model that cannot train on these windows, phases that do not fit it, or a file of starting values that cannot
/// be read: everything that can be told before a run folder is made.
pub fn check(config: &Config, dataset: &Dataset) -> Result<()> {
    let (model, lengths) = (Network::new(&config.model), (dataset.enhancer_length(), dataset.promoter_length()));
    model.check_lengths(lengths.0, lengths.1)?;
    check_phases(&model, &model.specs(lengths.0, lengths.1), &config.phases())?;
    model.check_files()
}

/// Divides the pairs as the configuration says.
pub fn make_split(config: &Config, dataset: &Dataset) -> Result<Split> {
    let spec = SplitSpec::from_config(&config.split, config.data.shift)?;
    split(dataset.table(), &rows(config, dataset.table())?, &spec, Some(&Identity::of(dataset)))
}

/// Bytes that a run will need at its peak, as an estimate: parameters, gradients, moments, activations of one step.
pub fn memory_estimate(config: &Config, dataset: &Dataset) -> usize {
    let model = Network::new(&config.model);
    let lengths = (dataset.enhancer_length(), dataset.promoter_length());
    let parameters: usize = model.specs(lengths.0, lengths.1).iter().map(crate::nn::Spec::len).sum();
    4 * 4 * parameters + model.activation_bytes(config.train.batch, lengths.0, lengths.1, true)
}

/// How intervals and components are computed for a run.
pub fn options(config: &Config) -> Options {
    Options { padding: i64::from(config.data.shift.max(100)), batch: config.train.batch, ..Options::default() }
}

/// Scores of one fold, owned.
#[derive(Clone, Debug)]
pub struct Fold {
    pub split: Split,
    /// The part that was scored; the test part after training.
    pub part: Vec<Sample>,
    pub scores: Vec<f32>,
    /// Scored samples of the validation part, and their scores.
    pub validation: Vec<Sample>,
    pub validation_scores: Vec<f32>,
    /// How well an autoencoder gives back the part that was scored.
    pub reconstruction: Option<Reconstruction>,
}

impl Fold {
    /// As the evaluation wants it.
    pub fn scored(&self) -> FoldScores<'_> {
        FoldScores {
            split: &self.split,
            part: Scored { samples: &self.part, scores: &self.scores },
            validation: Scored { samples: &self.validation, scores: &self.validation_scores },
        }
    }
}

/// Evaluates folds together.
pub fn evaluate_folds(config: &Config, dataset: &Dataset, folds: &[Fold]) -> Result<Report> {
    let scored: Vec<_> = folds.iter().map(Fold::scored).collect();
    let reconstruction = folds.iter().filter_map(|fold| fold.reconstruction).reduce(Reconstruction::joined);
    Ok(Report { reconstruction, ..evaluate(dataset.table(), &scored, &options(config))? })
}

/// Evaluates folds together and writes `predictions.tsv` and `metrics.json` into `folder`; `training` tells the latter what it took.
pub fn report(
    config: &Config,
    dataset: &Dataset,
    folds: &[Fold],
    folder: &RunFolder,
    training: Value,
) -> Result<Report> {
    let scored: Vec<_> = folds.iter().map(Fold::scored).collect();
    let report = evaluate_folds(config, dataset, folds)?;
    let lines = predictions(dataset.table(), &scored, &options(config))?;
    write_predictions(&folder.file("predictions.tsv"), &lines)?;
    let mut document = report.to_json();
    let table = dataset.table();
    document["data"] = json!({ "cell_lines": table.cell_line_counts(rows(config, table)?.into_iter()) });
    document["training"] = training;
    folder.write_json("metrics.json", &document)?;
    Ok(report)
}

/// Trains (or goes on training) in `folder`, then scores validation and test parts with the best weights.
pub fn train_fold<B: Backend>(
    backend: &B,
    config: &Config,
    dataset: &Dataset,
    split: Split,
    folder: &RunFolder,
    resume: bool,
    observer: &mut dyn Observer,
) -> Result<(Fold, Outcome)> {
    let mut training = Training::new(backend, config, dataset, &split, folder.clone(), resume)?;
    let outcome = training.run(observer)?;
    training.load_best()?;
    let fold =
        score_fold(backend, config, dataset, training.model(), training.parameters(), split, Part::Test, observer)?;
    Ok((fold, outcome))
}

/// Which rows of a split to score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    Train,
    Validation,
    Test,
    All,
}

/// Scores `part` of `split`, and the validation part for the threshold, with the weights in `parameters`.
pub fn score_fold<B: Backend>(
    backend: &B,
    config: &Config,
    dataset: &Dataset,
    model: &Network,
    parameters: &Parameters<B>,
    split: Split,
    part: Part,
    observer: &mut dyn Observer,
) -> Result<Fold> {
    let limit = (config.train.max_steps > 0).then_some(config.train.max_steps as usize);
    let mut scores = |name: &str, samples: &[Sample]| -> Result<(Vec<Sample>, Vec<f32>, Option<Reconstruction>)> {
        let plan = EpochPlan::evaluation(samples, config.train.batch);
        let total = plan.len() as u64;
        let mut tick = |done| observer.scoring(name, done, total);
        let found = score(backend, model, parameters, dataset, &plan, limit, &mut tick)?;
        Ok((samples[..found.probabilities.len()].to_vec(), found.probabilities, found.reconstruction))
    };
    let (validation, validation_scores, reconstruction) = scores("validation", &split.validation)?;
    let (part, scores, reconstruction) = match part {
        Part::Validation => (validation.clone(), validation_scores.clone(), reconstruction),
        // The protocols of two parts choose and test on the same samples.
        Part::Test if split.test == split.validation => (validation.clone(), validation_scores.clone(), reconstruction),
        Part::Test => scores("test", &split.test)?,
        Part::Train => scores("train", &split.train)?,
        Part::All => {
            let mut all: Vec<Sample> = [&split.train[..], &split.validation, &split.test].concat();
            all.sort_by_key(|s| s.row);
            all.dedup();
            scores("all", &all)?
        }
    };
    Ok(Fold { split, part, scores, validation, validation_scores, reconstruction })
}

/// A trained model and the configuration it was trained with.
pub struct Trained<B: Backend> {
    pub config: Config,
    pub model: Network,
    pub parameters: Parameters<B>,
}

impl<B: Backend> Trained<B> {
    /// Loads the best weights of a run.
    pub fn open(backend: &B, folder: &RunFolder, config: Config) -> Result<Self> {
        let path = folder.file("best.safetensors");
        if !path.is_file() {
            let message = if folder.file("fold-0").is_dir() {
                "holds a run of all folds: name one of its folds (fold-0, …)"
            } else {
                "has no weights yet: the run was stopped before its first evaluation. Continue it with --resume"
            };
            return Err(Error::input(folder.path(), None, message));
        }
        let model = Network::new(&config.model);
        let specs = model.specs(config.data.enhancer_length, config.data.promoter_length);
        let parameters = Parameters::new(backend, specs, 0)?;
        parameters.load_safetensors(&path)?;
        Ok(Trained { config, model, parameters })
    }
}
