//! Tables and figures of a run or a study: one page that needs nothing else, figures as SVG, tables as TSV.
//!
//! Everything comes from the files of the run folders; nothing is trained, scored or read from a data set.

mod curves;
mod figures;
mod files;
mod format;
mod html;
mod leaks;
mod marks;
mod plot;
mod pooled;
mod published;
mod run;
mod scale;
mod scores;
mod series;
mod study;
mod study_runs;
mod svg;
mod tables;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::study::Index;
use crate::train::RunFolder;
use files::RunFiles;
use html::{Head, Section, page};

/// What a report consists of before it is written.
struct Content {
    head: Head,
    sections: Vec<Section>,
    verdict: String,
    /// The figures that matter most, for `--json`.
    key: Value,
    warnings: Vec<String>,
}

/// Where a report is.
#[derive(Clone, Debug)]
pub struct Written {
    pub html: PathBuf,
    pub figures: Vec<PathBuf>,
    pub tables: Vec<PathBuf>,
    /// In one sentence, what the scores say.
    pub verdict: String,
    pub key: Value,
    pub warnings: Vec<String>,
}

impl Written {
    /// The document of `report --json`.
    pub fn to_json(&self) -> Value {
        json!({
            "report": self.html, "figures": self.figures, "tables": self.tables, "verdict": self.verdict,
            "key": self.key, "warnings": self.warnings,
        })
    }
}

/// Writes the report of a run folder or of a study's folder into `out`, or into the folder itself. Every file appears under its name only when it
/// is complete, the page last.
///
/// # Errors
/// [`Error::Input`] for a folder without a run and for a damaged file, [`Error::Io`] when `out` cannot be written to.
pub fn write(folder: &Path, out: Option<&Path>) -> Result<Written> {
    let content = match Index::is_in(folder) {
        true => study::content(folder)?,
        false => run::content(&RunFiles::read(folder)?),
    };
    let out = out.unwrap_or(folder);
    let place = |name: &str| -> Result<RunFolder> {
        let path = out.join(name);
        std::fs::create_dir_all(&path).map_err(Error::io(&path))?;
        Ok(RunFolder::at(&path))
    };
    let (in_figures, in_tables) = (place("figures")?, place("tables")?);
    let (mut figures, mut tables) = (Vec::new(), Vec::new());
    for section in &content.sections {
        for svg in &section.figures {
            let name = format!("{}.svg", svg.id);
            in_figures.write(&name, svg.file().as_bytes())?;
            figures.push(in_figures.file(&name));
        }
        for table in &section.tables {
            let name = format!("{}.tsv", table.id);
            in_tables.write(&name, table.tsv().as_bytes())?;
            tables.push(in_tables.file(&name));
        }
    }
    let footer = format!(
        "Made by epi-engine {} ({}) from the files of {}.",
        env!("CARGO_PKG_VERSION"),
        env!("EPI_COMMIT"),
        folder.display()
    );
    let name = "report.html";
    let folder = RunFolder::at(out);
    folder.write(name, page(&content.head, &content.sections, &footer).as_bytes())?;
    let Content { verdict, key, warnings, .. } = content;
    Ok(Written { html: folder.file(name), figures, tables, verdict, key, warnings })
}
