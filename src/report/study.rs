//! The report of a study: its tables and figures over models, cell lines and protocols.

use std::collections::HashSet;
use std::path::Path;

use serde_json::json;

use super::Content;
use super::curves::{Curves, curves};
use super::figures::{Named, activations, loss, map, precision_recall, roc, validated};
use super::files::Logged;
use super::format::{duration, score, slug, thousands};
use super::html::{Head, Section};
use super::leaks::{across, leaks};
use super::marks::{Bars, bars};
use super::plot::Heading;
use super::published;
use super::series::{Series, read};
use super::study_runs::{data_and_models, environment, strata};
use super::tables::{Cell, Kind, Table};
use crate::error::Result;
use crate::study::{CellState, Index};

/// Ids of figures and tables, no two alike.
#[derive(Default)]
pub struct Ids(HashSet<String>);

impl Ids {
    /// `what-part-part`, with a number where that is taken.
    pub fn get(&mut self, what: &str, parts: &[&str]) -> String {
        let parts = parts.iter().map(|p| slug(p)).filter(|p| !p.is_empty());
        let name = std::iter::once(what.to_string()).chain(parts).collect::<Vec<_>>().join("-");
        let numbered = (2..).map(|n| format!("{name}-{n}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|n| !self.0.contains(&n.to_lowercase()));
        let free = free.expect("numbers do not end");
        // File systems that do not tell cases apart must not lose a figure.
        self.0.insert(free.to_lowercase());
        free
    }
}

/// Values of `of`, each once, in order.
pub fn distinct<'a, T: PartialEq>(all: impl Iterator<Item = &'a Series>, of: impl Fn(&'a Series) -> T) -> Vec<T> {
    let mut found: Vec<T> = Vec::new();
    for value in all.map(of) {
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}

/// All chapters of a study's report.
///
/// # Errors
/// As [`Index::read`]. What is wrong with single runs becomes a warning and a note in their place.
pub fn content(folder: &Path) -> Result<Content> {
    let index = Index::read(folder)?;
    let (series, warnings) = read(folder, &index);
    let ids = &mut Ids::default();
    let verdict = verdict(&index, &series);
    let name = std::path::absolute(folder).ok().and_then(|p| Some(p.file_name()?.to_string_lossy().to_string()));
    let leaky = series.iter().any(|s| s.scored.as_ref().is_some_and(|r| r.leaky));
    let head = Head {
        title: format!("Study: {}", name.unwrap_or_default()),
        subtitle: format!("{} runs, begun {} · {}", index.cells.len(), index.started, folder.display()),
        leaky: None,
    };
    let sections = vec![
        overview(&index, &series, &verdict, leaky),
        table_3(&series, ids),
        leaks(&series, ids),
        across(&series, ids),
        ranking(&series, ids),
        training(&series, ids),
        spaces(folder, &index, &series, ids),
        strata(&index, &series),
        data_and_models(&series),
        environment(folder, &index, &warnings),
    ];
    let results = series.iter().filter(|s| s.scored.is_some()).map(|s| {
        json!({
            "model": s.label, "dataset": s.dataset, "cell_line": s.cell_line, "protocol": s.protocol,
            "trained_on": s.trained_on, "leaky": s.leaky(), "runs": s.done, "of": s.cells.len(),
            "aupr": s.score("aupr").0, "auroc": s.score("auroc").0, "f1": s.score("f1").0,
            "base_rate": s.score("base_rate").0,
            "lookup_aupr": s.scored.as_ref().and_then(|r| r.lookup[0].0),
        })
    });
    let counts = STATES.map(|state| (state.name(), index.cells.iter().filter(|c| c.state == state).count()));
    let states: serde_json::Map<_, _> = counts.into_iter().map(|(name, n)| (name.to_string(), json!(n))).collect();
    let key = json!({ "states": states, "results": results.collect::<Vec<_>>() });
    Ok(Content { head, sections, verdict, key, warnings })
}

const STATES: [CellState; 6] = [
    CellState::Done,
    CellState::Running,
    CellState::Pending,
    CellState::Interrupted,
    CellState::Failed,
    CellState::NoData,
];

fn verdict(index: &Index, series: &[Series]) -> String {
    let done = index.cells.iter().filter(|c| c.state == CellState::Done).count();
    // Whether it lies above guessing, beyond its interval; `None` without one.
    let above = |s: &Series| {
        let ((_, interval), base) = (s.score("aupr"), s.score("base_rate").0);
        interval.zip(base).map(|(i, base)| i.low > base)
    };
    let scored = |leaky: bool| {
        series.iter().filter(move |s| s.scored.is_some() && s.leaky() == leaky && s.dataset != "planted" && !s.control)
    };
    let said = |leaky: bool, name: &str| {
        let judged: Vec<Option<bool>> = scored(leaky).map(above).collect();
        let count = |what: Option<bool>| judged.iter().filter(|&&j| j == what).count();
        let (yes, without) = (count(Some(true)), count(None));
        let blind = if without > 0 { format!(" ({without} more have no interval)") } else { String::new() };
        match judged.len() {
            0 => String::new(),
            n => format!(" {name}: {yes} of {} results with an AUPR above what guessing gives{blind}.", n - without),
        }
    };
    let lookup = scored(true).filter_map(|s| s.scored.as_ref()?.lookup[1].0).fold(f64::MIN, f64::max);
    let lookup = match lookup > f64::MIN {
        true => format!(
            " There a lookup of element names, which reads no sequence, reaches AUROC up to {}.",
            score(Some(lookup))
        ),
        false => String::new(),
    };
    format!(
        "{done} of {} runs are done.{}{}{lookup}",
        index.cells.len(),
        said(false, "Unseen loci, without controls and planted data"),
        said(true, "Leaking protocols"),
    )
}

fn overview(index: &Index, series: &[Series], verdict: &str, leaky: bool) -> Section {
    let mut section = Section::new("overview", "Overview");
    section.verdict(verdict, false);
    let cells: Vec<[String; 3]> = STATES
        .iter()
        .map(|&state| (state, index.cells.iter().filter(|c| c.state == state).count()))
        .filter(|(state, n)| *n > 0 || *state == CellState::Done)
        .map(|(state, n)| [state.name().to_string(), n.to_string(), format!("of {} runs", index.cells.len())])
        .collect();
    section.keys(&cells);
    let seconds: f64 = index.cells.iter().map(|c| c.seconds).sum();
    let seen: u64 = index.cells.iter().map(|c| c.samples_seen).sum();
    section.text(&format!(
        "{} results are made of these runs (folds of one model are pooled, seeds averaged); {} of training and scoring, {} samples seen. \
         Budgets are those of the study file: scores tell what these budgets reach.",
        series.iter().filter(|s| s.scored.is_some()).count(),
        duration(seconds),
        thousands(seen)
    ));
    if leaky {
        section.text("What a leaking protocol produced is stamped LEAKY: it scores what training has seen.");
    }
    section
}

/// A score, with what is missing of it; or why there is none.
pub fn estimate(s: &Series, name: &str) -> Cell {
    match (&s.scored, s.note.is_empty()) {
        (None, _) => Cell::Note(s.note.clone()),
        (Some(_), true) => Cell::Score(s.score(name)),
        (Some(_), false) => Cell::Partial(s.score(name), s.note.clone()),
    }
}

/// Table 3 and Figure 4: F1 per line, model and protocol, for each source of pairs.
fn table_3(series: &[Series], ids: &mut Ids) -> Section {
    let mut section = Section::new("f1", "F1");
    let own = || series.iter().filter(|s| !s.crosses());
    for dataset in distinct(own(), |s| s.dataset.as_str()) {
        let of = || own().filter(|s| s.dataset == dataset);
        let lines = distinct(of(), |s| s.cell_line.as_str());
        let mut columns = vec![("model", Kind::Text), ("protocol", Kind::Text)];
        columns.extend(lines.iter().map(|l| (*l, Kind::Score)));
        let mut table = Table::new(&ids.get("table-3-f1", &[dataset]), &format!("Table 3: F1 on {dataset}"), &columns);
        for (label, protocol, leaky) in distinct(of(), |s| (s.label.as_str(), s.protocol.as_str(), s.leaky())) {
            let at =
                |line: &&str| of().find(|s| (s.label.as_str(), &*s.protocol, &*s.cell_line) == (label, protocol, line));
            let mut row = vec![Cell::text(label), Cell::protocol(protocol, leaky)];
            row.extend(lines.iter().map(|l| at(l).map_or(Cell::Note(String::new()), |s| estimate(s, "f1"))));
            table.row(row);
        }
        table.notes = vec![
            "F1 of the positive class at the threshold chosen on validation (trees: at 0.5), with 95 % \
                            intervals that resample chromosomes or components of overlapping windows."
                .into(),
        ];
        section.table(table);
        let released = |s: &Series| s.scored.as_ref().and_then(|r| r.released);
        if of().any(|s| released(s).is_some()) {
            let mut columns = vec![("model", Kind::Text)];
            columns.extend(lines.iter().map(|l| (*l, Kind::Score)));
            let caption = format!("Macro F1 per batch, averaged, as the released program prints it, on {dataset}");
            let mut table = Table::new(&ids.get("released-f1", &[dataset]), &caption, &columns);
            for label in distinct(of().filter(|s| released(s).is_some()), |s| s.label.as_str()) {
                let at = |line: &str| of().filter(|s| s.label == label && s.cell_line == line).find_map(released);
                let mut row = vec![Cell::text(label)];
                row.extend(lines.iter().map(|l| Cell::value(at(l))));
                table.row(row);
            }
            table.split = Some(("paper-code".into(), true));
            section.table(table);
        }
        let groups: Vec<String> = lines.iter().map(|l| l.to_string()).collect();
        let labels = distinct(of(), |s| s.label.as_str());
        for protocol in distinct(of().filter(|s| s.scored.is_some()), |s| s.protocol.as_str()) {
            let at = |label: &str, line: &str| {
                of().find(|s| (&*s.label, &*s.cell_line, &*s.protocol) == (label, line, protocol))
            };
            let value = |label: &str, line: &str| {
                let found = at(label, line);
                let published = found.filter(|s| s.dataset.starts_with("TargetFinder") && !s.control);
                (found.map_or((None, None), |s| s.score("f1")), published.and_then(|s| published::f1(&s.model, line)))
            };
            let all = labels.iter().enumerate().map(|(colour, label)| Bars {
                name: label.to_string(),
                colour,
                values: lines.iter().map(|line| value(label, line)).collect(),
            });
            let series: Vec<Bars> = all.filter(|b| b.values.iter().any(|(v, _)| v.0.is_some())).collect();
            let id = ids.get("figure-4-f1", &[dataset, protocol]);
            let leaky = of().find(|s| s.protocol == protocol).and_then(Series::stamp);
            let heading = Heading {
                id: &id,
                title: &format!("F1 on {dataset}, {protocol}"),
                description: "F1 of the positive class per cell line and model with 95 % intervals.",
                leaky,
            };
            let caption = "Figure 4 of the seed report: F1 per line and model. Diamonds are published values, of other protocols.";
            section.figure(bars(&heading, "F1", &groups, &series), caption);
        }
    }
    section.table(published::table());
    section
}

/// ROC and precision–recall curves of all models on a line under a protocol.
fn ranking(series: &[Series], ids: &mut Ids) -> Section {
    let mut section = Section::new("curves", "Curves");
    section
        .text("All models on the same pairs; folds pooled, the first seed. Colours are those of each figure's legend.");
    let scored = || series.iter().filter(|s| s.scored.is_some() && !s.crosses());
    let keys = distinct(scored(), |s| (s.dataset.as_str(), s.cell_line.as_str(), s.protocol.as_str(), s.leaky()));
    for (dataset, line, protocol, leaky) in keys {
        let of: Vec<&Series> =
            scored().filter(|s| (&*s.dataset, &*s.cell_line, &*s.protocol) == (dataset, line, protocol)).collect();
        let found: Vec<Curves> = of.iter().filter_map(|s| Some(curves(s.scored.as_ref()?.pairs.clone()))).collect();
        let named: Vec<Named> = of.iter().zip(&found).enumerate().map(|(i, (s, c))| (s.label.clone(), i, c)).collect();
        let stamp = leaky.then_some(protocol);
        let place = if line == "all" { dataset.to_string() } else { format!("{dataset} {line}") };
        let parts = [dataset, line, protocol];
        let caption = format!("{place}, {protocol}.");
        section.figure(roc(&ids.get("roc", &parts), &format!("ROC: {place}"), stamp, &named), &caption);
        let id = ids.get("precision-recall", &parts);
        section.figure(precision_recall(&id, &format!("Precision and recall: {place}"), stamp, &named), &caption);
    }
    if section.figures.is_empty() {
        section.missing("roc", "No run is done yet.", None);
    }
    section
}

/// Figure 3 for every model and protocol: one line a run.
fn training(series: &[Series], ids: &mut Ids) -> Section {
    let mut section = Section::new("training", "Training");
    let scored = || series.iter().filter(|s| s.scored.is_some());
    let logs = |s: &Series| -> Vec<Vec<Logged>> {
        s.scored.iter().flat_map(|r| &r.runs).map(|r| r.history.clone()).filter(|h| !h.is_empty()).collect()
    };
    for (label, dataset, protocol) in
        distinct(scored(), |s| (s.label.as_str(), s.dataset.as_str(), s.protocol.as_str()))
    {
        let of = scored().filter(|s| (&*s.label, &*s.dataset, &*s.protocol) == (label, dataset, protocol));
        let (mut all, mut stamp) = (Vec::new(), None);
        of.for_each(|s| {
            all.extend(logs(s));
            stamp = stamp.or(s.stamp());
        });
        let runs: Vec<&[Logged]> = all.iter().map(Vec::as_slice).collect();
        if runs.is_empty() {
            continue;
        }
        let id = ids.get("figure-3-loss", &[label, dataset, protocol]);
        let some = if runs.iter().any(|h| validated(h)) { "" } else { "; nothing validates" };
        let caption =
            format!("{label} on {dataset}, {protocol}: {} runs{some}. Figure 3 of the seed report.", runs.len());
        section.figure(loss(&id, &format!("Loss: {label}"), stamp, &runs, None), &caption);
    }
    if section.figures.is_empty() {
        section.missing("figure-3-loss", "No network is trained yet.", None);
    }
    section
}

/// Figure 5.
fn spaces(folder: &Path, index: &Index, series: &[Series], ids: &mut Ids) -> Section {
    let mut section = Section::new("spaces", "Activations");
    let scored = || series.iter().filter(|s| s.scored.is_some() && !s.crosses());
    section.text("Figure 5 of the seed report: log odds of interacting and non-interacting pairs of the test parts.");
    for (label, dataset, protocol, leaky) in
        distinct(scored(), |s| (s.label.as_str(), s.dataset.as_str(), s.protocol.as_str(), s.leaky()))
    {
        let of = scored().filter(|s| (&*s.label, &*s.dataset, &*s.protocol) == (label, dataset, protocol));
        let pairs: Vec<(u8, f32)> =
            of.filter_map(|s| s.scored.as_ref()).flat_map(|r| r.pairs.iter().copied()).collect();
        let id = ids.get("figure-5-activations", &[label, dataset, protocol]);
        let svg = activations(&id, &format!("Activations: {label}"), leaky.then_some(protocol), &pairs);
        section.figure(svg, &format!("{label} on {dataset}, {protocol}."));
    }
    section.heading("Input and latent space of the autoencoder");
    let mut shown = false;
    for s in scored().filter(|s| s.model.starts_with("eplae")) {
        let Some(points) = s.scored.as_ref().and_then(|r| r.latent.as_deref()) else { continue };
        shown = true;
        let place = format!("{} on {} {}, {}", s.label, s.dataset, s.cell_line, s.protocol);
        for (what, title) in [("figure-5-input", "Input space"), ("figure-5-code", "Latent space")] {
            let id = ids.get(what, &[&s.label, &s.dataset, &s.cell_line, &s.protocol]);
            let description = "First two principal components; interacting pairs as squares.";
            let heading = Heading { id: &id, title, description, leaky: s.stamp() };
            let labels = ["component 1", "component 2"];
            let svg = match what {
                "figure-5-input" => map(&heading, labels, points, |m| (m.input_1, m.input_2)),
                _ => map(&heading, labels, points, |m| (m.code_1, m.code_2)),
            };
            section.figure(svg, &format!("{place}: principal components (explain/latent.tsv)."));
        }
    }
    if !shown {
        let done = |c: &&crate::study::Cell| c.model.starts_with("eplae") && c.state == CellState::Done;
        match index.cells.iter().find(done).and_then(|c| c.folder.as_ref()) {
            Some(run) => section.missing(
                "figure-5-code",
                "The maps need explain/latent.tsv in the run's folder, which is made with",
                Some(&format!("epi-engine explain latent {}", folder.join(run).display())),
            ),
            None => section.missing("figure-5-code", "No run of an autoencoder (EPLAE) is done in this study.", None),
        }
    }
    section
}
