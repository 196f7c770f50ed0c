//! What a person sees of a run while it goes on.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::ProgressBar;

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

/// Bars on a terminal; lines of evaluations on stderr and in `log.txt` everywhere.
pub struct Watch<'a> {
    out: &'a Output,
    folder: Option<&'a RunFolder>,
    training: Option<ProgressBar>,
    scoring: Option<(String, ProgressBar)>,
}

impl<'a> Watch<'a> {
    /// Watches a run whose log is kept in `folder`.
    pub fn new(out: &'a Output, folder: Option<&'a RunFolder>) -> Self {
        Watch { out, folder, training: None, scoring: None }
    }
    /// A line on stderr, above the bars, and in the log.
    pub fn log(&self, line: &str) -> Result<()> {
        match &self.training {
            Some(bar) if !bar.is_hidden() => bar.println(line),
            _ => self.out.note(line),
        }
        self.folder.map_or(Ok(()), |folder| folder.append("log.txt", line))
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
        let bar = self.training.get_or_insert_with(|| self.out.progress(u64::from(p.steps), "steps"));
        bar.set_position(u64::from(p.step));
        let loss = p.loss.map_or(String::new(), |loss| format!("  loss {loss:.4}"));
        let phase = p.phase.map_or(String::new(), |name| format!("{name}, "));
        bar.set_message(format!("{phase}epoch {}{loss}  {:.1} samples/s", p.epoch, p.samples_per_s));
    }
    fn say(&mut self, line: &str) {
        // A log on a full disk must not end a training that can still go on.
        if let Err(error) = self.log(line) {
            self.out.warn(error.to_string());
        }
    }
    fn scoring(&mut self, part: &str, done: u64, total: u64) {
        if self.scoring.as_ref().is_none_or(|(name, _)| name != part) {
            let bar = self.out.progress(total, "samples");
            bar.set_message(format!("scoring {part}"));
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
        INTERRUPTED.load(Ordering::SeqCst)
    }
}
