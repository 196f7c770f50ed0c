//! The last chapters of a study's report: calibration and strata of every run, data and models, the runs themselves.

use std::path::Path;

use super::format::duration;
use super::html::Section;
use super::run::{pair_table, parameter_table};
use super::series::{Series, label};
use super::study::distinct;
use super::tables::{Cell, Kind, Table};
use crate::study::{CellState, Index};

/// Calibration, chromosomes and distances of all runs.
pub fn strata(index: &Index, series: &[Series]) -> Section {
    let mut section = Section::new("strata", "Where");
    let key = [("model", Kind::Text), ("data", Kind::Text), ("line", Kind::Text), ("protocol", Kind::Text)];
    let keyed = |s: &Series| {
        vec![
            Cell::text(&s.label),
            Cell::text(&s.dataset),
            Cell::text(&s.cell_line),
            Cell::protocol(&s.protocol, s.leaky()),
        ]
    };
    let columns =
        [&key[..], &[("Brier", Kind::Score), ("log loss", Kind::Score), ("calibration error", Kind::Score)]].concat();
    let mut table = Table::new("calibration", "Calibration", &columns);
    for s in series.iter().filter(|s| s.scored.is_some()) {
        let runs = &s.scored.as_ref().expect("filtered").runs;
        let n: usize = runs.iter().map(|r| r.n).sum();
        let ece: Option<f64> = runs.iter().map(|r| Some(r.n as f64 * r.calibration.ece?)).sum();
        let mut row = keyed(s);
        row.extend([Cell::Score(s.score("brier")), Cell::Score(s.score("log_loss"))]);
        row.push(Cell::value(ece.map(|sum| sum / n.max(1) as f64)));
        table.row(row);
    }
    table.notes = vec![
        "Expected calibration error of ten bins, mean over runs weighted by pairs. Its curve, and everything else \
                        about a single run, is in that run's own report: epi-engine report STUDY/runs/…"
            .into(),
    ];
    section.table(table);
    for (id, caption, head) in [
        ("per-chromosome", "Scores per chromosome of the enhancer", "chromosome"),
        ("per-distance", "Scores per distance between the centres", "distance"),
    ] {
        let rest = [
            ("fold", Kind::Text),
            ("seed", Kind::Count),
            (head, Kind::Text),
            ("pairs", Kind::Count),
            ("positives", Kind::Count),
            ("AUPR", Kind::Score),
            ("AUROC", Kind::Score),
        ];
        let mut table = Table::new(id, caption, &[&key[..], &rest].concat());
        for s in series {
            for run in s.scored.iter().flat_map(|r| &r.runs) {
                let cell = &index.cells[run.cell];
                for part in if id == "per-chromosome" { &run.per_chromosome } else { &run.per_distance } {
                    let mut row = keyed(s);
                    row.extend([Cell::text(cell.fold_label()), Cell::Count(cell.seed), Cell::text(&part.name)]);
                    row.extend([Cell::Count(part.n as u64), Cell::Count(part.positives as u64)]);
                    row.extend([Cell::value(part.aupr), Cell::value(part.auroc)]);
                    table.row(row);
                }
            }
        }
        section.folded_table(&format!("{caption}, every run ({} rows)", table.rows.len()), table);
    }
    section
}

/// Tables 1 and 2.
pub fn data_and_models(series: &[Series]) -> Section {
    let mut section = Section::new("data", "Data and models");
    let places = distinct(series.iter(), |s| (s.dataset.as_str(), s.cell_line.as_str()));
    let mut rows = Vec::new();
    for (dataset, line) in places {
        let of = || series.iter().filter(|s| (&*s.dataset, &*s.cell_line) == (dataset, line));
        let counts = of().filter_map(|s| s.scored.as_ref()).map(|r| &r.cell_lines).find(|c| !c.is_empty());
        match counts {
            Some(all) => {
                let lines = all.iter().filter(|(name, _)| line == "all" || name == line || all.len() == 1);
                rows.extend(
                    lines.map(|(name, c)| (format!("{dataset} {name}"), Some((c.pairs, c.positives)), String::new())),
                );
            }
            None => {
                let note = of().find(|s| !s.note.is_empty()).map_or("not told by the run", |s| &s.note);
                rows.push((format!("{dataset} {line}"), None, note.to_string()));
            }
        }
    }
    rows.dedup_by(|a, b| a.0 == b.0);
    section.table(pair_table(rows.into_iter()));
    let with_config = || series.iter().filter(|s| s.scored.is_some() && !s.control);
    let models =
        distinct(with_config(), |s| (s.label.as_str(), s.scored.as_ref().expect("filtered").config.parameters()));
    let first = |(label, parameters): &(&str, _)| {
        let found = with_config()
            .find(|s| s.label == *label && s.scored.as_ref().expect("filtered").config.parameters() == *parameters);
        found.map(|s| (format!("{label} ({})", s.dataset), &s.scored.as_ref().expect("filtered").config))
    };
    section.table(parameter_table(models.iter().filter_map(first)));
    section
}

/// Every run with its state, what it ran on, how to go on.
pub fn environment(folder: &Path, index: &Index, warnings: &[String]) -> Section {
    let mut section = Section::new("environment", "Environment");
    section.text(&format!(
        "epi-engine {} ({}) on {}; begun {}.",
        index.version, index.commit, index.device, index.started
    ));
    section.lines(&format!("{}\nepi-engine report {}", index.command, folder.display()));
    if !warnings.is_empty() {
        section.list("Folders that could not be read", warnings);
    }
    let columns = [
        ("model", Kind::Text),
        ("data", Kind::Text),
        ("line", Kind::Text),
        ("protocol", Kind::Text),
        ("run", Kind::Text),
        ("state", Kind::Text),
        ("samples seen", Kind::Count),
        ("budget", Kind::Count),
        ("time", Kind::Text),
        ("why", Kind::Words),
    ];
    let mut missing = Table::new("not-done", "Runs that are not done", &columns);
    let mut done = Table::new("runs", "Every run", &columns);
    for cell in &index.cells {
        let budget =
            if cell.budget_samples == 0 { Cell::Note("epochs".into()) } else { Cell::Count(cell.budget_samples) };
        let row = vec![
            Cell::Text(label(cell)),
            Cell::text(&cell.dataset),
            Cell::text(&cell.cell_line),
            Cell::text(&cell.protocol),
            Cell::Text(format!("{}, seed {}", cell.fold_label(), cell.seed)),
            Cell::text(cell.state.name()),
            Cell::Count(cell.samples_seen),
            budget,
            Cell::Text(if cell.seconds > 0.0 { duration(cell.seconds) } else { String::new() }),
            Cell::text(cell.reason.as_deref().unwrap_or("")),
        ];
        if cell.state != CellState::Done {
            missing.row(row.clone());
        }
        done.row(row);
    }
    if !missing.rows.is_empty() {
        section.table(missing);
    }
    section.folded_table(&format!("All {} runs", index.cells.len()), done);
    section
}
