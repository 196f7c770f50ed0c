//! Results on stdout (text, or one JSON document with `--json`), progress and remarks on stderr.

use std::io::{Error, ErrorKind, IsTerminal, Write};
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// Where a command says things.
#[derive(Clone, Copy, Debug, Default)]
pub struct Output {
    /// One JSON document on stdout instead of text.
    pub json: bool,
}

/// The first failure to write a result; the program reports it at its end.
static LOST: Mutex<Option<Error>> = Mutex::new(None);

/// What kept a result from reaching stdout (a full disk), if anything did.
pub fn lost() -> Option<Error> {
    LOST.lock().expect("nothing panics while it is held").take()
}

fn result(text: &str) {
    if let Err(error) = writeln!(std::io::stdout(), "{text}")
        && error.kind() != ErrorKind::BrokenPipe
    {
        LOST.lock().expect("nothing panics while it is held").get_or_insert(error);
    }
}

/// Where bars are drawn: nowhere when stderr is not a terminal.
pub(super) fn target() -> ProgressDrawTarget {
    if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
}

impl Output {
    /// A line of the result, on stdout; nothing with `--json`. A closed pipe ends the output quietly.
    pub fn line(&self, text: impl AsRef<str>) {
        if !self.json {
            result(text.as_ref());
        }
    }
    /// The whole result as JSON, on stdout; nothing without `--json`.
    pub fn document(&self, value: &impl Serialize) {
        if self.json {
            result(&serde_json::to_string_pretty(value).expect("results are JSON types"));
        }
    }
    /// A remark for people, on stderr.
    pub fn note(&self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr(), "{}", text.as_ref());
    }
    /// Something that deserves attention, on stderr.
    pub fn warn(&self, text: impl AsRef<str>) {
        self.note(format!("warning: {}", text.as_ref()));
    }
    /// A progress bar of `total` `unit`s with rate and time left; silent when stderr is not a terminal.
    pub fn progress(&self, total: u64, unit: &str) -> ProgressBar {
        if !std::io::stderr().is_terminal() {
            return ProgressBar::with_draw_target(Some(total), target());
        }
        let template =
            format!("{{msg}} {{wide_bar:.cyan/dim}} {{human_pos}}/{{human_len}} {unit}  {{per_sec}}  {{eta}} left");
        let style = ProgressStyle::with_template(&template).expect("the template is constant");
        ProgressBar::new(total).with_style(style)
    }
}
