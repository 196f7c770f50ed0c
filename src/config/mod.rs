//! Typed configuration: presets, files and `--set key=value`, each section with its own `validate`.
//!
//! Unknown keys are errors. A leaf: it knows names and numbers, not what is done with them.

mod boosted;
mod data;
mod load;
mod model;
mod phase;
mod speid;
mod split;
mod train;

pub use boosted::{
    BoostedBalance, BoostedConfig, BoostedTrainConfig, FeaturesConfig, FeaturesTried, Regions, TargetFinderConfig,
};
pub use data::{Balance, Control, DataConfig};
pub use load::{PRESETS, is_boosted, load, load_boosted, preset};
pub use model::{EplaeConfig, EpsatConfig, Latent, LossKind, LstmAxis, ModelConfig, NormKind, ReconstructionLoss};
pub use phase::{Objective, Phase, PhaseConfig};
pub use speid::{GateKind, SpeidConfig};
pub use split::SplitConfig;
pub use train::{BestBy, TrainConfig};

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// Everything that decides what a run does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub model: ModelConfig,
    #[serde(default)]
    pub data: DataConfig,
    #[serde(default)]
    pub split: SplitConfig,
    #[serde(default)]
    pub train: TrainConfig,
}

impl Config {
    /// Checks every section; the error names the key and the remedy.
    pub fn validate(&self) -> Result<()> {
        self.model.validate()?;
        self.data.validate()?;
        self.split.validate()?;
        self.train.validate()
    }
    /// The configuration as TOML, as `--print-config` shows and a run folder keeps it.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a configuration is made of TOML types")
    }
}
