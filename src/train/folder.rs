//! The folder of a run. Whole files appear under their final name only when complete; logs are appended.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::events;
use crate::error::{Error, Result};

/// A folder that holds one run.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// A new run: the folder is made if need be and must not hold a run already.
    pub fn create(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).map_err(Error::io(path))?;
        let folder = RunFolder { path: path.to_path_buf() };
        if folder.file("config.toml").exists() {
            let message = format!(
                "{} already holds a run. Continue it with --resume {0}, or choose another --out",
                path.display()
            );
            return Err(Error::config("--out", message));
        }
        Ok(folder)
    }
    /// The folder of a run that exists.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = RunFolder { path: path.to_path_buf() };
        if !folder.file("config.toml").is_file() {
            return Err(Error::input(
                path,
                None,
                "not a run folder: it has no config.toml (made by `epi-engine train`)",
            ));
        }
        Ok(folder)
    }
    /// A folder that need not hold a run, for its atomic files.
    pub fn at(path: &Path) -> Self {
        RunFolder { path: path.to_path_buf() }
    }
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
    /// Reads a whole file.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.file(name);
        fs::read(&path).map_err(Error::io(path))
    }
    /// Reads a text file.
    pub fn read_text(&self, name: &str) -> Result<String> {
        let path = self.file(name);
        fs::read_to_string(&path).map_err(Error::io(path))
    }
    /// Writes a whole file: under a temporary name first, then moved into place, so that a reader or a crash sees the old
    /// one or the new one and never a part.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write_with(name, |out, path| out.write_all(bytes).map_err(Error::io(path)))
    }
    /// As [`RunFolder::write`], of a file that `content` writes piece by piece.
    pub fn write_with(&self, name: &str, content: impl FnOnce(&mut dyn Write, &Path) -> Result<()>) -> Result<()> {
        let path = self.file(name);
        let mut temporary = tempfile::NamedTempFile::new_in(&self.path).map_err(Error::io(&self.path))?;
        content(temporary.as_file_mut(), &path)?;
        temporary.as_file().sync_all().map_err(Error::io(&path))?;
        temporary.persist(&path).map_err(|e| Error::io(&path)(e.error))?;
        Ok(())
    }
    /// Writes a value as readable JSON.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string_pretty(value).expect("results are JSON types");
        text.push('\n');
        self.write(name, text.as_bytes())
    }
    /// Appends a line.
    pub fn append(&self, name: &str, line: &str) -> Result<()> {
        let path = self.file(name);
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io(&path))?;
        file.write_all(format!("{line}\n").as_bytes()).map_err(Error::io(&path))
    }
    /// Appends scalars to TensorBoard's event file.
    pub(super) fn append_events(&self, step: u32, scalars: &[(String, f64)]) -> Result<()> {
        let path = self.file("events.out.tfevents.epi-engine");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        let mut bytes = if path.exists() { Vec::new() } else { events::header(now) };
        bytes.extend(events::scalars(now, step, scalars));
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io(&path))?;
        file.write_all(&bytes).map_err(Error::io(&path))
    }
    /// Keeps the lines of a `metrics.jsonl` up to `step`: what came later is about to be made again. A last line cut short
    /// by a crash goes too.
    pub fn cut_metrics(&self, step: u32) -> Result<()> {
        let name = "metrics.jsonl";
        if !self.file(name).exists() {
            return Ok(());
        }
        let keeps = |line: &&str| {
            serde_json::from_str::<serde_json::Value>(line)
                .ok()
                .and_then(|v| v.get("step")?.as_u64())
                .is_some_and(|s| s <= u64::from(step))
        };
        let text = self.read_text(name)?;
        let kept: String = text.lines().filter(keeps).flat_map(|l| [l, "\n"]).collect();
        self.write(name, kept.as_bytes())
    }
    /// Refuses a second process on the same run; held as long as the returned file lives.
    pub fn lock(&self) -> Result<File> {
        let path = self.file(".lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(Error::io(&path))?;
        file.try_lock().map_err(|_| {
            Error::config("--out", format!("{} is in use by another epi-engine process", self.path.display()))
        })?;
        Ok(file)
    }
}
