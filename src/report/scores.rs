//! The first chapters of a run's report: its scores beside the baselines, the curves, and where the scores come from.

use super::curves::curves;
use super::figures::{calibration, precision_recall, roc};
use super::files::{Metrics, RunFiles, Stratum};
use super::format::{score, thousands};
use super::html::Section;
use super::marks::{Dot, Estimate, dots};
use super::plot::Heading;
use super::run::labelled;
use super::tables::{Cell, Kind, Table};

/// What to do about a run that was not scored.
pub fn unfinished(run: &RunFiles) -> String {
    format!("epi-engine train --resume {}", run.path.display())
}

/// The protocol of a run that was scored, and whether it leaks.
pub fn split_of(run: &RunFiles) -> Option<(String, bool)> {
    run.metrics.as_ref().map(|m| (m.split.clone(), m.leaky))
}

/// What intervals resample, in words.
fn intervals(m: &Metrics) -> String {
    match (m.interval_units, m.score("base_rate").1) {
        (0 | 1, _) => format!("No intervals: all pairs belong to one of the {}.", m.interval_unit),
        (n, None) => format!("No intervals: nearly all pairs belong to one of {n} {}.", m.interval_unit),
        (n, Some(_)) => format!("Brackets are 95 % intervals; 1000 replicates resample {n} {}.", m.interval_unit),
    }
}

/// Model and baselines, the sentence, the figures that matter.
pub fn scores(model: &str, run: &RunFiles, verdict: &str) -> Section {
    let mut section = Section::new("scores", "Scores");
    section.verdict(verdict, run.leaky().is_some());
    let Some(m) = &run.metrics else {
        section.missing("metrics", "No metrics.json: go on with", Some(&unfinished(run)));
        return section;
    };
    let range =
        |name: &str| m.score(name).1.map_or(String::new(), |i| score(Some(i.low)) + " to " + &score(Some(i.high)));
    let base = score(m.score("base_rate").0);
    let key = |label: &str, name: &str, beside: String| {
        let range = range(name);
        let gap = if range.is_empty() || beside.is_empty() { "" } else { " · " };
        [label.to_string(), score(m.score(name).0), format!("{range}{gap}{beside}")]
    };
    section.keys(&[
        key("AUPR", "aupr", format!("base rate {base}")),
        key("AUROC", "auroc", "chance .500".into()),
        key("F1", "f1", format!("at {}", score(Some(m.f1_threshold)))),
        ["Scored pairs".into(), thousands(m.n as u64), format!("{} positive", thousands(m.positives as u64))],
    ]);
    let mut rows = vec![(model.to_string(), m.score("aupr"), m.score("auroc"))];
    if m.baselines.distance.is_some() {
        rows.push(("distance".into(), m.distance("aupr"), m.distance("auroc")));
    }
    rows.push(("element lookup".into(), m.lookup("aupr"), m.lookup("auroc")));
    let dot = |pick: fn(&(String, Estimate, Estimate)) -> Estimate| -> Vec<Dot> {
        let colour = |i| if i == 0 { 0 } else { 5 };
        rows.iter()
            .enumerate()
            .map(|(i, r)| Dot { name: r.0.clone(), estimate: pick(r), colour: colour(i), beside: None })
            .collect()
    };
    let heading = |id, title| Heading {
        id,
        title,
        description: "Model and baselines with 95 % intervals; the dashed line is guessing.",
        leaky: run.leaky(),
    };
    let chance = m.score("base_rate").0.map(|b| (b, "base rate"));
    section.figure(
        dots(&heading("baselines-aupr", "AUPR beside the baselines"), "AUPR", &dot(|r| r.1), chance),
        "Area under the precision–recall curve of the test part. Whiskers: 95 % intervals.",
    );
    section.figure(
        dots(&heading("baselines-auroc", "AUROC beside the baselines"), "AUROC", &dot(|r| r.2), Some((0.5, "chance"))),
        "Area under the ROC curve of the same pairs.",
    );
    section.table(score_table(model, m));
    if !m.warnings.is_empty() {
        section.list("Warnings of the run", &m.warnings);
    }
    section
}

fn score_table(model: &str, m: &Metrics) -> Table {
    const NAMES: [(&str, &str); 7] = [
        ("AUPR", "aupr"),
        ("AUROC", "auroc"),
        ("F1", "f1"),
        ("best F1", "f1_best"),
        ("MCC", "mcc"),
        ("Brier", "brier"),
        ("log loss", "log_loss"),
    ];
    let mut columns = vec![("", Kind::Text)];
    columns.extend(NAMES.map(|(head, _)| (head, Kind::Score)));
    let mut table = Table::new("test-scores", "Scores of the test part", &columns);
    let mut row = |name: &str, of: &dyn Fn(&str) -> Estimate| {
        let mut cells = vec![Cell::text(name)];
        cells.extend(NAMES.map(|(_, name)| Cell::Score(of(name))));
        table.row(cells);
    };
    row(model, &|name| m.score(name));
    row("base rate", &|name| match name {
        "aupr" => (m.score("base_rate").0, None),
        "auroc" => (Some(0.5), None),
        _ => (None, None),
    });
    if m.baselines.distance.is_some() {
        row("distance", &|name| m.distance(name));
    }
    row("element lookup", &|name| m.lookup(name));
    let chosen = if m.f1_threshold_chosen { "chosen on validation" } else { "0.5 where validation has no positive" };
    table.notes = vec![
        format!("{} F1 and MCC at the threshold {} ({chosen}).", intervals(m), score(Some(m.f1_threshold))),
        "Best F1 takes its threshold from the test labels: an upper bound, never the result.".into(),
    ];
    if let Some(per_batch) = m.macro_f1_per_batch {
        table.notes.push(format!(
            "Macro F1 at 0.5, as the released program prints it: {} per batch of {}, averaged; {} over the whole part.",
            score(per_batch.value),
            per_batch.batch,
            score(m.macro_f1)
        ));
    }
    table.split = Some((m.split.clone(), m.leaky));
    table
}

/// ROC, precision–recall, calibration.
pub fn ranking(model: &str, run: &RunFiles) -> Section {
    let mut section = Section::new("curves", "Curves");
    let leaky = run.leaky();
    match &run.predictions {
        Some(all) => {
            let found = curves(labelled(all));
            let named = [(model.to_string(), 0, &found)];
            section.figure(
                roc("roc", "ROC curve", leaky, &named),
                "Every threshold of the test part; tied scores are one corner.",
            );
            let caption = "Precision at every recall; the dashed line is the share of positives.";
            section.figure(precision_recall("precision-recall", "Precision and recall", leaky, &named), caption);
        }
        None => ["roc", "precision-recall"]
            .iter()
            .for_each(|id| section.missing(id, "No predictions.tsv: it is written with", Some(&unfinished(run)))),
    }
    let Some(m) = &run.metrics else {
        section.missing("calibration", "No metrics.json: go on with", Some(&unfinished(run)));
        return section;
    };
    let caption = format!(
        "Ten bins of equal width; expected calibration error {}. Class weights in the loss shift probabilities by design.",
        score(m.calibration.ece)
    );
    section.figure(calibration("calibration", "Calibration", leaky, &m.calibration), &caption);
    let kinds = [Kind::Text, Kind::Count, Kind::Score, Kind::Score];
    let heads = ["predicted", "pairs", "mean prediction", "share of positives"];
    let columns: Vec<_> = heads.into_iter().zip(kinds).collect();
    let mut table = Table::new("calibration", "Calibration", &columns);
    for b in &m.calibration.bins {
        let range = format!("{} to {}", score(Some(b.low)), score(Some(b.high)));
        table.row(vec![
            Cell::Text(range),
            Cell::Count(b.n as u64),
            Cell::value(b.mean_score),
            Cell::value(b.positive_rate),
        ]);
    }
    table.id = "calibration-bins".into();
    table.split = split_of(run);
    section.folded_table("Bins of the calibration", table);
    section
}

/// Tables per chromosome and per distance.
pub fn strata(run: &RunFiles) -> Section {
    let mut section = Section::new("strata", "Where");
    let Some(m) = &run.metrics else {
        section.missing("per-chromosome", "No metrics.json: go on with", Some(&unfinished(run)));
        return section;
    };
    section.text("The same scores within parts of the test part. Small parts scatter; a score that a part does not define is left out.");
    for (id, caption, head, rows) in [
        ("per-chromosome", "Per chromosome of the enhancer", "chromosome", &m.per_chromosome),
        ("per-distance", "Per distance between the centres", "distance", &m.per_distance),
    ] {
        match rows.is_empty() {
            true => section.missing(id, &format!("{caption}: the data set has no coordinates."), None),
            false => section.table(stratum_table(id, caption, head, rows, m)),
        }
    }
    section
}

fn stratum_table(id: &str, caption: &str, head: &str, rows: &[Stratum], m: &Metrics) -> Table {
    let columns = [
        (head, Kind::Text),
        ("pairs", Kind::Count),
        ("positives", Kind::Count),
        ("base rate", Kind::Score),
        ("AUPR", Kind::Score),
        ("AUROC", Kind::Score),
    ];
    let mut table = Table::new(id, caption, &columns);
    for s in rows {
        table.row(vec![
            Cell::text(&s.name),
            Cell::Count(s.n as u64),
            Cell::Count(s.positives as u64),
            Cell::value(s.base_rate),
            Cell::value(s.aupr),
            Cell::value(s.auroc),
        ]);
    }
    table.split = Some((m.split.clone(), m.leaky));
    table
}
