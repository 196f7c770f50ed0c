//! The report of one run.

use serde_json::json;

use super::Content;
use super::figures::{activations, loss, map, validated, validation};
use super::files::{Metrics, RunConfig, RunFiles};
use super::format::{model_name, score, thousands, with_interval};
use super::html::{Head, Section};
use super::marks::{Bars, bars};
use super::plot::Heading;
use super::pooled::pool;
use super::published;
use super::scores::{ranking, scores, split_of, strata, unfinished};
use super::tables::{Cell, Kind, Table};
use crate::evaluate::Prediction;

/// All chapters of a run's report.
pub fn content(run: &RunFiles) -> Content {
    let model = model_name(run.config.model());
    let leaky = run.leaky();
    let verdict = verdict(&model, run);
    let folds = run.metrics.as_ref().map_or(String::new(), |m| match m.folds.as_slice() {
        [one] => format!(", fold {one}"),
        many => format!(", {} folds out of fold", many.len()),
    });
    let head = Head {
        title: format!("{model}: {}", run.name()),
        subtitle: format!("{} split{folds} · {}", run.config.split(), run.path.display()),
        leaky: leaky.map(str::to_string),
    };
    let trees = matches!(run.config, RunConfig::Trees(_));
    let mut sections = vec![scores(&model, run, &verdict), ranking(&model, run), strata(run), by_line(&model, run)];
    sections.push(if trees { features(run) } else { training(run) });
    sections.push(spaces(run));
    sections.push(data_and_model(&model, run));
    sections.push(environment(run));
    let key = run.metrics.as_ref().map_or(json!(null), |m| {
        json!({
            "model": run.config.model(), "split": m.split, "leaky": m.leaky, "n": m.n, "positives": m.positives,
            "aupr": m.score("aupr").0, "auroc": m.score("auroc").0, "f1": m.score("f1").0,
            "base_rate": m.score("base_rate").0, "lookup_aupr": m.lookup("aupr").0,
            "distance_aupr": m.distance("aupr").0,
        })
    });
    Content { head, sections, verdict, key, warnings: Vec::new() }
}

/// In one sentence, what the scores say and what they do not.
fn verdict(model: &str, run: &RunFiles) -> String {
    let Some(m) = &run.metrics else {
        let step = run.reached.as_ref().map_or(String::new(), |s| format!(", {} steps made", s.step));
        return format!("This run is not finished{step}: there are no scores of its test part yet.");
    };
    let (aupr, interval) = m.score("aupr");
    let base = m.score("base_rate").0;
    let beside = format!("AUPR {} beside a base rate of {}", with_interval(aupr, interval), score(base));
    if m.leaky {
        return format!(
            "“{}” scores what training has seen: {beside} says nothing about new loci. A lookup of element names, which \
             reads no sequence, reaches {}.",
            m.split,
            score(m.lookup("aupr").0)
        );
    }
    let chance = match (interval, base) {
        (Some(i), Some(base)) if i.low > base => "above what guessing gives",
        (Some(i), Some(base)) if i.high < base => "below what guessing gives",
        (Some(_), Some(_)) => "not told apart from guessing",
        _ => "without an interval, as too few loci were scored",
    };
    let best = [("the distance of the pair", m.distance("aupr").0), ("a lookup of element names", m.lookup("aupr").0)];
    let best = best.into_iter().filter_map(|(n, v)| Some((n, v?))).max_by(|a, b| a.1.total_cmp(&b.1));
    let rival = match (best, aupr) {
        (Some((name, value)), Some(aupr)) if value >= aupr => {
            format!(" {} alone reaches {}, no less than {model}.", capital(name), score(Some(value)))
        }
        (Some((name, value)), Some(_)) => format!(" {} alone reaches {}.", capital(name), score(Some(value))),
        _ => String::new(),
    };
    format!("{beside}: {chance}.{rival}")
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().collect::<String>() + letters.as_str())
}

/// Table 3 and Figure 4: F1 per cell line.
fn by_line(model: &str, run: &RunFiles) -> Section {
    let mut section = Section::new("f1", "F1 by line");
    let Some(all) = &run.predictions else {
        section.missing("figure-4-f1", "No predictions.tsv: it is written with", Some(&unfinished(run)));
        return section;
    };
    let leaky = run.leaky();
    let mut names: Vec<&str> = Vec::new();
    all.iter().filter(|p| !names.contains(&p.cell_line.as_str()) && (names.push(&p.cell_line), true).1).count();
    let columns = [
        ("cell line", Kind::Text),
        ("model", Kind::Text),
        ("protocol", Kind::Text),
        ("pairs", Kind::Count),
        ("positives", Kind::Count),
        ("resampled", Kind::Text),
        ("F1", Kind::Score),
        ("published F1", Kind::Score),
    ];
    let mut table = Table::new("table-3-f1", "Table 3: F1 per cell line", &columns);
    let mut values = Vec::new();
    for line in &names {
        let of: Vec<(usize, &Prediction)> = all.iter().filter(|p| p.cell_line == *line).map(|p| (0, p)).collect();
        let Some(found) = pool(&[of], true) else { continue };
        let published = published::f1(run.config.model(), line);
        table.row(vec![
            Cell::text(*line),
            Cell::text(model),
            Cell::protocol(run.config.split(), leaky.is_some()),
            Cell::Count(found.n as u64),
            Cell::Count(found.positives as u64),
            Cell::Text(found.resampled()),
            Cell::Score(found.score("f1")),
            Cell::value(published),
        ]);
        values.push((found.score("f1"), published));
    }
    table.split = split_of(run);
    table.notes = vec![
        "F1 of the positive class; intervals resample the loci of the line. Published values are of other \
                        protocols (below)."
            .into(),
    ];
    let series = [Bars { name: model.into(), colour: 0, values }];
    let heading = Heading {
        id: "figure-4-f1",
        title: "F1 per cell line",
        description: "F1 of the positive class per cell line with 95 % intervals.",
        leaky,
    };
    let groups: Vec<String> = names.iter().map(|n| n.to_string()).collect();
    section.figure(bars(&heading, "F1", &groups, &series), "Figure 4 of the seed report, for this run.");
    section.table(table);
    section.folded_table("Published values and how they depart from their own program and data", published::table());
    section
}

/// Figure 3, and what every fold reached.
fn training(run: &RunFiles) -> Section {
    let mut section = Section::new("training", "Training");
    let mut runs: Vec<_> = run.folds.iter().map(|f| f.history.as_slice()).collect();
    if runs.is_empty() {
        runs.push(&run.history);
    }
    runs.retain(|h| !h.is_empty());
    if runs.is_empty() {
        let message = "No metrics.jsonl, or nothing in it: training writes it. Go on with";
        section.missing("figure-3-loss", message, Some(&unfinished(run)));
        return section;
    }
    let (best, leaky) = (run.reached.as_ref().and_then(|r| r.stopping.best.as_ref()).map(|b| b.step), run.leaky());
    let caption = "Figure 3 of the seed report: mean loss of the steps since the last line of the log, and of the whole \
                   validation part.";
    section.figure(loss("figure-3-loss", "Loss", leaky, &runs, best), caption);
    if runs.iter().any(|h| validated(h)) {
        let caption = "Scores of the validation part; the kept weights are those of the best evaluation.";
        section.figure(validation("figure-3-validation", "Scores on validation", leaky, &runs), caption);
    }
    if let Some(reached) = run.reached.as_ref().filter(|r| !r.finished) {
        section.text(&format!("Training is not over: {} steps are made.", reached.step));
    }
    if !run.folds.is_empty() {
        let columns = [("fold", Kind::Text), ("pairs", Kind::Count), ("AUPR", Kind::Score), ("AUROC", Kind::Score)];
        let mut table = Table::new("folds", "Folds", &columns);
        for (i, fold) in run.folds.iter().enumerate() {
            let score =
                |name| fold.metrics.as_ref().map_or(Cell::Note("not finished".into()), |m| Cell::Score(m.score(name)));
            let n = Cell::count(fold.metrics.as_ref().map(|m| m.n));
            table.row(vec![Cell::text(i.to_string()), n, score("aupr"), score("auroc")]);
        }
        table.split = split_of(run);
        section.table(table);
    }
    section
}

/// What trees read.
fn features(run: &RunFiles) -> Section {
    let mut section = Section::new("training", "Features");
    section.missing("figure-3-loss", "Trees have no loss curve: nothing is chosen while they grow.", None);
    if run.importances.is_empty() {
        section.missing("features", "No importances.tsv: it is written with", Some(&unfinished(run)));
        return section;
    }
    let columns = [("feature", Kind::Text), ("share of the error taken away", Kind::Score)];
    let mut table = Table::new("features", "The features that matter most", &columns);
    for (name, share) in run.importances.iter().take(20) {
        table.row(vec![Cell::text(name), Cell::value(Some(*share))]);
    }
    table.notes = vec!["Mean over the folds; all of them are in importances.tsv of the run.".into()];
    table.split = split_of(run);
    section.table(table);
    section
}

/// Labels and scores.
pub fn labelled(predictions: &[Prediction]) -> Vec<(u8, f32)> {
    predictions.iter().map(|p| (p.label, p.score)).collect()
}

/// Figure 5: activations, input and latent space.
fn spaces(run: &RunFiles) -> Section {
    let mut section = Section::new("spaces", "Activations");
    let leaky = run.leaky();
    match &run.predictions {
        Some(all) => section.figure(
            activations("figure-5-activations", "Activations of the logistic layer", leaky, &labelled(all)),
            "Figure 5 of the seed report: log odds of interacting and non-interacting pairs of the test part, each class by \
             itself.",
        ),
        None => {
            section.missing("figure-5-activations", "No predictions.tsv: it is written with", Some(&unfinished(run)));
        }
    }
    let heading = |id, title| Heading {
        id,
        title,
        description: "First two principal components; interacting pairs as squares.",
        leaky,
    };
    match run.latent_map() {
        Some(points) => {
            let components = ["component 1", "component 2"];
            let input = heading("figure-5-input", "Input space");
            let caption = "Figure 5: principal components of the one-hot windows (explain/latent.tsv).";
            section.figure(map(&input, components, points, |m| (m.input_1, m.input_2)), caption);
            let code = heading("figure-5-code", "Latent space");
            let caption = "Figure 5: principal components of the autoencoder's code of the same pairs.";
            section.figure(map(&code, components, points, |m| (m.code_1, m.code_2)), caption);
            let logits = heading("figure-5-logits", "Logistic layer");
            let labels = ["logit of “not interacting”", "logit of “interacting”"];
            section.figure(
                map(&logits, labels, points, |m| (m.logit_0, m.logit_1)),
                "Figure 5: both activations of the logistic layer.",
            );
        }
        None if run.config.model() == "eplae" => {
            let command = format!("epi-engine explain latent {}", run.path.display());
            let message = "The maps of input and latent space (Figure 5) need explain/latent.tsv, which is made with";
            section.missing("figure-5-code", message, Some(&command));
        }
        None => {
            let message = "Maps of a latent space (Figure 5) are those of an autoencoder (EPLAE); this model has none.";
            section.missing("figure-5-code", message, None);
        }
    }
    section
}

/// Tables 1 and 2.
fn data_and_model(model: &str, run: &RunFiles) -> Section {
    let mut section = Section::new("data", "Data and model");
    let lines = run.metrics.as_ref().map_or(Vec::new(), Metrics::cell_lines);
    match lines.is_empty() {
        true => section.missing(
            "table-1-pairs",
            "Table 1: metrics.json does not tell how many pairs the data set has; the run is unfinished or of an earlier \
             version. log.txt has the total.",
            None,
        ),
        false => {
            let rows = lines.into_iter().map(|(name, c)| (name, Some((c.pairs, c.positives)), String::new()));
            section.table(pair_table(rows));
        }
    }
    section.table(parameter_table([(model.to_string(), &run.config)].into_iter()));
    section
}

/// Table 1: pairs of each cell line, or a note in their place.
pub fn pair_table(lines: impl Iterator<Item = (String, Option<(usize, usize)>, String)>) -> Table {
    let columns = [
        ("cell line", Kind::Text),
        ("pairs", Kind::Count),
        ("positives", Kind::Count),
        ("negatives", Kind::Count),
        ("published positives", Kind::Count),
        ("published negatives", Kind::Count),
    ];
    let mut table = Table::new("table-1-pairs", "Table 1: pairs", &columns);
    let mut published_lines = false;
    for (name, counts, note) in lines {
        let short = name.strip_prefix("TargetFinder ").or(name.strip_prefix("TargetFinder-hg19 ")).unwrap_or(&name);
        let printed = published::LINES.iter().position(|l| l.eq_ignore_ascii_case(short)).map(|i| published::PAIRS[i]);
        published_lines |= printed.is_some();
        let number = |n: Option<usize>| n.map_or(Cell::Note(note.clone()), |n| Cell::Count(n as u64));
        table.row(vec![
            Cell::Text(name),
            number(counts.map(|c| c.0)),
            number(counts.map(|c| c.1)),
            number(counts.map(|c| c.0 - c.1)),
            Cell::count(printed.map(|p| p.0 as usize)),
            Cell::count(printed.map(|p| p.1 as usize)),
        ]);
    }
    if published_lines {
        table.notes = vec![format!("Published: TargetFinder's pairs, negatives rounded. {}", published::FOOTNOTES[3])];
    }
    table
}

/// Table 2: learned parameters of each model.
pub fn parameter_table<'a>(models: impl Iterator<Item = (String, &'a RunConfig)>) -> Table {
    let columns =
        [("model", Kind::Text), ("part", Kind::Text), ("parameters", Kind::Count), ("published", Kind::Count)];
    let mut table = Table::new("table-2-parameters", "Table 2: learned parameters", &columns);
    for (model, config) in models {
        let printed = published::parameters(config.model()).unwrap_or(&[]);
        let of = |part: &str| printed.iter().find(|p| p.0 == part).map(|p| p.1);
        match config.parameters() {
            Some((all, parts)) => {
                let total = of("all").or((!printed.is_empty()).then(|| printed.iter().map(|p| p.1).sum()));
                table.row(vec![Cell::text(&model), Cell::text("all"), Cell::Count(all as u64), Cell::count(total)]);
                for (part, n) in parts {
                    let published = of(&part);
                    table.row(vec![
                        Cell::text(&model),
                        Cell::text(part),
                        Cell::Count(n as u64),
                        Cell::count(published),
                    ]);
                }
            }
            None => {
                let note = if let RunConfig::Trees(c) = config {
                    format!("{} trees of depth {}", thousands(c.model.trees as u64), c.model.depth)
                } else {
                    "lengths of the windows unknown".into()
                };
                table.row(vec![Cell::text(&model), Cell::text("all"), Cell::Note(note), Cell::count(None)]);
            }
        }
    }
    table.notes =
        vec!["Published numbers are those of the full-size model; smaller windows or layers have fewer.".into()];
    table
}

/// What it ran on, and how to do it again.
fn environment(run: &RunFiles) -> Section {
    let mut section = Section::new("environment", "Environment");
    let path = run.path.display();
    section.text("How to do it again, and to look further:");
    section.lines(&format!(
        "epi-engine train --preset {path}/config.toml --out NEW\nepi-engine evaluate {path} --part test\nepi-engine report {path}"
    ));
    match &run.log {
        Some(log) => section.folded_lines("Log of the run: device, data, split, evaluations", log),
        None => section.missing("log", "The folder has no log.txt, which would name device and data.", None),
    }
    section.folded_lines("Configuration (config.toml)", &run.config_text);
    section
}
