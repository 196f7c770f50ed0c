//! The configuration of boosted trees on genomic features: `[model]`, `[features]`, `[split]`, `[train]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::SplitConfig;
use super::model::at_least;
use crate::error::{Error, Result};

/// The `model.name` that makes a configuration one of trees.
pub(super) const NAME: &str = "target-finder";

/// Everything that decides what a run of boosted trees does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoostedConfig {
    pub model: TargetFinderConfig,
    #[serde(default)]
    pub features: FeaturesConfig,
    #[serde(default)]
    pub split: SplitConfig,
    #[serde(default)]
    pub train: BoostedTrainConfig,
}

impl BoostedConfig {
    /// Checks every section; the error names the key and the remedy.
    pub fn validate(&self) -> Result<()> {
        self.model.validate()?;
        self.split.validate()
    }
    /// The configuration as TOML, as `--print-config` shows and a run folder keeps it.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a configuration is made of TOML types")
    }
}

/// Which ensemble of trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BoostedName {
    TargetFinder,
}

/// `[model]`: gradient boosting of the binary log loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TargetFinderConfig {
    pub name: BoostedName,
    /// Trees of an ensemble.
    pub trees: usize,
    /// Factor of every leaf.
    pub learning_rate: f64,
    /// Splits between root and leaf, at most.
    pub depth: usize,
    /// Features drawn for each split.
    pub features_tried: FeaturesTried,
}

impl Default for TargetFinderConfig {
    fn default() -> Self {
        TargetFinderConfig {
            name: BoostedName::TargetFinder,
            trees: 4000,
            learning_rate: 0.1,
            depth: 5,
            features_tried: FeaturesTried::Log2,
        }
    }
}

impl TargetFinderConfig {
    fn validate(&self) -> Result<()> {
        at_least("model.trees", self.trees, 1, 1_000_000)?;
        at_least("model.depth", self.depth, 1, 12)?;
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            let message = format!("{} must be a positive number", self.learning_rate);
            return Err(Error::config("model.learning_rate", message));
        }
        Ok(())
    }
}

/// How many features a split draws: `"log2"`, `"sqrt"`, `"all"`, or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "toml::Value", into = "toml::Value")]
pub enum FeaturesTried {
    /// The binary logarithm of their number, rounded down.
    Log2,
    /// The square root of their number, rounded down.
    Sqrt,
    All,
    /// As many, or all where there are fewer.
    Count(usize),
}

impl FeaturesTried {
    /// The number out of `features`, at least 1.
    pub fn of(self, features: usize) -> usize {
        let tried = match self {
            FeaturesTried::Log2 => features.checked_ilog2().unwrap_or(0) as usize,
            FeaturesTried::Sqrt => features.isqrt(),
            FeaturesTried::All => features,
            FeaturesTried::Count(n) => n,
        };
        tried.min(features).max(1)
    }
}

impl TryFrom<toml::Value> for FeaturesTried {
    type Error = String;
    fn try_from(value: toml::Value) -> std::result::Result<Self, String> {
        match &value {
            toml::Value::String(name) if name == "log2" => Ok(FeaturesTried::Log2),
            toml::Value::String(name) if name == "sqrt" => Ok(FeaturesTried::Sqrt),
            toml::Value::String(name) if name == "all" => Ok(FeaturesTried::All),
            toml::Value::Integer(n) if *n > 0 => Ok(FeaturesTried::Count(*n as usize)),
            _ => Err(format!("model.features_tried = {value}: use \"log2\", \"sqrt\", \"all\" or a number from 1")),
        }
    }
}

impl From<FeaturesTried> for toml::Value {
    fn from(tried: FeaturesTried) -> Self {
        match tried {
            FeaturesTried::Log2 => "log2".into(),
            FeaturesTried::Sqrt => "sqrt".into(),
            FeaturesTried::All => "all".into(),
            FeaturesTried::Count(n) => toml::Value::Integer(n as i64),
        }
    }
}

/// Pieces of genome whose measurements are features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Regions {
    /// Enhancer and promoter.
    #[default]
    Ep,
    /// Extended enhancer and promoter.
    Eep,
    /// Enhancer, promoter and the window between them.
    Epw,
}

/// `[features]`: which table, and which of its columns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeaturesConfig {
    /// TargetFinder's `training.csv.gz`, or a table in its form.
    pub path: Option<PathBuf>,
    pub regions: Regions,
    /// Only these: factors (`CTCF`) or columns (`CTCF (enhancer)`); empty = every factor of the regions.
    pub include: Vec<String>,
    /// None of these.
    pub exclude: Vec<String>,
}

/// `[train]` of trees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BoostedTrainConfig {
    /// An ensemble per fold and pooled out-of-fold scores; otherwise fold `split.fold` alone.
    pub all_folds: bool,
    /// What a row weighs. The published calls on NHEK (1,079, precision .65, recall .54) come with `Weights`.
    pub balance: BoostedBalance,
    /// Seed of the features that splits draw.
    pub seed: u64,
}

/// The weight of a training row in splits, leaves and prior.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BoostedBalance {
    /// Every row the same.
    #[default]
    None,
    /// Both classes the same in sum.
    Weights,
}

impl Default for BoostedTrainConfig {
    fn default() -> Self {
        BoostedTrainConfig { all_folds: true, balance: BoostedBalance::Weights, seed: 0 }
    }
}
