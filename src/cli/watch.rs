//! What a person sees of a run while it goes on.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{MultiProgress, ProgressBar};

use super::Output;
use crate::error::Result;
use crate::train::{Observer, Progress, RunFolder};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes Ctrl-C and SIGTERM ask for "save and stop"; a second one ends the program at once.
pub fn catch_interrupts() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        // Without a handler (it can be taken by an embedding program) Ctrl-C ends the run; the last checkpoint remains.
        let _ = ctrlc::set_handler(|| {
            if INTERRUPTED.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            eprintln!("\nstopping after this step (again to stop at once)");
        });
    });
}

/// Whether someone asked to stop.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Bars on a terminal; lines of evaluations on stderr and in `log.txt` everywhere.
pub struct Watch<'a> {
    out: &'a Output,
    folder: Option<&'a RunFolder>,
    /// What this run is called among others, and where all their bars are drawn.
    among: Option<(String, &'a MultiProgress)>,
    training: Option<ProgressBar>,
    scoring: Option<(String, ProgressBar)>,
}

impl<'a> Watch<'a> {
    /// Watches a run whose log is kept in `folder`.
    pub fn new(out: &'a Output, folder: Option<&'a RunFolder>) -> Self {
        Watch { out, folder, among: None, training: None, scoring: None }
    }
    /// Watches a run that goes on beside others: its lines begin with its name, its bars stand with theirs.
    pub fn among(out: &'a Output, folder: &'a RunFolder, name: String, bars: &'a MultiProgress) -> Self {
        Watch { among: Some((name, bars)), ..Watch::new(out, Some(folder)) }
    }
    /// A line on stderr, above the bars, and in the log.
    pub fn log(&self, line: &str) -> Result<()> {
        let named = self.among.as_ref().map_or_else(|| line.to_string(), |(name, _)| format!("{name}: {line}"));
        match &self.training {
            Some(bar) if !bar.is_hidden() => bar.println(named),
            _ => self.out.note(named),
        }
        self.folder.map_or(Ok(()), |folder| folder.append("log.txt", line))
    }
    fn bar(&self, total: u64, unit: &str) -> ProgressBar {
        let bar = self.out.progress(total, unit);
        self.among.as_ref().map_or(bar.clone(), |(_, bars)| bars.add(bar))
    }
    /// The run's name before what a bar says.
    fn prefix(&self) -> String {
        self.among.as_ref().map_or(String::new(), |(name, _)| format!("{name}, "))
    }
    /// Removes the bars.
    pub fn finish(&mut self) {
        for bar in self.training.take().into_iter().chain(self.scoring.take().map(|(_, bar)| bar)) {
            bar.finish_and_clear();
        }
    }
}

impl Observer for Watch<'_> {
    fn step(&mut self, p: &Progress<'_>) {
        if let Some((_, bar)) = self.scoring.take() {
            bar.finish_and_clear();
        }
        if self.training.is_none() {
            self.training = Some(self.bar(u64::from(p.steps), "steps"));
        }
        let Some(bar) = &self.training else { return };
        bar.set_position(u64::from(p.step));
        let loss = p.loss.map_or(String::new(), |loss| format!("  loss {loss:.4}"));
        let phase = p.phase.map_or(String::new(), |name| format!("{name}, "));
        bar.set_message(format!("{}{phase}epoch {}{loss}  {:.1} samples/s", self.prefix(), p.epoch, p.samples_per_s));
    }
    fn say(&mut self, line: &str) {
        // A log on a full disk must not end a training that can still go on.
        if let Err(error) = self.log(line) {
            self.out.warn(error.to_string());
        }
    }
    fn scoring(&mut self, part: &str, done: u64, total: u64) {
        if self.scoring.as_ref().is_none_or(|(name, _)| name != part) {
            let bar = self.bar(total, "samples");
            bar.set_message(format!("{}scoring {part}", self.prefix()));
            self.scoring = Some((part.to_string(), bar));
        }
        if let Some((_, bar)) = &self.scoring {
            bar.set_position(done);
            if done >= total {
                bar.finish_and_clear();
            }
        }
    }
    fn interrupted(&self) -> bool {
        interrupted()
    }
}
