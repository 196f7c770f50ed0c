//! Plots of values with intervals: bars in groups, dots with whiskers; and scatter plots.

use super::format::{score, with_interval};
use super::plot::{Frame, Heading, headed, legend, text_width};
use super::scale::{Scale, rounded};
use super::svg::{SERIES, Svg};
use crate::metrics::Interval;

/// A value with its interval; `None` where there is no value.
pub type Estimate = (Option<f64>, Option<Interval>);

/// A bar of every group.
#[derive(Clone, Debug)]
pub struct Bars {
    pub name: String,
    pub colour: usize,
    /// One per group; the published value beside it, if there is one.
    pub values: Vec<(Estimate, Option<f64>)>,
}

/// Bars in groups along the level axis, from 0 to 1, whiskers for intervals, diamonds for published values.
pub fn bars(heading: &Heading, y_label: &str, groups: &[String], series: &[Bars]) -> Svg {
    let each = if series.len() <= 2 { 30.0 } else { 20.0 };
    let widest = groups.iter().map(|g| text_width(g)).fold(0.0, f64::max);
    let group = (each * series.len() as f64 + 18.0).max(widest + 10.0);
    let width = (66.0 + group * groups.len() as f64).max(380.0);
    let (mut svg, top) = headed(heading, [width, 320.0]);
    let mut entries: Vec<_> = series.iter().map(|s| (s.name.clone(), format!("f{}", s.colour % SERIES))).collect();
    if series.iter().any(|s| s.values.iter().any(|v| v.1.is_some())) {
        entries.push(("published".into(), "published".into()));
    }
    let top = if entries.len() > 1 { legend(&mut svg, top, &entries, true) } else { top };
    let frame = Frame {
        x: Scale { low: 0.0, high: groups.len() as f64, from: 52.0, to: width - 14.0 },
        y: Scale { low: 0.0, high: 1.0, from: 320.0 - 34.0, to: top + 8.0 },
    };
    frame.draw_y(&mut svg, y_label);
    let numbers = each >= 30.0;
    for (g, name) in groups.iter().enumerate() {
        let middle = frame.x.at(g as f64 + 0.5);
        let start = middle - each * series.len() as f64 / 2.0;
        svg.text(middle, frame.y.from + 17.0, "middle", "small", name);
        for (i, s) in series.iter().enumerate() {
            let ((value, interval), published) = s.values[g];
            let (left, wide) = (start + each * i as f64 + 2.0, each - 4.0);
            let hint = format!("{}, {name}: {}", s.name, with_interval(value, interval));
            match value {
                Some(v) => {
                    let y = frame.y.at(v);
                    svg.rectangle([left, y, wide, frame.y.from - y], &format!("f{}", s.colour % SERIES), &hint);
                    if numbers {
                        let above = interval.map_or(y, |i| frame.y.at(i.high)) - 5.0;
                        svg.text(left + wide / 2.0, above, "middle", "small halo", &score(value));
                    }
                }
                None => svg.upright(left + wide / 2.0 + 4.0, frame.y.from - 24.0, "small muted", "no score"),
            }
            if let Some(i) = interval {
                let x = left + wide / 2.0;
                svg.whisker([x, frame.y.at(i.low)], [x, frame.y.at(i.high)]);
            }
            if let Some(p) = published {
                let hint = format!("{}, {name}: published {}", s.name, score(published));
                svg.diamond([left + wide / 2.0, frame.y.at(p)], &hint);
            }
        }
    }
    svg.line([frame.x.from, frame.y.from], [frame.x.to, frame.y.from], "axis");
    svg
}

/// One line of a dot plot.
#[derive(Clone, Debug)]
pub struct Dot {
    pub name: String,
    pub estimate: Estimate,
    pub colour: usize,
    /// Another value to compare it with, as a diamond, and what it is.
    pub beside: Option<(f64, String)>,
}

/// Values with whiskers below each other, and what guessing gives as a dashed line. Long names stand above their values.
pub fn dots(heading: &Heading, x_label: &str, rows: &[Dot], chance: Option<(f64, &str)>) -> Svg {
    let longest = rows.iter().map(|r| text_width(&r.name)).fold(40.0, f64::max);
    let (left, each, down) = if longest > 130.0 { (14.0, 36.0, 0.72) } else { (longest + 14.0, 26.0, 0.5) };
    let height = 42.0 + each * rows.len() as f64 + 66.0;
    let (mut svg, top) = headed(heading, [400.0, height]);
    let frame = Frame {
        x: Scale { low: 0.0, high: 1.0, from: left, to: 400.0 - 16.0 },
        y: Scale { low: rows.len() as f64, high: 0.0, from: height - 44.0, to: top + 20.0 },
    };
    for i in 0..=5 {
        let x = frame.x.at(f64::from(i) / 5.0);
        svg.line([x, frame.y.from], [x, frame.y.to], "grid");
    }
    if let Some((at, name)) = chance {
        let x = frame.x.at(at);
        svg.line([x, frame.y.from], [x, frame.y.to], "reference");
        let anchor = if at > 0.7 {
            "end"
        } else if at < 0.15 {
            "start"
        } else {
            "middle"
        };
        svg.text(x, frame.y.to - 5.0, anchor, "small muted", name);
    }
    for (i, row) in rows.iter().enumerate() {
        let y = frame.y.at(i as f64 + down);
        match longest > 130.0 {
            true => svg.text(left, frame.y.at(i as f64 + 0.38), "start", "small halo", &row.name),
            false => svg.text(left - 10.0, y + 4.0, "end", "small", &row.name),
        }
        let (value, interval) = row.estimate;
        if let Some(i) = interval {
            svg.whisker([frame.x.at(i.low), y], [frame.x.at(i.high), y]);
        }
        if let Some((v, hint)) = &row.beside {
            svg.diamond([frame.x.at(*v), y], hint);
        }
        match value {
            Some(v) => {
                let hint = format!("{}: {}", row.name, with_interval(value, interval));
                svg.disc([frame.x.at(v), y], 4.5, &format!("f{}", row.colour % SERIES), &hint);
            }
            None => svg.text(frame.x.from + 6.0, y + 4.0, "start", "small muted", "not defined here"),
        }
    }
    frame.draw_x(&mut svg, x_label);
    svg
}

/// Points of two classes; the second, as squares, on top.
pub fn scatter(heading: &Heading, labels: [&str; 2], classes: [(&str, &[(f64, f64)]); 2], size: [f64; 2]) -> Svg {
    let (mut svg, top) = headed(heading, size);
    let entries = [0, 1].map(|i| (format!("{} (n = {})", classes[i].0, classes[i].1.len()), format!("f{i}")));
    let top = legend(&mut svg, top, &entries, true);
    let all = || classes.iter().flat_map(|(_, points)| points.iter());
    let (x_low, x_high) = rounded(all().map(|p| p.0), 6);
    let (y_low, y_high) = rounded(all().map(|p| p.1), 6);
    let frame = Frame {
        x: Scale { low: x_low, high: x_high, from: 52.0, to: size[0] - 24.0 },
        y: Scale { low: y_low, high: y_high, from: size[1] - 44.0, to: top + 8.0 },
    };
    frame.draw_y(&mut svg, labels[1]);
    frame.draw_x(&mut svg, labels[0]);
    for (i, (_, points)) in classes.iter().enumerate() {
        let placed: Vec<[f64; 2]> = points.iter().map(|&p| frame.at(p)).collect();
        svg.dots(&placed, &format!("{} k{i}", ["dots", "squares"][i]));
    }
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADING: Heading = Heading { id: "x", title: "X", description: "a test", leaky: None };

    #[test]
    fn bars_say_what_they_are_and_what_is_missing() {
        let interval = Some(Interval { low: 0.4, high: 0.7 });
        let values = vec![((Some(0.5), interval), Some(0.97)), ((None, None), None)];
        let series = [Bars { name: "EP<SAT".into(), colour: 0, values }];
        let svg = bars(&HEADING, "F1", &["NHEK".into(), "K562".into()], &series).inline();
        for wanted in ["EP&lt;SAT, NHEK: .500 [.40, .70]", "published .970", "no score", "class='whisker'"] {
            assert!(svg.contains(wanted), "{wanted} in {svg}");
        }
    }

    #[test]
    fn dots_and_points_are_drawn_where_they_are() {
        let rows = [
            Dot { name: "model".into(), estimate: (Some(1.0), None), colour: 0, beside: None },
            Dot { name: "distance".into(), estimate: (None, None), colour: 1, beside: Some((0.9, "lookup".into())) },
        ];
        let svg = dots(&HEADING, "AUROC", &rows, Some((0.5, "chance"))).inline();
        assert!(svg.contains("cx='384.0'") && svg.contains("not defined here") && svg.contains("chance"));
        let svg = scatter(&HEADING, ["a", "b"], [("no", &[(0.0, 0.0)]), ("yes", &[])], [300.0; 2]).inline();
        assert!(svg.contains("no (n = 1)") && svg.contains("yes (n = 0)") && !svg.contains("NaN"));
    }
}
