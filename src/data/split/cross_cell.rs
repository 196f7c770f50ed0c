//! Cell lines against each other: the same locus in another line is the same sequence, so it may not straddle.

use super::loci::Used;
use super::{Draft, Identity, Part, SplitKind, SplitSpec, components, fold};
use crate::data::{PairTable, Sample};
use crate::{Error, Result};
use std::collections::BTreeSet;

/// Tests on the named lines, or on line number `spec.fold`; trains and validates on the others without the test's loci.
pub(super) fn draft(
    table: &PairTable,
    rows: &[u32],
    spec: &SplitSpec,
    unseen_chromosomes: bool,
    identity: Option<&Identity>,
) -> Result<Draft> {
    let line = |row: u32| table.rows[row as usize].cell_line;
    let lines: BTreeSet<u16> = rows.iter().map(|&r| line(r)).collect();
    let name = |line: &u16| table.cell_lines[*line as usize].as_str();
    let known = || lines.iter().map(name).collect::<Vec<_>>().join(", ");
    if lines.len() < 2 {
        return Err(Error::config("split.kind", format!("cross-cell needs two cell lines; there is only {}", known())));
    }
    let tested: BTreeSet<u16> = if spec.test.is_empty() {
        let at = lines.iter().nth(spec.fold as usize).filter(|_| spec.folds.is_none_or(|k| k as usize == lines.len()));
        let message = || format!("cross-cell has one fold per line: 0/{0} to {1}/{0}", lines.len(), lines.len() - 1);
        [*at.ok_or_else(|| Error::config("--fold", message()))?].into()
    } else {
        let find = |wanted: &String| lines.iter().copied().find(|l| name(l) == wanted);
        let message = |wanted| format!("no cell line is called `{wanted}`; there are {}", known());
        let each = spec.test.iter().map(|w| find(w).ok_or_else(|| Error::config("split.test", message(w))));
        each.collect::<Result<_>>()?
    };
    let (test_rows, other_rows): (Vec<u32>, Vec<u32>) = rows.iter().partition(|&&r| tested.contains(&line(r)));
    if other_rows.is_empty() {
        return Err(Error::config("split.test", "every cell line is tested: none is left to train on"));
    }
    let held_out = tested.iter().map(|l| name(l).to_string()).collect();
    let mut draft =
        Draft { fold: spec.fold, folds: lines.len() as u32, samples: Vec::new(), warnings: Vec::new(), held_out };
    let sample = |&row: &u32| table.sample(row as usize);
    if unseen_chromosomes {
        // Chromosome folds over all lines: the test line keeps one fold, the others give up that fold.
        let folds =
            SplitSpec { fold: spec.fold % 5, folds: None, test: Vec::new(), ..SplitSpec::new(SplitKind::Chromosome) };
        let by_chromosome = fold::by_groups(table, rows, &folds, fold::Groups::chromosomes(table, rows)?)?;
        draft.held_out.extend(by_chromosome.held_out);
        draft.warnings = by_chromosome.warnings;
        let keep = |(part, s): &(Part, Sample)| (*part == Part::Test) == tested.contains(&line(s.row));
        draft.samples = by_chromosome.samples.into_iter().filter(keep).collect();
        return Ok(draft);
    }
    let test: Vec<Sample> = test_rows.iter().map(sample).collect();
    let used = Used::by(table, &test, spec.shift.into());
    let (gone, kept): (Vec<u32>, Vec<u32>) = other_rows.iter().partition(|&r| used.touches(table, &sample(r)));
    if kept.is_empty() {
        let message = "the lines share every locus: nothing is left to train on; ask for `cross-cell:chromosome`";
        return Err(Error::config("split.kind", message));
    }
    if !gone.is_empty() {
        let share = 100.0 * gone.len() as f64 / other_rows.len() as f64;
        draft.warnings.push(format!(
            "{} of {} pairs of the training lines ({share:.0} %) lie on loci of the test line and are left out",
            gone.len(),
            other_rows.len()
        ));
    }
    draft.samples = test.into_iter().map(|s| (Part::Test, s)).collect();
    let kept_samples: Vec<Sample> = kept.iter().map(sample).collect();
    let of = components(table, &kept_samples, spec.shift.into(), identity);
    let mut inner = SplitSpec { fold: 0, folds: None, test: Vec::new(), validation: Vec::new(), ..spec.clone() };
    inner.kind = SplitKind::Component;
    match fold::by_groups(table, &kept, &inner, fold::Groups::unnamed("component", of)) {
        Ok(parts) => draft.samples.extend(parts.samples.into_iter().map(|(part, s)| match part {
            Part::Test => (Part::Validation, s),
            _ => (Part::Train, s),
        })),
        // One single component: nothing can validate.
        Err(_) => draft.samples.extend(kept_samples.into_iter().map(|s| (Part::Train, s))),
    }
    Ok(draft)
}
