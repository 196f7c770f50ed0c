//! A table of pairs with measurements: TargetFinder's `training.csv.gz`, plain or compressed, or a table in its form.

use std::collections::HashSet;
use std::path::Path;

use super::Columns;
use super::leaks::refusal;
use crate::config::{FeaturesConfig, Regions};
use crate::data::format::crc32;
use crate::data::input::Lines;
use crate::data::pairs::columns::{Field, INTERVALS, Layout};
use crate::data::pairs::rows::{Shape, split};
use crate::data::pairs::{self, Naming};
use crate::data::{Pairs, PairsOptions};
use crate::error::{Error, Result};

/// Window lengths by which pairs of a table without sequence are compared: those of every network.
const WINDOWS: [usize; 2] = [3000, 2000];

/// Pairs and the features of each.
#[derive(Clone, Debug)]
pub struct FeatureTable {
    pub pairs: Pairs,
    /// Names of the features, as in the table's header.
    pub names: Vec<String>,
    /// Their values, `[features][pairs]`.
    pub columns: Columns,
}

/// Which columns of a table are wanted.
enum Wanted<'a> {
    /// Those of a configuration, beside labels.
    Config(&'a FeaturesConfig),
    /// Those that a model knows; labels may be missing.
    Named(&'a [String]),
}

impl FeatureTable {
    /// The table of a configuration.
    ///
    /// # Errors
    /// [`Error::Input`] with file and line for what is no number, no table, cut short, or lacks a column that is needed;
    /// [`Error::Config`] for a feature that is refused or does not exist.
    pub fn read(config: &FeaturesConfig) -> Result<Self> {
        let path = config.path.as_deref().ok_or_else(|| {
            let message = "trees learn from measurements of both elements: give TargetFinder's training.csv.gz, or a table \
                           in its form";
            Error::config("--features", message)
        })?;
        Self::read_wanted(path, &Wanted::Config(config))
    }
    /// A table to be scored by a model that knows the features `names`.
    pub fn read_named(path: &Path, names: &[String]) -> Result<Self> {
        Self::read_wanted(path, &Wanted::Named(names))
    }
    /// Label of each pair.
    pub fn labels(&self) -> Vec<u8> {
        self.pairs.table.rows.iter().map(|r| r.label).collect()
    }
    /// A checksum of pairs, labels and features: equal for equal tables.
    pub fn fingerprint(&self) -> String {
        let mut bytes = Vec::new();
        for name in &self.names {
            bytes.extend(name.as_bytes());
            bytes.push(0);
        }
        let table = &self.pairs.table;
        for element in table.enhancers.iter().chain(&table.promoters) {
            bytes.extend(element.start.to_le_bytes());
            bytes.extend(element.end.to_le_bytes());
            bytes.extend(element.contig.unwrap_or(u32::MAX).to_le_bytes());
        }
        for row in &table.rows {
            bytes.extend(row.enhancer.to_le_bytes());
            bytes.extend(row.promoter.to_le_bytes());
            bytes.push(row.label);
        }
        for feature in 0..self.columns.features() {
            (0..self.columns.rows()).for_each(|row| bytes.extend(self.columns.value(feature, row).to_le_bytes()));
        }
        format!("{:08x}", crc32(&bytes))
    }

    fn read_wanted(path: &Path, wanted: &Wanted) -> Result<Self> {
        let mut lines = Lines::open(path)?;
        let mut header: Option<(Shape, Vec<(usize, String)>)> = None;
        let mut fields = Vec::new();
        let (mut numbers, mut columns): (Vec<u64>, Vec<Vec<f32>>) = (Vec::new(), Vec::new());
        while let Some(text) = lines.next_line()? {
            let text = text.to_string();
            let line = lines.number();
            if text.trim().is_empty() || text.starts_with('#') {
                continue;
            }
            let bad = |message: String| Error::input(path, line, message);
            let Some((shape, chosen)) = &header else {
                let shape = Shape::of(&text);
                split(&text, shape.delimiter, &mut fields).map_err(bad)?;
                let names: Vec<&str> = fields.iter().map(|f| f.trim()).collect();
                let chosen = match wanted {
                    Wanted::Config(config) => {
                        check_header(&names, path, line, true)?;
                        choose(&names, config, path, line)?
                    }
                    Wanted::Named(wanted) => {
                        check_header(&names, path, line, false)?;
                        find(&names, wanted, path, line)?
                    }
                };
                columns = vec![Vec::new(); chosen.len()];
                header = Some((Shape { columns: names.len(), ..shape }, chosen));
                continue;
            };
            split(&text, shape.delimiter, &mut fields).map_err(bad)?;
            if fields.len() != shape.columns {
                return Err(bad(format!("{} columns, but the first line has {}", fields.len(), shape.columns)));
            }
            for ((at, name), column) in chosen.iter().zip(&mut columns) {
                let cell = fields[*at].trim();
                let value = cell.parse::<f32>().ok().filter(|v| v.is_finite());
                column.push(value.ok_or_else(|| bad(format!("`{name}` is `{cell}`, not a finite number")))?);
            }
            numbers.push(line);
        }
        let Some((_, chosen)) = header else {
            return Err(Error::input(path, None, "empty: a table of features has a header and at least one row"));
        };
        let unlabelled = matches!(wanted, Wanted::Named(_));
        let options = PairsOptions { unlabelled, keep_all: unlabelled, ..PairsOptions::default() };
        let mut pairs = pairs::read(path, &options)?;
        [pairs.table.enhancer_length, pairs.table.promoter_length] = WINDOWS;
        // Rows that were dropped (duplicates) have no features either.
        let kept: HashSet<u64> = pairs.lines.iter().copied().collect();
        for column in &mut columns {
            let mut line = numbers.iter();
            column.retain(|_| line.next().is_some_and(|l| kept.contains(l)));
        }
        Ok(FeatureTable {
            pairs,
            names: chosen.into_iter().map(|(_, name)| name).collect(),
            columns: Columns::new(columns),
        })
    }
}

/// Error unless the header names both elements' coordinates, the label where it is needed, and no column twice.
fn check_header(names: &[&str], path: &Path, line: u64, labelled: bool) -> Result<()> {
    let mut seen = HashSet::new();
    if let Some(twice) = names.iter().find(|n| !n.is_empty() && !seen.insert(**n)) {
        return Err(Error::input(path, line, format!("two columns named `{twice}`")));
    }
    let layout = Layout::from_header(names, &Naming::default(), path, line)?;
    let mut missing: Vec<&str> = INTERVALS.iter().flat_map(|fields| layout.missing(fields)).collect();
    if labelled && layout.at(Field::Label).is_none() {
        missing.push("label");
    }
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("no column {}: a table of features has the coordinates of both elements", missing.join(", "));
    Err(Error::input(path, line, message + if labelled { " and the label" } else { "" }))
}

/// The endings of the columns of each region; a region may have several names.
fn endings(regions: Regions) -> &'static [&'static [&'static str]] {
    const E: &[&str] = &[" (enhancer)"];
    const EE: &[&str] = &[" (extended_enhancer)", " (enhancer)"];
    const P: &[&str] = &[" (promoter)"];
    const W: &[&str] = &[" (window)"];
    match regions {
        Regions::Ep => &[E, P],
        Regions::Eep => &[EE, P],
        Regions::Epw => &[E, P, W],
    }
}

/// The columns that a configuration asks for: position and name.
fn choose(names: &[&str], config: &FeaturesConfig, path: &Path, line: u64) -> Result<Vec<(usize, String)>> {
    if let Some((name, why)) = config.include.iter().find_map(|n| Some((n, refusal(n)?))) {
        return Err(Error::config("features.include", format!("`{name}` is never a feature: {why}")));
    }
    let mut regional: Vec<usize> = Vec::new();
    for region in endings(config.regions) {
        let of = |ending: &&str| (0..names.len()).filter(|&i| names[i].ends_with(*ending)).collect::<Vec<_>>();
        let found = region.iter().map(of).find(|found| !found.is_empty()).ok_or_else(|| {
            let message = format!(
                "no column ends in `{}`: the table lacks a region of features.regions (ep = enhancer and promoter, eep = \
                 extended enhancer and promoter, epw = enhancer, promoter and window)",
                region[region.len() - 1]
            );
            Error::input(path, line, message)
        })?;
        regional.extend(found);
    }
    regional.retain(|&i| refusal(names[i]).is_none());
    let factor = |name: &str| name.rsplit_once(" (").map_or(name, |(factor, _)| factor).to_string();
    let matches = |asked: &str, i: usize| names[i] == asked || factor(names[i]) == asked && regional.contains(&i);
    for (option, asked) in [("features.include", &config.include), ("features.exclude", &config.exclude)] {
        if let Some(unknown) = asked.iter().find(|a| !(0..names.len()).any(|i| matches(a, i))) {
            let mut factors: Vec<String> = regional.iter().map(|&i| factor(names[i])).collect();
            factors.sort();
            factors.dedup();
            let message = format!("the table has no `{unknown}`; its factors are {}", factors.join(", "));
            return Err(Error::config(option, message));
        }
    }
    let asked = |list: &[String], i: usize| list.iter().any(|a| matches(a, i));
    let chosen: Vec<(usize, String)> = (0..names.len())
        .filter(|&i| if config.include.is_empty() { regional.contains(&i) } else { asked(&config.include, i) })
        .filter(|&i| !asked(&config.exclude, i))
        .map(|i| (i, names[i].to_string()))
        .collect();
    match chosen.len() {
        0 => Err(Error::config("features.exclude", "no feature is left to learn from")),
        n if n >= usize::from(u16::MAX) => {
            Err(Error::input(path, line, format!("{n} features; trees take fewer than 65,535")))
        }
        _ => Ok(chosen),
    }
}

/// The columns that a model knows, in its order.
fn find(names: &[&str], wanted: &[String], path: &Path, line: u64) -> Result<Vec<(usize, String)>> {
    let at = |name: &String| {
        names
            .iter()
            .position(|n| n == name)
            .map(|at| (at, name.clone()))
            .ok_or_else(|| Error::input(path, line, format!("no column `{name}`, which the model was trained on")))
    };
    wanted.iter().map(at).collect()
}
