//! `study.json`: every cell of a study and how far it is. Written whole whenever a cell changes its state.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::config::Control;
use crate::error::{Error, Result};
use crate::train::RunFolder;

/// Name of the index in a study's folder.
pub const INDEX: &str = "study.json";
/// Name of the resolved configuration in a study's folder.
pub const CONFIG: &str = "study.toml";

/// What a study consists of and how far it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// The program, and the commit it was built from.
    pub version: String,
    pub commit: String,
    /// What the networks run on, in words.
    pub device: String,
    /// When the study was begun, UTC: `2026-11-24T20:00:00Z`.
    pub started: String,
    /// The command line that began it.
    pub command: String,
    /// In the order in which they run.
    pub cells: Vec<Cell>,
}

/// One run of a study: a model on a data set under a protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Group of the study file that asks for it.
    pub group: String,
    /// What tables call the model: `epsat`, `eplae`, `speid`, `target-finder`, …
    pub model: String,
    /// Preset (or TOML file) that it starts from.
    pub preset: String,
    /// What tables call the source of the pairs: `BENGI`, `TargetFinder`, `planted`, …
    pub dataset: String,
    /// Cell line that is scored; `all` where all of a data set are.
    pub cell_line: String,
    /// The `.epi` file or the table of features; absent for the bundled pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// `split.kind`.
    pub protocol: String,
    /// The tested fold; absent where one run scores all folds out of fold (trees).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fold: Option<u32>,
    pub folds: u32,
    pub seed: u64,
    pub control: Control,
    /// Cell lines whose pairs train.
    pub trained_on: Vec<String>,
    /// Samples that training may see; 0 = no limit but the epochs.
    pub budget_samples: u64,
    /// Run folder, relative to the study's; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    pub state: CellState,
    /// Why there are no data, why it failed, where it was interrupted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Samples that training has seen, and the seconds that training and scoring took.
    pub samples_seen: u64,
    pub seconds: f64,
}

/// How far a cell is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CellState {
    Pending,
    Running,
    Done,
    Failed,
    /// Its data are not here.
    NoData,
    /// Stopped by the user; the next start goes on from its checkpoint.
    Interrupted,
}

impl CellState {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            CellState::Pending => "pending",
            CellState::Running => "running",
            CellState::Done => "done",
            CellState::Failed => "failed",
            CellState::NoData => "no data here",
            CellState::Interrupted => "interrupted",
        }
    }
}

impl Index {
    /// Whether a folder holds a study.
    pub fn is_in(folder: &Path) -> bool {
        folder.join(INDEX).is_file()
    }
    /// Reads the index of a study's folder.
    ///
    /// # Errors
    /// [`Error::Input`] with the line of what is no index.
    pub fn read(folder: &Path) -> Result<Index> {
        let path = folder.join(INDEX);
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        serde_json::from_str(&text)
            .map_err(|e| Error::input(&path, e.line() as u64, format!("not the index of a study: {e}")))
    }
    /// Writes the index; a reader sees the old one or the new one.
    pub fn write(&self, folder: &Path) -> Result<()> {
        RunFolder::at(folder).write_json(INDEX, self)
    }
}

impl Cell {
    /// The model with its control, as tables and folders name it: `epsat`, `epsat-random-dna`.
    pub fn label(&self) -> String {
        match self.control {
            Control::None => self.model.clone(),
            control => format!("{}-{}", self.model, control.name()),
        }
    }
    /// `fold 0/5`, or `10 folds` where one run scores them all.
    pub fn fold_label(&self) -> String {
        match self.fold {
            Some(fold) => format!("fold {fold}/{}", self.folds),
            None => format!("{} folds", self.folds),
        }
    }
    /// One line that tells it from every other cell.
    pub fn title(&self) -> String {
        let Cell { dataset, cell_line, protocol, seed, .. } = self;
        // Where lines train for another, they tell one cell from the next.
        let from = match protocol.starts_with("cross-cell") {
            true => format!(" from {}", self.trained_on.join("+")),
            false => String::new(),
        };
        format!("{} {dataset} {cell_line}{from} {protocol} {} seed {seed}", self.label(), self.fold_label())
    }
}

/// Now, UTC, to the second.
pub fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    utc(seconds)
}

/// A moment in seconds since 1970 as `2026-11-24T20:00:00Z`.
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of the year 0, in the proleptic Gregorian calendar: leap days then end a year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = 400 * era + year_of_era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_772_323_199), "2026-02-28T23:59:59Z");
        assert_eq!(utc(1_772_323_200), "2026-03-01T00:00:00Z");
        assert_eq!(utc(4_102_444_799), "2099-12-31T23:59:59Z");
    }
}
