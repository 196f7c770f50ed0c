//! What each leak is worth, and what one cell line learns for another.

use super::format::score;
use super::html::Section;
use super::marks::{Dot, dots};
use super::plot::Heading;
use super::pooled::difference;
use super::series::Series;
use super::study::{Ids, distinct, estimate};
use super::tables::{Cell, Kind, Table};

/// From the sound protocols to those that leak most.
const ORDER: [&str; 7] = ["chromosome", "component", "promoter", "enhancer", "random", "paper-text", "paper-code"];

fn rank(protocol: &str) -> usize {
    ORDER.iter().position(|p| *p == protocol).unwrap_or(ORDER.len())
}

/// The leak table: per model, every protocol against held-out chromosomes, beside what reads no sequence.
pub fn leaks(series: &[Series], ids: &mut Ids) -> Section {
    let mut section = Section::new("leaks", "Leaks");
    section.text(
        "What each leak is worth. AUROC, because base rates differ between protocols: the score under a protocol less the same \
         model's under held-out chromosomes, and on the same rows the element lookup and the distance of the pair, which read no \
         sequence. A model on random DNA has nothing but identity to learn from.",
    );
    let scored = || series.iter().filter(|s| s.scored.is_some() && !s.crosses());
    let columns = [
        ("model", Kind::Text),
        ("data", Kind::Text),
        ("line", Kind::Text),
        ("protocol", Kind::Text),
        ("scored pairs", Kind::Count),
        ("resampled", Kind::Text),
        ("AUROC", Kind::Score),
        ("less chromosome", Kind::Score),
        ("lookup AUROC", Kind::Score),
        ("distance AUROC", Kind::Score),
        ("AUPR", Kind::Score),
        ("base rate", Kind::Score),
        ("lookup AUPR", Kind::Score),
    ];
    let mut table = Table::new("leak-table", "What each leak is worth", &columns);
    for (dataset, line) in distinct(scored(), |s| (s.dataset.as_str(), s.cell_line.as_str())) {
        let mut of: Vec<&Series> = scored().filter(|s| (&*s.dataset, &*s.cell_line) == (dataset, line)).collect();
        let protocols = distinct(of.iter().copied(), |s| s.protocol.as_str());
        if protocols.len() < 2 && !of.iter().any(|s| s.leaky()) {
            continue;
        }
        let labels = distinct(of.iter().copied(), |s| s.label.as_str());
        let place = |s: &Series| labels.iter().position(|l| *l == s.label);
        of.sort_by_key(|s| (place(s), rank(&s.protocol)));
        let mut rows = Vec::new();
        for s in &of {
            let r = s.scored.as_ref().expect("filtered");
            let sound = of.iter().find(|o| o.label == s.label && o.protocol == "chromosome");
            let less = match sound {
                Some(sound) if s.protocol != "chromosome" => {
                    Cell::Score(difference(s.score("auroc"), sound.score("auroc")))
                }
                Some(_) => Cell::Note(String::new()),
                None => Cell::Note("no such run".into()),
            };
            table.row(vec![
                Cell::text(&s.label),
                Cell::text(dataset),
                Cell::text(line),
                Cell::protocol(&s.protocol, s.leaky()),
                Cell::Count(r.pooled.n as u64),
                Cell::Text(r.pooled.resampled()),
                estimate(s, "auroc"),
                less,
                Cell::Score(r.lookup[1]),
                Cell::Score(r.distance[1]),
                estimate(s, "aupr"),
                Cell::value(s.score("base_rate").0),
                Cell::Score(r.lookup[0]),
            ]);
            rows.push(Dot {
                name: format!("{}, {}", s.label, s.protocol),
                estimate: s.score("auroc"),
                colour: usize::from(s.leaky()),
                beside: r.lookup[1].0.map(|v| (v, format!("element lookup, {}: {}", s.protocol, score(Some(v))))),
            });
        }
        let at = if line == "all" { dataset.to_string() } else { format!("{dataset} {line}") };
        let id = ids.get("leaks-auroc", &[dataset, line]);
        let heading = Heading {
            id: &id,
            title: &format!("AUROC by protocol, {at}"),
            description: "AUROC of every model under every protocol with 95 % intervals; diamonds are the element lookup.",
            leaky: of.iter().any(|s| s.leaky()).then_some("some protocols"),
        };
        section.figure(
            dots(&heading, "AUROC", &rows, Some((0.5, "chance"))),
            "Discs are models (orange: under a leaking protocol), diamonds the element lookup on the same rows.",
        );
    }
    table.notes = vec![
        "Intervals of differences combine those of both scores as of independent samples; without both there is none. Baselines of \
         several runs are means weighted by pairs, without an interval."
            .into(),
    ];
    match table.rows.is_empty() {
        true => {
            section.missing("leak-table", "No data set has been scored under a second or a leaking protocol yet.", None)
        }
        false => section.table(table),
    }
    section
}

/// The matrix of lines that train and lines that are scored, and general models.
pub fn across(series: &[Series], ids: &mut Ids) -> Section {
    let mut section = Section::new("across", "Across lines");
    let crossing = || series.iter().filter(|s| s.crosses());
    for dataset in distinct(crossing(), |s| s.dataset.as_str()) {
        let of = || crossing().filter(|s| s.dataset == dataset);
        let own = || series.iter().filter(|s| s.dataset == dataset && !s.crosses() && s.protocol == "chromosome");
        let mut lines = distinct(series.iter().filter(|s| s.dataset == dataset), |s| s.cell_line.as_str());
        lines.retain(|line| of().any(|s| s.cell_line == *line));
        let trained = |s: &Series| match s.trained_on.as_slice() {
            [one] => one.clone(),
            many => format!("{} lines: {}", many.len(), many.join(", ")),
        };
        for (name, score) in [("AUROC", "auroc"), ("AUPR", "aupr")] {
            let mut columns = vec![("model", Kind::Text), ("protocol", Kind::Text), ("trained on", Kind::Text)];
            columns.extend(lines.iter().map(|l| (*l, Kind::Score)));
            let id = ids.get(&format!("across-{}", name.to_lowercase()), &[dataset]);
            let mut table =
                Table::new(&id, &format!("{name} on {dataset}: trained on a line, scored on another"), &columns);
            // Models of many other lines leave another one out in each column: they share a row.
            let rows = distinct(of(), |s| {
                let others =
                    if s.trained_on.len() == 1 { trained(s) } else { format!("{} other lines", s.trained_on.len()) };
                (s.label.as_str(), s.protocol.as_str(), s.leaky(), others)
            });
            for (label, protocol, leaky, lines_trained) in &rows {
                let at = |line: &&str| {
                    of().find(|s| {
                        let several =
                            s.trained_on.len() > 1 && *lines_trained == format!("{} other lines", s.trained_on.len());
                        (&*s.label, &*s.protocol, &*s.cell_line) == (*label, *protocol, *line)
                            && (several || s.trained_on.len() == 1 && trained(s) == *lines_trained)
                    })
                };
                let cell = |line: &&str| at(line).map_or(Cell::Note(String::new()), |s| estimate(s, score));
                let mut row = vec![Cell::text(*label), Cell::protocol(protocol, *leaky), Cell::text(lines_trained)];
                row.extend(lines.iter().map(cell));
                table.row(row);
            }
            for label in distinct(own(), |s| s.label.as_str()) {
                let at = |line: &&str| own().find(|s| s.label == label && s.cell_line == *line);
                if lines.iter().any(|l| at(l).is_some()) {
                    let mut row = vec![Cell::text(label), Cell::text("chromosome"), Cell::text("the same line")];
                    row.extend(lines.iter().map(|l| at(l).map_or(Cell::Note(String::new()), |s| estimate(s, score))));
                    table.row(row);
                }
            }
            section.table(table);
        }
    }
    if section.tables.is_empty() {
        section.missing(
            "across-auroc",
            "The study holds no model that is scored on another line than it was trained on.",
            None,
        );
    }
    section
}
