//! Folds: groups of rows dealt out in balance, or rows at random within each class.

use super::{Draft, Part, SplitSpec};
use crate::data::{PairTable, Sample, Side};
use crate::rng::{Stream, stream};
use crate::{Error, Result};
use std::collections::{BTreeSet, HashMap};

/// The group of each row's enhancer and of its promoter (the same one unless a row joins two chromosomes).
pub(super) struct Groups {
    /// What one group is called in messages.
    noun: &'static str,
    of: Vec<[u32; 2]>,
    /// Names by group, when groups have names that a user can hold out.
    names: Option<Vec<String>>,
}

impl Groups {
    pub(super) fn unnamed(noun: &'static str, of: Vec<u32>) -> Self {
        Groups { noun, of: of.into_iter().map(|g| [g, g]).collect(), names: None }
    }
    pub(super) fn chromosomes(table: &PairTable, rows: &[u32]) -> Result<Self> {
        let contig = |side, row: u32| table.element(side, row as usize).contig;
        let of = rows.iter().map(|&r| Some([contig(Side::Enhancer, r)?, contig(Side::Promoter, r)?]));
        let of: Option<Vec<_>> = of.collect();
        let of = of.ok_or_else(|| {
            let message = "`chromosome` needs coordinates and some pairs have none: give them with `prepare --pairs TABLE` (one row \
                 per pair, in order), or ask for `--split component`, which then groups by sequence identity";
            Error::config("split.kind", message)
        })?;
        Ok(Groups { noun: "chromosome", of, names: Some(table.contigs.clone()) })
    }
}

/// Splits by the values of a column: parts when that is what they name, groups otherwise.
pub(super) fn by_column(table: &PairTable, rows: &[u32], spec: &SplitSpec, name: &str) -> Result<Draft> {
    let column = table.columns.get(name).ok_or_else(|| {
        let known: Vec<&str> = table.columns.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "there are none".into() } else { format!("there are {}", known.join(", ")) };
        Error::config("split.kind", format!("the data have no column `{name}`; {known}"))
    })?;
    let part = |value: &str| match value.to_ascii_lowercase().as_str() {
        "train" | "training" => Some(Part::Train),
        "val" | "valid" | "validation" | "dev" => Some(Part::Validation),
        "test" => Some(Part::Test),
        _ => None,
    };
    let codes: Vec<u32> = rows.iter().map(|&r| column.codes[r as usize]).collect();
    let used: BTreeSet<u32> = codes.iter().copied().collect();
    let parts: Option<HashMap<u32, Part>> =
        used.iter().map(|&c| Some((c, part(&column.values[c as usize])?))).collect();
    match parts {
        Some(parts) if spec.test.is_empty() => Ok(Draft {
            fold: 0,
            folds: 1,
            samples: rows.iter().zip(&codes).map(|(&r, code)| (parts[code], table.sample(r as usize))).collect(),
            warnings: Vec::new(),
            held_out: vec![format!("{name} = test")],
        }),
        _ => {
            let of = codes.into_iter().map(|c| [c, c]).collect();
            by_groups(table, rows, spec, Groups { noun: "column value", of, names: Some(column.values.clone()) })
        }
    }
}

/// Splits by groups: named ones where the specification names some, otherwise folds balanced by positives.
pub(super) fn by_groups(table: &PairTable, rows: &[u32], spec: &SplitSpec, groups: Groups) -> Result<Draft> {
    let mut tally: Vec<Tally> = Vec::new();
    for (&row, &[group, _]) in rows.iter().zip(&groups.of) {
        if tally.len() <= group as usize {
            tally.resize(group as usize + 1, Tally::default());
        }
        tally[group as usize].rows += 1;
        tally[group as usize].positives += u64::from(table.rows[row as usize].label);
    }
    let mut warnings = Vec::new();
    // Groups that only promoters use have no tally, but they need a part too.
    let all: BTreeSet<u32> = groups.of.iter().flatten().copied().collect();
    tally.resize(all.last().map_or(0, |&g| g as usize + 1), Tally::default());
    let positives: u64 = tally.iter().map(|t| t.positives).sum();
    for &group in &all {
        let share = tally[group as usize].positives as f64 / positives.max(1) as f64;
        if share > 0.4 {
            let name = groups.names.as_ref().map_or(format!("one {}", groups.noun), |n| n[group as usize].clone());
            warnings.push(format!("{name} holds {:.0} % of the positives: folds cannot be balanced", 100.0 * share));
        }
    }
    let (fold, folds, parts) = if spec.test.is_empty() {
        if !spec.validation.is_empty() {
            return Err(Error::config(
                "split.validation",
                "named groups to validate on need named groups in split.test",
            ));
        }
        let folds = spec.folds().min(all.len() as u32);
        if folds < 2 {
            let message = format!("one {} cannot be divided: use another split", groups.noun);
            return Err(Error::config("split.kind", message));
        }
        if folds < spec.folds() {
            warnings.push(format!("{folds} folds instead of {}: there are no more {}s", spec.folds(), groups.noun));
        }
        if spec.fold >= folds {
            let message =
                format!("there is no fold {}: {} {}s make folds 0 to {}", spec.fold, all.len(), groups.noun, folds - 1);
            return Err(Error::config("--fold", message));
        }
        let of_group = balanced(&tally, &all, folds, spec.seed);
        (spec.fold, folds, of_group.into_iter().map(|f| Part::of_fold(f, spec.fold, folds)).collect())
    } else {
        (0, 1, named(spec, &groups, &tally, &all)?)
    };
    let mut straddling = 0;
    let mut samples = Vec::with_capacity(rows.len());
    for (&row, &[e, p]) in rows.iter().zip(&groups.of) {
        let (part, other): (Part, Part) = (parts[e as usize], parts[p as usize]);
        if part == other {
            samples.push((part, table.sample(row as usize)));
        } else {
            straddling += 1;
        }
    }
    if straddling > 0 {
        warnings.push(format!("{straddling} pairs that join two parts (their elements lie in both) are left out"));
    }
    let held_out = all.iter().filter(|&&g| parts[g as usize] == Part::Test);
    let held_out = held_out.filter_map(|&g| Some(groups.names.as_ref()?[g as usize].clone())).collect();
    Ok(Draft { fold, folds, samples, warnings, held_out })
}

/// Parts by group when the user names them; without named validation groups a fifth of the others validates.
fn named(spec: &SplitSpec, groups: &Groups, tally: &[Tally], all: &BTreeSet<u32>) -> Result<Vec<Part>> {
    let names = groups.names.as_ref().ok_or_else(|| {
        let message = format!("a {} has no name to hold out: use `--fold I/K`", groups.noun);
        Error::config("split.test", message)
    })?;
    let bare = |name: &str| name.strip_prefix("chr").unwrap_or(name).to_string();
    let mut parts = vec![Part::Train; tally.len()];
    for (option, wanted, part) in
        [("split.validation", &spec.validation, Part::Validation), ("split.test", &spec.test, Part::Test)]
    {
        for name in wanted {
            let mut found = all.iter().filter(|&&g| bare(&names[g as usize]) == bare(name)).peekable();
            if found.peek().is_none() {
                let known: Vec<&str> = all.iter().map(|&g| names[g as usize].as_str()).collect();
                let message = format!("no {} is called `{name}`; there are {}", groups.noun, known.join(", "));
                return Err(Error::config(option, message));
            }
            for &group in found {
                if parts[group as usize] == Part::Validation && part == Part::Test {
                    return Err(Error::config("split.test", format!("`{name}` is named for validation too")));
                }
                parts[group as usize] = part;
            }
        }
    }
    let rest: BTreeSet<u32> = all.iter().copied().filter(|&g| parts[g as usize] == Part::Train).collect();
    if spec.validation.is_empty() && rest.len() > 1 {
        let fold = balanced(tally, &rest, (rest.len() as u32).min(5), spec.seed);
        rest.iter().filter(|&&g| fold[g as usize] == 0).for_each(|&g| parts[g as usize] = Part::Validation);
    }
    Ok(parts)
}

#[derive(Clone, Copy, Default)]
struct Tally {
    rows: u64,
    positives: u64,
}

/// Deals groups to folds, largest first, each to the fold with the fewest positives (rows, once none has positives).
/// Equal groups come in an order keyed by `seed`. Entries of groups that are not in `all` mean nothing.
fn balanced(tally: &[Tally], all: &BTreeSet<u32>, folds: u32, seed: u64) -> Vec<u32> {
    let mut numbers = Stream::new(seed, stream::SPLIT, 0);
    let mut order: Vec<(Tally, u32, u32)> = all.iter().map(|&g| (tally[g as usize], numbers.next_u32(), g)).collect();
    order.sort_by_key(|&(t, key, group)| (std::cmp::Reverse((t.positives, t.rows)), key, group));
    let mut filled = vec![Tally::default(); folds as usize];
    let mut fold_of = vec![0; tally.len()];
    for (group_tally, _, group) in order {
        let load = |f: &Tally| if group_tally.positives > 0 { (f.positives, f.rows) } else { (f.rows, f.positives) };
        let fold = (0..folds as usize).min_by_key(|&f| load(&filled[f])).unwrap_or(0);
        filled[fold].rows += group_tally.rows;
        filled[fold].positives += group_tally.positives;
        fold_of[group as usize] = fold as u32;
    }
    fold_of
}

/// Folds of single samples, stratified by label, in an order keyed by the seed.
pub(super) fn at_random(samples: Vec<Sample>, spec: &SplitSpec) -> Draft {
    let folds = spec.folds().max(1);
    let mut numbers = Stream::new(spec.seed, stream::SPLIT, 0);
    let mut fold_of = vec![0; samples.len()];
    let mut dealt = 0;
    for label in [1, 0] {
        let mut class: Vec<usize> = (0..samples.len()).filter(|&i| samples[i].label == label).collect();
        numbers.shuffle(&mut class);
        for i in class {
            fold_of[i] = dealt % folds;
            dealt += 1;
        }
    }
    let parts = fold_of.into_iter().map(|f| Part::of_fold(f, spec.fold, folds));
    let samples = parts.zip(samples).collect();
    Draft { fold: spec.fold, folds, samples, warnings: Vec::new(), held_out: Vec::new() }
}
