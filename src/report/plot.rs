//! Axes and the plots made of them: lines and histograms. `marks.rs` has bars, dots with whiskers and scatter plots.

use super::scale::{Scale, label, rounded, ticks};
use super::svg::{SERIES, Svg};

/// What every plot says beside its data.
#[derive(Clone, Copy, Debug)]
pub struct Heading<'a> {
    pub id: &'a str,
    pub title: &'a str,
    /// In words, for those who do not see it.
    pub description: &'a str,
    /// The protocol, when it leaks.
    pub leaky: Option<&'a str>,
}

/// An axis: what it measures and from where to where; without a range, round numbers around the data.
#[derive(Clone, Copy, Debug)]
pub struct Axis<'a> {
    pub label: &'a str,
    pub range: Option<(f64, f64)>,
}

/// A line.
#[derive(Clone, Debug)]
pub struct Line {
    pub name: String,
    /// Its colour; several lines may share one.
    pub colour: usize,
    /// 0 solid, 1 to 3 dashed.
    pub dash: usize,
    pub thin: bool,
    /// A dot at every point.
    pub dots: bool,
    pub points: Vec<(f64, f64)>,
}

/// A dashed line that marks what guessing gives, or a moment.
#[derive(Clone, Debug)]
pub enum Reference {
    /// `y` is this everywhere.
    Level(f64, String),
    /// `x` is this.
    At(f64, String),
    /// `y = x`.
    Diagonal(String),
}

/// How the lines of a plot are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// One line, named by the title.
    Nowhere,
    /// Beside the end of each line.
    AtTheEnds,
    /// Above the plot.
    Above,
}

/// Width and height of a plot among others, and of one that stands alone.
pub const SMALL: [f64; 2] = [400.0, 320.0];

/// Pixels that text of the usual size takes, about.
pub fn text_width(text: &str) -> f64 {
    6.6 * text.chars().count() as f64
}

/// The place of the data within a drawing, with its axes.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub x: Scale,
    pub y: Scale,
}

impl Frame {
    /// Where a point lies.
    pub fn at(&self, (x, y): (f64, f64)) -> [f64; 2] {
        [self.x.at(x), self.y.at(y)]
    }
    /// Grid, ticks and labels of the upright axis.
    pub fn draw_y(&self, svg: &mut Svg, name: &str) {
        let (marks, decimals) = ticks(self.y.low, self.y.high, 5);
        for mark in marks {
            let y = self.y.at(mark);
            svg.line([self.x.from, y], [self.x.to, y], "grid");
            svg.text(self.x.from - 7.0, y + 4.0, "end", "small muted", &label(mark, decimals));
        }
        svg.upright(13.0, (self.y.from + self.y.to) / 2.0, "muted", name);
    }
    /// Ticks and labels of the level axis.
    pub fn draw_x(&self, svg: &mut Svg, name: &str) {
        let (marks, decimals) = ticks(self.x.low, self.x.high, 5);
        svg.line([self.x.from, self.y.from], [self.x.to, self.y.from], "axis");
        for mark in marks {
            let x = self.x.at(mark);
            svg.line([x, self.y.from], [x, self.y.from + 4.0], "axis");
            svg.text(x, self.y.from + 17.0, "middle", "small muted", &label(mark, decimals));
        }
        svg.text((self.x.from + self.x.to) / 2.0, self.y.from + 35.0, "middle", "muted", name);
    }
}

/// A drawing with its title and stamp, and the height they take.
pub fn headed(heading: &Heading, [width, height]: [f64; 2]) -> (Svg, f64) {
    let mut svg = Svg::new(heading.id, heading.title, heading.description, width, height);
    let stamped = heading.leaky.map_or(0.0, |protocol| {
        svg.stamp(protocol);
        7.4 * (7 + protocol.chars().count()) as f64 + 20.0
    });
    // A title that would run into the stamp stands below it.
    let below = 8.2 * heading.title.chars().count() as f64 + 2.0 + stamped > width;
    let y = if below && stamped > 0.0 { 36.0 } else { 15.0 };
    svg.text(1.0, y, "start", "title", heading.title);
    (svg, y + 9.0)
}

/// Names with samples of their lines or swatches, in rows above a plot; returns the height that is taken.
pub fn legend(svg: &mut Svg, top: f64, entries: &[(String, String)], swatch: bool) -> f64 {
    let (mut x, mut y) = (1.0, top + 12.0);
    for (name, class) in entries {
        let width = 24.0 + text_width(name) + 12.0;
        if x > 1.0 && x + width > svg.width() {
            (x, y) = (1.0, y + 17.0);
        }
        if swatch {
            svg.rectangle([x, y - 9.0, 11.0, 10.0], class, "");
        } else {
            svg.line([x, y - 4.0], [x + 19.0, y - 4.0], class);
        }
        svg.text(x + if swatch { 16.0 } else { 24.0 }, y, "start", "small", name);
        x += width;
    }
    if entries.is_empty() { top } else { y + 8.0 }
}

fn class(line: &Line) -> String {
    let thin = if line.thin { " thin" } else { "" };
    format!("line k{} dash{}{thin}", line.colour % SERIES, line.dash)
}

/// Lines over a level axis.
pub fn lines(
    heading: &Heading,
    [x, y]: [Axis; 2],
    lines: &[Line],
    references: &[Reference],
    names: Names,
    size: [f64; 2],
) -> Svg {
    let (mut svg, top) = headed(heading, size);
    let named = |line: &&Line| !line.name.is_empty() && !line.points.is_empty();
    let mut seen = Vec::new();
    let entries: Vec<(String, String)> = lines
        .iter()
        .filter(named)
        .filter(|l| !seen.contains(&&l.name) && (seen.push(&l.name), true).1)
        .map(|l| (l.name.clone(), class(l)))
        .collect();
    let top = if names == Names::Above { legend(&mut svg, top, &entries, false) } else { top };
    let widest = entries.iter().map(|(name, _)| text_width(name)).fold(0.0, f64::max);
    let right = if names == Names::AtTheEnds { widest + 14.0 } else { 20.0 };
    let all = || lines.iter().flat_map(|l| l.points.iter().copied());
    let level = references.iter().filter_map(|r| if let Reference::Level(v, _) = r { Some(*v) } else { None });
    let (x_low, x_high) = x.range.unwrap_or_else(|| rounded(all().map(|p| p.0), 5));
    let (y_low, y_high) = y.range.unwrap_or_else(|| rounded(all().map(|p| p.1).chain(level), 5));
    let frame = Frame {
        x: Scale { low: x_low, high: x_high, from: 52.0, to: size[0] - right },
        y: Scale { low: y_low, high: y_high, from: size[1] - 44.0, to: top + 8.0 },
    };
    frame.draw_y(&mut svg, y.label);
    frame.draw_x(&mut svg, x.label);
    for reference in references {
        refer(&mut svg, &frame, reference);
    }
    let mut ends = Vec::new();
    for line in lines {
        let points: Vec<[f64; 2]> = line.points.iter().map(|&p| frame.at(p)).collect();
        match points.as_slice() {
            [] => continue,
            [one] => svg.dots(&[*one], &format!("dots k{}", line.colour % SERIES)),
            _ => svg.path(&points, &class(line)),
        }
        if line.dots {
            svg.dots(&points, &format!("dots k{}", line.colour % SERIES));
        }
        if named(&line) && !ends.iter().any(|(_, name)| *name == line.name) {
            ends.push((points[points.len() - 1][1], line.name.clone()));
        }
    }
    if names == Names::AtTheEnds {
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (y, name) in apart(ends, 14.0, frame.y.to + 4.0, frame.y.from) {
            svg.text(frame.x.to + 7.0, y + 4.0, "start", "small", &name);
        }
    }
    svg
}

fn refer(svg: &mut Svg, frame: &Frame, reference: &Reference) {
    let Frame { x, y } = *frame;
    match reference {
        Reference::Level(value, name) => {
            let at = y.at(*value);
            svg.line([x.from, at], [x.to, at], "reference");
            let above = if at - y.to < 16.0 { at + 13.0 } else { at - 5.0 };
            svg.text(x.to - 2.0, above, "end", "small muted halo", name);
        }
        Reference::At(value, name) => {
            let at = x.at(*value);
            svg.line([at, y.from], [at, y.to], "reference");
            let right = at + text_width(name) + 8.0 < x.to;
            let (place, anchor) = if right { (at + 4.0, "start") } else { (at - 4.0, "end") };
            svg.text(place, y.to + 9.0, anchor, "small muted halo", name);
        }
        Reference::Diagonal(name) => {
            let (low, high) = (x.low.max(y.low), x.high.min(y.high));
            svg.line(frame.at((low, low)), frame.at((high, high)), "reference");
            let [px, py] = frame.at((low + 0.66 * (high - low), low + 0.66 * (high - low)));
            svg.text(px + 8.0, py + 14.0, "start", "small muted halo", name);
        }
    }
}

/// Labels moved so that they are at least `room` apart, in order, within `low..high` as far as they fit.
fn apart(mut labels: Vec<(f64, String)>, room: f64, low: f64, high: f64) -> Vec<(f64, String)> {
    let mut next = low;
    for (y, _) in &mut labels {
        *y = y.max(next);
        next = *y + room;
    }
    let mut last = high;
    for (y, _) in labels.iter_mut().rev() {
        *y = y.min(last);
        last = *y - room;
    }
    labels
}

/// Shares of two classes per bin of a value, each class by itself.
pub fn histogram(heading: &Heading, x_label: &str, classes: [(&str, &[f64]); 2], size: [f64; 2]) -> Svg {
    const BINS: usize = 36;
    let (mut svg, top) = headed(heading, size);
    let entries = [0, 1].map(|i| (format!("{} (n = {})", classes[i].0, classes[i].1.len()), format!("f{i}")));
    let top = legend(&mut svg, top, &entries, true);
    let (low, high) = rounded(classes.iter().flat_map(|(_, v)| v.iter().copied()), 6);
    let shares = classes.map(|(_, values)| {
        let mut bins = vec![0.0f64; BINS];
        for v in values {
            let at = ((v - low) / (high - low) * BINS as f64) as usize;
            bins[at.min(BINS - 1)] += 1.0 / values.len() as f64;
        }
        bins
    });
    let most = shares.iter().flatten().copied().fold(0.0, f64::max);
    let (_, y_high) = rounded([0.0, most].into_iter(), 4);
    let frame = Frame {
        x: Scale { low, high, from: 52.0, to: size[0] - 24.0 },
        y: Scale { low: 0.0, high: y_high, from: size[1] - 44.0, to: top + 8.0 },
    };
    frame.draw_y(&mut svg, "share of the class");
    for (class, bins) in shares.iter().enumerate().filter(|(i, _)| !classes[*i].1.is_empty()) {
        let edge = |i: usize| frame.x.at(low + (high - low) * i as f64 / BINS as f64);
        let mut points = vec![[edge(0), frame.y.from]];
        for (i, &share) in bins.iter().enumerate() {
            let y = frame.y.at(share);
            points.extend([[edge(i), y], [edge(i + 1), y]]);
        }
        points.push([edge(BINS), frame.y.from]);
        svg.area(&points, &format!("area f{class}"));
        svg.path(&points, &format!("line thin k{class}"));
    }
    frame.draw_x(&mut svg, x_label);
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_keep_their_order_and_their_distance() {
        let labels =
            vec![(10.0, "a".to_string()), (11.0, "b".to_string()), (97.0, "c".to_string()), (99.0, "d".into())];
        let placed: Vec<f64> = apart(labels, 14.0, 0.0, 100.0).into_iter().map(|l| l.0).collect();
        assert_eq!(placed, [10.0, 24.0, 86.0, 100.0]);
    }

    #[test]
    fn plots_of_nothing_and_of_a_point_are_plots() {
        let heading = Heading { id: "x", title: "X", description: "nothing", leaky: Some("random") };
        let axis = Axis { label: "x", range: None };
        let point = Line { name: "a".into(), colour: 9, dash: 0, thin: false, dots: true, points: vec![(1.0, 2.0)] };
        for data in [vec![], vec![Line { points: vec![], ..point.clone() }], vec![point]] {
            let svg = lines(&heading, [axis; 2], &data, &[], Names::AtTheEnds, SMALL).inline();
            assert!(svg.contains("LEAKY: random") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        let svg = histogram(&heading, "x", [("a", &[]), ("b", &[1.0, 1.0])], SMALL).inline();
        assert!(svg.contains("n = 2") && !svg.contains("NaN"));
    }
}
