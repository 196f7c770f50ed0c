//! The figures that a run and a study share, from what their files hold.

use super::curves::Curves;
use super::files::{Calibration, Logged, Mapped};
use super::format::score;
use super::marks::scatter;
use super::plot::{Axis, Heading, Line, Names, Reference, SMALL, histogram, lines};
use super::svg::Svg;

/// Shares and probabilities.
const UNIT: Option<(f64, f64)> = Some((0.0, 1.0));

/// A curve of each model: its name, its colour.
pub type Named<'a> = (String, usize, &'a Curves);

fn curve(name: &str, colour: usize, alone: bool, points: &[(f64, f64)]) -> Line {
    let dash = if alone { 0 } else { colour % 4 };
    Line { name: name.into(), colour, dash, thin: false, dots: false, points: points.to_vec() }
}

/// ROC curves, with the diagonal of guessing.
pub fn roc(id: &str, title: &str, leaky: Option<&str>, models: &[Named]) -> Svg {
    let description = "True positive rate against false positive rate; the dashed diagonal is guessing.";
    let one = models.len() == 1;
    let all: Vec<Line> = models.iter().map(|(name, colour, c)| curve(name, *colour, one, &c.roc)).collect();
    let axes = [Axis { label: "false positive rate", range: UNIT }, Axis { label: "true positive rate", range: UNIT }];
    let heading = Heading { id, title, description, leaky };
    let names = if one { Names::Nowhere } else { Names::Above };
    lines(&heading, axes, &all, &[Reference::Diagonal("chance".into())], names, SMALL)
}

/// Precision–recall curves, with the base rate.
pub fn precision_recall(id: &str, title: &str, leaky: Option<&str>, models: &[Named]) -> Svg {
    let description = "Precision against recall; the dashed line is the share of positives, which guessing reaches.";
    let one = models.len() == 1;
    let all: Vec<Line> =
        models.iter().map(|(name, colour, c)| curve(name, *colour, one, &c.precision_recall)).collect();
    let axes = [Axis { label: "recall", range: UNIT }, Axis { label: "precision", range: UNIT }];
    let base = models.iter().find_map(|m| m.2.base_rate);
    let level = base.map(|rate| Reference::Level(rate, format!("base rate {}", score(base))));
    let heading = Heading { id, title, description, leaky };
    let names = if one { Names::Nowhere } else { Names::Above };
    lines(&heading, axes, &all, level.as_slice(), names, SMALL)
}

/// Share of positives against the mean score, bin by bin.
pub fn calibration(id: &str, title: &str, leaky: Option<&str>, of: &Calibration) -> Svg {
    let description = "Share of positives against the mean predicted probability of ten bins; the diagonal is perfect.";
    let points = of.bins.iter().filter_map(|b| b.mean_score.zip(b.positive_rate)).collect();
    let line = Line { name: String::new(), colour: 0, dash: 0, thin: true, dots: true, points };
    let axes =
        [Axis { label: "mean predicted probability", range: UNIT }, Axis { label: "share of positives", range: UNIT }];
    let heading = Heading { id, title, description, leaky };
    lines(&heading, axes, &[line], &[Reference::Diagonal("perfect".into())], Names::Nowhere, SMALL)
}

/// A value of the log over steps.
type Value = fn(&Logged) -> Option<f64>;

fn logged(history: &[Logged], split: &str, value: Value) -> Vec<(f64, f64)> {
    history.iter().filter(|l| l.split == split).filter_map(|l| Some((f64::from(l.step), value(l)?))).collect()
}

/// Where phases of training begin, after the first.
fn phases(history: &[Logged]) -> Vec<Reference> {
    let begins = history.windows(2).filter(|w| w[0].phase != w[1].phase && w[1].step > w[0].step);
    begins.map(|w| Reference::At(f64::from(w[0].step), w[1].phase.clone().unwrap_or_default())).collect()
}

/// The seed report's Figure 3: loss in training and on validation, one line a run. `best` is the step of the kept weights.
pub fn loss(id: &str, title: &str, leaky: Option<&str>, runs: &[&[Logged]], best: Option<u32>) -> Svg {
    let several = runs.len() > 1;
    let line = |split: &'static str, colour| {
        runs.iter().map(move |history| Line {
            name: split.into(),
            colour,
            dash: colour,
            thin: several,
            dots: false,
            points: logged(history, split, |l| l.loss),
        })
    };
    let all: Vec<Line> = line("train", 0).chain(line("validation", 1)).collect();
    let mut marks = if several { Vec::new() } else { runs.first().map_or(Vec::new(), |h| phases(h)) };
    marks.extend(best.map(|step| Reference::At(f64::from(step), "kept".into())));
    let description = "Mean loss over optimiser steps, solid in training, dashed on validation.";
    let axes = [Axis { label: "step", range: None }, Axis { label: "loss", range: None }];
    lines(&Heading { id, title, description, leaky }, axes, &all, &marks, Names::AtTheEnds, SMALL)
}

/// AUROC and AUPR on validation while training goes on.
pub fn validation(id: &str, title: &str, leaky: Option<&str>, runs: &[&[Logged]]) -> Svg {
    let values: [(&str, Value); 2] = [("AUROC", |l| l.auroc), ("AUPR", |l| l.aupr)];
    let thin = runs.len() > 1;
    let line = |(colour, (name, value)): (usize, (&str, Value))| {
        let points = |history: &&[Logged]| logged(history, "validation", value);
        let one = |points| Line { name: name.into(), colour: colour + 2, dash: colour, thin, dots: false, points };
        runs.iter().map(points).map(one).collect::<Vec<_>>()
    };
    let all: Vec<Line> = values.into_iter().enumerate().flat_map(line).collect();
    let description = "AUROC (solid) and AUPR (dashed) of the validation part over optimiser steps.";
    let axes = [Axis { label: "step", range: None }, Axis { label: "score on validation", range: UNIT }];
    lines(&Heading { id, title, description, leaky }, axes, &all, &[], Names::AtTheEnds, SMALL)
}

/// Whether a log holds any evaluation of the validation part.
pub fn validated(history: &[Logged]) -> bool {
    history.iter().any(|l| l.split == "validation")
}

/// The classes of Figure 5.
const CLASSES: [&str; 2] = ["not interacting", "interacting"];

/// The seed report's Figure 5, activations: log odds of both classes of the test part.
pub fn activations(id: &str, title: &str, leaky: Option<&str>, pairs: &[(u8, f32)]) -> Svg {
    let of = |label: u8| -> Vec<f64> {
        let scores = pairs.iter().filter(|p| p.0 == label).map(|p| f64::from(p.1).clamp(1e-7, 1.0 - 1e-7));
        scores.map(|p| (p / (1.0 - p)).ln()).collect()
    };
    let (no, yes) = (of(0), of(1));
    let description =
        "Distribution of the log odds that the logistic layer gives interacting and non-interacting pairs.";
    let heading = Heading { id, title, description, leaky };
    histogram(&heading, "log odds", [(CLASSES[0], &no), (CLASSES[1], &yes)], SMALL)
}

/// The seed report's Figure 5, maps: a plane of `explain/latent.tsv`.
pub fn map(heading: &Heading, labels: [&str; 2], points: &[Mapped], place: fn(&Mapped) -> (f64, f64)) -> Svg {
    let of = |label: u8| points.iter().filter(|m| m.label == label).map(place).collect::<Vec<_>>();
    let (no, yes) = (of(0), of(1));
    scatter(heading, labels, [(CLASSES[0], &no), (CLASSES[1], &yes)], SMALL)
}
