//! Tables: for people in the page, for programs as TSV.

use std::fmt::Write;

use super::format::{NONE, escape, thousands, with_interval};
use super::marks::Estimate;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// Sentences, which may take several lines.
    Words,
    Count,
    /// A value and its interval: three columns of the TSV.
    Score,
}

/// A field.
#[derive(Clone, Debug)]
pub enum Cell {
    Text(String),
    Count(u64),
    Score(Estimate),
    /// A score that is not of all runs, and of which it is.
    Partial(Estimate, String),
    /// Words in the place of a number.
    Note(String),
    /// The name of a protocol that leaks.
    Leaky(String),
}

impl Cell {
    /// A text field.
    pub fn text(text: impl Into<String>) -> Cell {
        Cell::Text(text.into())
    }
    /// A protocol, stamped when it leaks.
    pub fn protocol(name: &str, leaky: bool) -> Cell {
        if leaky { Cell::Leaky(name.into()) } else { Cell::Text(name.into()) }
    }
    /// A value without an interval.
    pub fn value(value: Option<f64>) -> Cell {
        Cell::Score((value, None))
    }
    /// A count, or nothing.
    pub fn count(n: Option<usize>) -> Cell {
        n.map_or(Cell::Note(String::new()), |n| Cell::Count(n as u64))
    }
}

/// A table with a caption and footnotes.
#[derive(Clone, Debug)]
pub struct Table {
    /// Id in the page, and name of its file.
    pub id: String,
    pub caption: String,
    /// Head and kind of every column.
    pub columns: Vec<(String, Kind)>,
    pub rows: Vec<Vec<Cell>>,
    /// What must be known to read it.
    pub notes: Vec<String>,
    /// The protocol of all rows and whether it leaks; the TSV gets it as a last column.
    pub split: Option<(String, bool)>,
}

impl Table {
    /// An empty table.
    pub fn new(id: &str, caption: &str, columns: &[(&str, Kind)]) -> Table {
        Table {
            id: id.into(),
            caption: caption.into(),
            columns: columns.iter().map(|(name, kind)| (name.to_string(), *kind)).collect(),
            rows: Vec::new(),
            notes: Vec::new(),
            split: None,
        }
    }
    /// Adds a row, which has a field for every column.
    pub fn row(&mut self, cells: Vec<Cell>) {
        assert_eq!(cells.len(), self.columns.len(), "a field for every column of {}", self.id);
        self.rows.push(cells);
    }
    /// The whole numbers and scores at full precision, notes in the first column of theirs.
    pub fn tsv(&self) -> String {
        let mut text = String::new();
        let field = |s: &str| s.replace(['\t', '\n', '\r'], " ");
        let mut names: Vec<String> = Vec::new();
        for (name, kind) in &self.columns {
            let name = field(name);
            match kind {
                Kind::Score => names.extend([name.clone(), format!("{name}_low"), format!("{name}_high")]),
                _ => names.push(name),
            }
        }
        names.extend(self.split.iter().map(|_| "split".to_string()));
        let _ = writeln!(text, "{}", names.join("\t"));
        let number = |v: Option<f64>| v.map_or(String::new(), |v| format!("{v}"));
        for row in &self.rows {
            let mut fields: Vec<String> = Vec::new();
            for (cell, (_, kind)) in row.iter().zip(&self.columns) {
                let first = match cell {
                    Cell::Text(text) | Cell::Note(text) => field(text),
                    Cell::Leaky(name) => format!("{}:LEAKY", field(name)),
                    Cell::Count(n) => n.to_string(),
                    Cell::Score((value, _)) | Cell::Partial((value, _), _) => number(*value),
                };
                fields.push(first);
                if *kind == Kind::Score {
                    let interval = match cell {
                        Cell::Score((_, interval)) | Cell::Partial((_, interval), _) => *interval,
                        _ => None,
                    };
                    fields.extend([number(interval.map(|i| i.low)), number(interval.map(|i| i.high))]);
                }
            }
            fields.extend(self.split.iter().map(|(name, leaky)| {
                let stamp = if *leaky { ":LEAKY" } else { "" };
                format!("{}{stamp}", field(name))
            }));
            let _ = writeln!(text, "{}", fields.join("\t"));
        }
        text
    }
    /// The table in a frame of its own that scrolls where it is too wide.
    pub fn html(&self) -> String {
        let (id, caption) = (escape(&self.id), escape(&self.caption));
        let stamp = self.split.iter().filter(|(_, leaky)| *leaky);
        let stamp: String = stamp.map(|(name, _)| badge(name)).collect();
        let mut out = format!(
            "<div class='table' id='{id}'><div class='scroll' tabindex='0' role='region' aria-labelledby='{id}-caption'>\n\
             <table><caption id='{id}-caption'>{caption}{stamp}</caption>\n<thead><tr>"
        );
        for (name, kind) in &self.columns {
            let class = class_of(*kind);
            let _ = write!(out, "<th scope='col'{class}>{}</th>", escape(name));
        }
        out.push_str("</tr></thead>\n<tbody>\n");
        for row in &self.rows {
            out.push_str("<tr>");
            for (i, (cell, (_, kind))) in row.iter().zip(&self.columns).enumerate() {
                let text = match cell {
                    Cell::Text(text) => escape(text),
                    Cell::Leaky(name) => format!("{} {}", escape(name), badge("")),
                    Cell::Note(text) if text.is_empty() => NONE.to_string(),
                    Cell::Note(text) => format!("<span class='note'>{}</span>", escape(text)),
                    Cell::Count(n) => thousands(*n),
                    Cell::Score((value, interval)) => with_interval(*value, *interval),
                    Cell::Partial((value, interval), of) => {
                        format!("{} <span class='note'>{}</span>", with_interval(*value, *interval), escape(of))
                    }
                };
                let class = class_of(*kind);
                let (tag, scope) = if i == 0 && *kind == Kind::Text { ("th", " scope='row'") } else { ("td", "") };
                let _ = write!(out, "<{tag}{scope}{class}>{text}</{tag}>");
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</tbody></table></div>\n");
        for note in &self.notes {
            let _ = writeln!(out, "<p class='footnote'>{}</p>", escape(note));
        }
        let _ = writeln!(out, "<p class='file'>tables/{id}.tsv</p></div>");
        out
    }
}

fn class_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "",
        Kind::Words => " class='w'",
        Kind::Count | Kind::Score => " class='n'",
    }
}

/// The word LEAKY in a box, with the protocol's name if that is not beside it.
pub fn badge(protocol: &str) -> String {
    let name = if protocol.is_empty() { String::new() } else { format!(": {}", escape(protocol)) };
    format!(" <strong class='leaky'>LEAKY{name}</strong>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Interval;

    #[test]
    fn both_forms_say_the_same_and_the_stamp_is_on_both() {
        let mut table = Table::new("t", "A <table>", &[("line", Kind::Text), ("n", Kind::Count), ("f1", Kind::Score)]);
        let interval = Some(Interval { low: 0.25, high: 0.75 });
        table.row(vec![Cell::text("<b>\tNHEK"), Cell::Count(25_600), Cell::Score((Some(0.5), interval))]);
        table.row(vec![Cell::Leaky("random".into()), Cell::count(None), Cell::Note("no data here".into())]);
        table.split = Some(("paper-code".into(), true));
        assert_eq!(
            table.tsv(),
            "line\tn\tf1\tf1_low\tf1_high\tsplit\n<b> NHEK\t25600\t0.5\t0.25\t0.75\tpaper-code:LEAKY\n\
             random:LEAKY\t\tno data here\t\t\tpaper-code:LEAKY\n"
        );
        let html = table.html();
        for wanted in ["A &lt;table&gt;", "&lt;b&gt;", "25,600", ".500 [.25, .75]", "LEAKY: paper-code", "no data here"]
        {
            assert!(html.contains(wanted), "{wanted} in {html}");
        }
        assert!(!html.contains("<b>"));
    }
}
