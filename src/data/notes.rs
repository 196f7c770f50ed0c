//! Counted warnings: what was dropped or doubtful while reading, how often, and where it began.

use serde_json::{Value, json};

/// Warnings by kind, in order of first appearance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes(Vec<Note>);

/// One kind of warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub what: String,
    pub count: u64,
    /// File and line of the first case.
    pub first: String,
}

impl Notes {
    /// Counts one more case of `what`, first seen at `place`.
    pub fn add(&mut self, what: &str, place: impl FnOnce() -> String) {
        match self.0.iter_mut().find(|note| note.what == what) {
            Some(note) => note.count += 1,
            None => self.0.push(Note { what: what.to_string(), count: 1, first: place() }),
        }
    }
    /// Appends those of another reader.
    pub fn extend(&mut self, other: Notes) {
        self.0.extend(other.0);
    }
    /// All kinds.
    pub fn iter(&self) -> impl Iterator<Item = &Note> {
        self.0.iter()
    }
    /// Cases of one kind.
    pub fn count(&self, what: &str) -> u64 {
        self.0.iter().filter(|note| note.what == what).map(|note| note.count).sum()
    }
    /// `[{what, count, first}]`
    pub fn to_json(&self) -> Value {
        self.0.iter().map(|n| json!({"what": n.what, "count": n.count, "first": n.first})).collect()
    }
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} x {} (first: {})", self.count, self.what, self.first)
    }
}
