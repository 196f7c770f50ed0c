//! Compiler runs: skipped when nothing changed, in parallel otherwise.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One compiler run that turns `inputs` into `output`; what it prints is kept beside it as `output`.log.
pub struct Job {
    pub command: Command,
    pub inputs: Vec<PathBuf>,
    pub output: PathBuf,
    /// Done to the output after the run.
    pub finish: Option<fn(&Path) -> Result<(), String>>,
}

impl Job {
    /// Where the messages of the last run are.
    pub fn log(output: &Path) -> PathBuf {
        output.with_extension("log")
    }

    fn fingerprint(&self) -> Result<String, String> {
        let mut hasher = DefaultHasher::new();
        format!("{:?}", self.command).hash(&mut hasher);
        include_str!("emulator.rs").hash(&mut hasher); // how outputs are finished
        for path in &self.inputs {
            std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?.hash(&mut hasher);
        }
        Ok(format!("{:016x}", hasher.finish()))
    }

    fn run(&mut self) -> Result<(), String> {
        let stamp = self.output.with_extension("fingerprint");
        let fingerprint = self.fingerprint()?;
        if self.output.exists() && std::fs::read_to_string(&stamp).is_ok_and(|old| old == fingerprint) {
            return Ok(());
        }
        let out = self.command.output().map_err(|e| format!("{:?}: {e}", self.command.get_program()))?;
        let text = [&out.stdout[..], &out.stderr[..]].concat();
        if !out.status.success() {
            let _ = std::fs::remove_file(&stamp);
            return Err(format!("{:?}\n{}", self.command, String::from_utf8_lossy(&text)));
        }
        if let Some(finish) = self.finish {
            finish(&self.output)?;
        }
        write(&Job::log(&self.output), &text)?;
        write(&stamp, fingerprint.as_bytes())
    }
}

/// Runs all jobs, as many at once as cargo allows; the errors of all that fail are joined.
pub fn run(jobs: Vec<Job>) -> Result<(), String> {
    let slots = std::env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize);
    let jobs: Vec<Mutex<Job>> = jobs.into_iter().map(Mutex::new).collect();
    let (next, errors) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..slots.clamp(1, jobs.len().max(1)) {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(message) = job.lock().expect("one thread a job").run() {
                        errors.lock().expect("no panic").push(message);
                    }
                }
            });
        }
    });
    let errors = errors.into_inner().expect("no panic");
    if errors.is_empty() { Ok(()) } else { Err(errors.join("\n")) }
}

/// Writes a file unless it already has this content, so that nothing is rebuilt for nothing.
pub fn write(path: &Path, content: &[u8]) -> Result<(), String> {
    if std::fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let parent = path.parent().expect("a file in OUT_DIR");
    std::fs::create_dir_all(parent)
        .and_then(|()| std::fs::write(path, content))
        .map_err(|e| format!("{}: {e}", path.display()))
}

/// Shows the lines of a compiler's log that `wanted` selects as warnings of the build.
pub fn warn(output: &Path, wanted: impl Fn(&str) -> bool) {
    let log = std::fs::read_to_string(Job::log(output)).unwrap_or_default();
    for line in log.lines().filter(|line| wanted(line)) {
        println!("cargo::warning={line}");
    }
}
