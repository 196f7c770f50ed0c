//! Which pairs train, which validate, which test: every protocol of `docs/protocols.md`.
//!
//! Splitting comes before augmentation, except in `paper-text` and `paper-code`, which are named after that mistake and
//! are LEAKY like `random`.

mod cross_cell;
mod fold;
mod loci;
mod mt19937;
mod paper;

pub use loci::{Identity, Shared, Units, components, shared};
pub use mt19937::LegacyRandom;
pub use paper::{PaperCounts, paper_counts};

use super::{PairTable, Sample, Side};
use crate::config::SplitConfig;
use crate::{Error, Result};
use std::{fmt, str::FromStr};

/// How pairs are divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SplitKind {
    /// Whole chromosomes, balanced by positives; or named ones.
    Chromosome,
    /// The values of a column of the table: parts when they are called train, validation and test, otherwise groups.
    Column(String),
    /// Connected components of elements whose padded windows overlap or that share a pair.
    Component,
    /// Train on some cell lines, test on another; loci that the test rows use are removed from training.
    CrossCell {
        /// The test line is scored on chromosomes that training never saw.
        unseen_chromosomes: bool,
    },
    /// Rows of one promoter stay together. Enhancers are shared between the parts.
    Promoter,
    /// Rows of one enhancer stay together. Promoters are shared between the parts.
    Enhancer,
    /// Pairs at random, stratified by label (SPEID's). LEAKY.
    Random,
    /// Twenty shifted copies of each positive, then pairs at random (the seed report's text). LEAKY.
    PaperText,
    /// Enhancers and promoters of positives drawn independently, then pairs at random (EPSAT's program). LEAKY.
    PaperCode,
}

impl SplitKind {
    /// Whether test rows, or elements of theirs, are known to training by design.
    pub fn leaky(&self) -> bool {
        matches!(self, Self::Random | Self::PaperText | Self::PaperCode)
    }
    /// Whether the held-out part is a tenth of all rows unless another number of folds is asked for.
    fn tenths(&self) -> bool {
        self.leaky()
    }
}

impl fmt::Display for SplitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chromosome => "chromosome",
            Self::Column(name) => return write!(f, "column:{name}"),
            Self::Component => "component",
            Self::CrossCell { unseen_chromosomes: false } => "cross-cell",
            Self::CrossCell { unseen_chromosomes: true } => "cross-cell:chromosome",
            Self::Promoter => "promoter",
            Self::Enhancer => "enhancer",
            Self::Random => "random",
            Self::PaperText => "paper-text",
            Self::PaperCode => "paper-code",
        })
    }
}

impl FromStr for SplitKind {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "chromosome" => Self::Chromosome,
            "component" => Self::Component,
            "cross-cell" => Self::CrossCell { unseen_chromosomes: false },
            "cross-cell:chromosome" => Self::CrossCell { unseen_chromosomes: true },
            "promoter" => Self::Promoter,
            "enhancer" => Self::Enhancer,
            "random" => Self::Random,
            "paper-text" => Self::PaperText,
            "paper-code" => Self::PaperCode,
            _ => match name.strip_prefix("column:") {
                Some(column) if !column.is_empty() => Self::Column(column.into()),
                _ => return Err(Error::config("split.kind", unknown_kind(name))),
            },
        })
    }
}

fn unknown_kind(name: &str) -> String {
    format!(
        "no split is called `{name}`; choose chromosome, column:NAME, component, cross-cell, cross-cell:chromosome, \
         promoter, enhancer, or one of the leaky ones: random, paper-text, paper-code"
    )
}

/// A split as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitSpec {
    pub kind: SplitKind,
    /// The fold that is tested, from 0; the next one validates.
    pub fold: u32,
    /// Number of folds. By default 5; 10 for the leaky protocols (a tenth is held out); one per line for `cross-cell`.
    pub folds: Option<u32>,
    /// Groups (chromosomes, column values, cell lines) to test on, instead of a numbered fold.
    pub test: Vec<String>,
    /// Groups to validate on; only together with `test`.
    pub validation: Vec<String>,
    /// Largest shift of augmentation in bases: windows are padded by it on both sides before they are compared, and
    /// `paper-text` moves its copies by as much.
    pub shift: u32,
    pub seed: u64,
}

impl SplitSpec {
    /// Fold 0 of the default number of folds, windows padded by 100 bases.
    pub fn new(kind: SplitKind) -> Self {
        SplitSpec { kind, fold: 0, folds: None, test: Vec::new(), validation: Vec::new(), shift: 100, seed: 0 }
    }
    /// What `[split]` of a configuration asks for; `shift` is the largest shift of `[data]`. Windows are
    /// padded by at least 100 bases, so that a run with augmentation and one without are split alike.
    ///
    /// # Errors
    /// [`Error::Config`] for a kind that does not exist.
    pub fn from_config(config: &SplitConfig, shift: u32) -> Result<Self> {
        Ok(SplitSpec {
            kind: config.kind.parse()?,
            fold: config.fold,
            folds: config.folds,
            test: config.test.clone(),
            validation: config.validation.clone(),
            shift: shift.max(100),
            seed: config.seed,
        })
    }
    /// The number of folds, before it is cut to the number of groups.
    pub fn folds(&self) -> u32 {
        self.folds.unwrap_or(if self.kind.tenths() { 10 } else { 5 })
    }
}

/// Who trains, validates and tests.
#[derive(Clone, Debug)]
pub struct Split {
    pub kind: SplitKind,
    /// The tested fold and the number of folds in use (fewer than asked for when there are fewer groups).
    pub fold: u32,
    pub folds: u32,
    pub train: Vec<Sample>,
    pub validation: Vec<Sample>,
    pub test: Vec<Sample>,
    /// Everything that a run with this split writes carries the word LEAKY.
    pub leaky: bool,
    /// What the training and validation parts know of the test rows.
    pub shared: Shared,
    /// What the user should know before believing a figure.
    pub warnings: Vec<String>,
    /// One line: protocol, fold, sizes, held-out groups.
    pub description: String,
}

/// Part of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Train,
    Validation,
    Test,
}

impl Part {
    /// The part of fold `fold` when `tested` of `folds` is tested: with two folds nothing is left to validate on.
    fn of_fold(fold: u32, tested: u32, folds: u32) -> Part {
        match fold {
            f if f == tested => Part::Test,
            f if folds > 2 && f == (tested + 1) % folds => Part::Validation,
            _ => Part::Train,
        }
    }
}

/// What a protocol decided, before it is checked and described.
struct Draft {
    fold: u32,
    folds: u32,
    samples: Vec<(Part, Sample)>,
    warnings: Vec<String>,
    /// Names of what is held out, for the description.
    held_out: Vec<String>,
}

/// Divides the rows `rows` of `table` (all rows: `0..table.rows.len()`).
///
/// `identity` tells which elements without coordinates hold the same sequence; without it every element of the table is
/// taken to be another one.
///
/// # Errors
/// [`Error::Config`] when the protocol needs what the table lacks (coordinates, a column, a second line), when a named
/// group does not exist, or when the training or the test part would be empty.
pub fn split(table: &PairTable, rows: &[u32], spec: &SplitSpec, identity: Option<&Identity>) -> Result<Split> {
    if rows.is_empty() {
        return Err(Error::config("split", "there are no pairs to divide"));
    }
    if spec.fold >= spec.folds() && spec.test.is_empty() && !matches!(spec.kind, SplitKind::CrossCell { .. }) {
        return Err(Error::config(
            "--fold",
            format!("folds count from 0: there is no fold {} of {}", spec.fold, spec.folds()),
        ));
    }
    let samples = || -> Vec<Sample> { rows.iter().map(|&r| table.sample(r as usize)).collect() };
    let draft = match &spec.kind {
        SplitKind::Chromosome => fold::by_groups(table, rows, spec, fold::Groups::chromosomes(table, rows)?)?,
        SplitKind::Column(name) => fold::by_column(table, rows, spec, name)?,
        SplitKind::Component => {
            let of = components(table, &samples(), spec.shift.into(), identity);
            fold::by_groups(table, rows, spec, fold::Groups::unnamed("component", of))?
        }
        SplitKind::Promoter | SplitKind::Enhancer => {
            let side = if spec.kind == SplitKind::Promoter { Side::Promoter } else { Side::Enhancer };
            let of = samples().iter().map(|s| s.element(side)).collect();
            fold::by_groups(table, rows, spec, fold::Groups::unnamed(side_name(side), of))?
        }
        SplitKind::CrossCell { unseen_chromosomes } => {
            cross_cell::draft(table, rows, spec, *unseen_chromosomes, identity)?
        }
        SplitKind::Random => fold::at_random(samples(), spec),
        SplitKind::PaperText => paper::text(table, rows, spec),
        SplitKind::PaperCode => paper::code(table, rows, spec),
    };
    finish(table, spec, draft)
}

fn side_name(side: Side) -> &'static str {
    match side {
        Side::Enhancer => "enhancer",
        Side::Promoter => "promoter",
    }
}

/// Sorts samples into parts, refuses empty ones, counts what leaks and writes the description.
fn finish(table: &PairTable, spec: &SplitSpec, draft: Draft) -> Result<Split> {
    let Draft { fold, folds, samples, mut warnings, held_out } = draft;
    // The released program has two parts: what is held out both chooses and tests.
    let two_parts = matches!(spec.kind, SplitKind::PaperText | SplitKind::PaperCode);
    let part = |wanted: &[Part]| -> Vec<Sample> {
        samples.iter().filter(|(part, _)| wanted.contains(part)).map(|&(_, sample)| sample).collect()
    };
    let test = part(&[Part::Test]);
    let (train, validation) = if two_parts {
        warnings.push("the held-out tenth is validation and test at once, as in the released program".into());
        (part(&[Part::Train, Part::Validation]), test.clone())
    } else {
        (part(&[Part::Train]), part(&[Part::Validation]))
    };
    for (name, part) in [("training", &train), ("test", &test)] {
        if part.is_empty() {
            let remedy = "hold out other groups, ask for fewer folds, or add pairs";
            return Err(Error::config("split", format!("the {name} part of `{}` is empty; {remedy}", spec.kind)));
        }
    }
    if validation.is_empty() {
        warnings
            .push("nothing is left to validate on: calls use the threshold 0.5, training has no early stopping".into());
    }
    for (name, part) in [("training", &train), ("validation", &validation), ("test", &test)] {
        if !part.is_empty() && positives(part) == 0 {
            warnings.push(format!("the {name} part has no positive among its {} pairs", part.len()));
        }
    }
    let known: Vec<Sample> = train.iter().chain(validation.iter().filter(|_| !two_parts)).copied().collect();
    let shared = shared(table, &known, &test, spec.shift.into());
    if spec.kind.leaky() {
        warnings.push(format!("LEAKY: `{}` scores what training has seen; {shared}", spec.kind));
    } else if shared.windows > 0 {
        warnings.push(format!("`{}` leaves a leak: {shared}", spec.kind));
    }
    let size = |part: &[Sample]| format!("{} pairs ({} positive)", part.len(), positives(part));
    let description = format!(
        "{}{}, fold {fold} of {folds}: train {}, validation {}, test {}{}",
        spec.kind,
        if spec.kind.leaky() { " (LEAKY)" } else { "" },
        size(&train),
        size(&validation),
        size(&test),
        if held_out.is_empty() { String::new() } else { format!(" on {}", held_out.join(", ")) },
    );
    let leaky = spec.kind.leaky();
    Ok(Split { kind: spec.kind.clone(), fold, folds, train, validation, test, leaky, shared, warnings, description })
}

fn positives(samples: &[Sample]) -> usize {
    samples.iter().filter(|s| s.label == 1).count()
}
