//! Drawings as SVG: shapes and text with classes; colours come from the theme, in the page and in files of their own.

use std::fmt::Write;

use super::format::escape;

/// Colours by name: in a light and in a dark surrounding. All series reach 4.5:1 against the paper of their theme and stay
/// apart under red-green blindness; lines differ in their dashes too.
const COLOURS: [(&str, &str, &str); 16] = [
    ("paper", "#ffffff", "#15181c"),
    ("ink", "#1b1f24", "#e6e9ed"),
    ("muted", "#59626e", "#a3adb8"),
    ("line", "#d3d9e0", "#363d46"),
    ("grid", "#e9edf1", "#262b32"),
    ("soft", "#f6f8fa", "#1b1f25"),
    ("leaky", "#b3261e", "#ff8a80"),
    ("leaky-soft", "#fdf0ee", "#33201e"),
    ("s0", "#0b62a8", "#6fb5ef"),
    ("s1", "#b3500b", "#f79a59"),
    ("s2", "#00755a", "#4fcfa6"),
    ("s3", "#8a3f9e", "#d59be8"),
    ("s4", "#7a5d00", "#dcbd4a"),
    ("s5", "#4a5561", "#b4bec9"),
    ("s6", "#a3195b", "#f58bb8"),
    ("s7", "#2f5d2a", "#a0d468"),
];
/// Colours of series; later ones begin anew.
pub const SERIES: usize = 8;

/// How drawings look; the page and the files share it.
const STYLE: &str = "\
svg.drawing{font:12px system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif;font-variant-numeric:tabular-nums}
.drawing text{fill:var(--ink)}
.drawing .title{font-size:13px;font-weight:600}
.drawing .muted{fill:var(--muted)}
.drawing .small{font-size:11px}
.drawing .halo{paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}
.drawing .paper{fill:var(--paper)}
.drawing .grid{fill:none;stroke:var(--grid)}
.drawing .axis{fill:none;stroke:var(--muted)}
.drawing .reference{fill:none;stroke:var(--muted);stroke-dasharray:5 4}
.drawing .line{fill:none;stroke-width:1.9;stroke-linejoin:round;stroke-linecap:round}
.drawing .thin{stroke-width:1.2;opacity:.8}
.drawing .dash1{stroke-dasharray:7 4}.drawing .dash2{stroke-dasharray:2 4}.drawing .dash3{stroke-dasharray:9 4 2 4}
.drawing .dots{fill:none;stroke-width:4.5;stroke-linecap:round;opacity:.75}
.drawing .squares{fill:none;stroke-width:4.5;stroke-linecap:square;opacity:.75}
.drawing .area{opacity:.18}
.drawing .whisker{fill:none;stroke:var(--ink);stroke-width:1.3}
.drawing .published{fill:var(--paper);stroke:var(--ink);stroke-width:1.4}
.drawing .stamp{fill:var(--leaky);font-weight:700;font-size:11px;letter-spacing:.06em}
.drawing .stamp-box{fill:var(--leaky-soft);stroke:var(--leaky)}
";

/// The style sheet of drawings, with a stroke and a fill class for every series.
pub fn style() -> String {
    let mut css = STYLE.to_string();
    for i in 0..SERIES {
        let _ = writeln!(css, ".drawing .k{i}{{stroke:var(--s{i})}}.drawing .f{i}{{fill:var(--s{i})}}");
    }
    css
}

/// Declarations of all colours for a page, `--ink:#1b1f24;…`.
pub fn colours(dark: bool) -> String {
    COLOURS.iter().map(|(name, light, night)| format!("--{name}:{};", if dark { night } else { light })).collect()
}

/// The style sheet with the colours put in: drawing programs know no variables.
fn literal(dark: bool) -> String {
    COLOURS.iter().fold(style(), |css, (name, light, night)| {
        css.replace(&format!("var(--{name})"), if dark { night } else { light })
    })
}

/// A drawing of a fixed size in pixels.
#[derive(Clone, Debug)]
pub struct Svg {
    /// Id in the page, and name of its file.
    pub id: String,
    /// One line, for screen readers too.
    pub title: String,
    description: String,
    width: f64,
    height: f64,
    body: String,
}

impl Svg {
    /// An empty drawing; `description` says in words what it shows.
    pub fn new(id: &str, title: &str, description: &str, width: f64, height: f64) -> Self {
        Svg { id: id.into(), title: title.into(), description: description.into(), width, height, body: String::new() }
    }
    /// Width in pixels.
    pub fn width(&self) -> f64 {
        self.width
    }
    /// Text whose baseline is at `y`; `anchor` is `start`, `middle` or `end`.
    pub fn text(&mut self, x: f64, y: f64, anchor: &str, class: &str, text: &str) {
        let text = escape(text);
        let _ = writeln!(self.body, "<text x='{x:.1}' y='{y:.1}' text-anchor='{anchor}' class='{class}'>{text}</text>");
    }
    /// Text that is read from below, centred on `y`.
    pub fn upright(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let text = escape(text);
        let turn = format!("rotate(-90 {x:.1} {y:.1})");
        let _ = writeln!(
            self.body,
            "<text x='{x:.1}' y='{y:.1}' text-anchor='middle' transform='{turn}' class='{class}'>{text}</text>"
        );
    }
    /// A straight line.
    pub fn line(&mut self, [x0, y0]: [f64; 2], [x1, y1]: [f64; 2], class: &str) {
        let _ = writeln!(self.body, "<path d='M{x0:.1} {y0:.1}L{x1:.1} {y1:.1}' class='{class}'/>");
    }
    /// A line through points.
    pub fn path(&mut self, points: &[[f64; 2]], class: &str) {
        let d = trail(points);
        let _ = writeln!(self.body, "<path d='{d}' class='{class}'/>");
    }
    /// Dots (squares with class `squares`) at points, as one shape.
    pub fn dots(&mut self, points: &[[f64; 2]], class: &str) {
        let d: String = points.iter().map(|[x, y]| format!("M{x:.1} {y:.1}h0")).collect();
        let _ = writeln!(self.body, "<path d='{d}' class='{class}'/>");
    }
    /// A filled shape around points.
    pub fn area(&mut self, points: &[[f64; 2]], class: &str) {
        let d = trail(points);
        let _ = writeln!(self.body, "<path d='{d}Z' class='{class}'/>");
    }
    /// A rectangle; `hint` is shown when one points at it.
    pub fn rectangle(&mut self, [x, y, w, h]: [f64; 4], class: &str, hint: &str) {
        let at = format!("x='{x:.1}' y='{y:.1}' width='{:.1}' height='{:.1}' class='{class}'", w.max(0.0), h.max(0.0));
        let _ = match hint {
            "" => writeln!(self.body, "<rect {at}/>"),
            _ => writeln!(self.body, "<rect {at}><title>{}</title></rect>", escape(hint)),
        };
    }
    /// A disc.
    pub fn disc(&mut self, [x, y]: [f64; 2], radius: f64, class: &str, hint: &str) {
        let _ = writeln!(
            self.body,
            "<circle cx='{x:.1}' cy='{y:.1}' r='{radius:.1}' class='{class}'><title>{}</title></circle>",
            escape(hint)
        );
    }
    /// An interval with its two ends marked, along `x` or upright.
    pub fn whisker(&mut self, [x0, y0]: [f64; 2], [x1, y1]: [f64; 2]) {
        let (dx, dy) = if (x1 - x0).abs() > (y1 - y0).abs() { (0.0, 3.5) } else { (3.5, 0.0) };
        let end = |x: f64, y: f64| format!("M{:.1} {:.1}L{:.1} {:.1}", x - dx, y - dy, x + dx, y + dy);
        let d = format!("M{x0:.1} {y0:.1}L{x1:.1} {y1:.1}{}{}", end(x0, y0), end(x1, y1));
        let _ = writeln!(self.body, "<path d='{d}' class='whisker'/>");
    }
    /// A diamond, which stands for a published value.
    pub fn diamond(&mut self, [x, y]: [f64; 2], hint: &str) {
        let d = format!("M{x:.1} {:.1}L{:.1} {y:.1}L{x:.1} {:.1}L{:.1} {y:.1}Z", y - 5.0, x + 5.0, y + 5.0, x - 5.0);
        let _ = writeln!(self.body, "<path d='{d}' class='published'><title>{}</title></path>", escape(hint));
    }
    /// The stamp of a leaking protocol, at the upper right corner.
    pub fn stamp(&mut self, protocol: &str) {
        let text = format!("LEAKY: {protocol}");
        let width = 7.4 * text.chars().count() as f64 + 12.0;
        self.rectangle([self.width - width - 1.0, 1.0, width, 19.0], "stamp-box", "");
        self.text(self.width - width / 2.0 - 1.0, 14.5, "middle", "stamp", &text);
    }

    fn open(&self, attributes: &str) -> String {
        let Svg { id, width, height, .. } = self;
        let (id, title, description) = (escape(id), escape(&self.title), escape(&self.description));
        format!(
            "<svg {attributes}class='drawing' id='{id}' viewBox='0 0 {width:.0} {height:.0}' width='{width:.0}' \
             height='{height:.0}' role='img' aria-labelledby='{id}-title {id}-text'>\n<title id='{id}-title'>{title}</title>\n\
             <desc id='{id}-text'>{description}</desc>\n"
        )
    }
    /// The drawing as a part of a page, which brings the style.
    pub fn inline(&self) -> String {
        format!("{}{}</svg>", self.open(""), self.body)
    }
    /// The drawing as a file of its own: light, dark where the reader prefers that.
    pub fn file(&self) -> String {
        format!(
            "{}<style>\n{}@media (prefers-color-scheme:dark){{\n{}}}\n</style>\n\
             <rect width='100%' height='100%' class='paper'/>\n{}</svg>\n",
            self.open("xmlns='http://www.w3.org/2000/svg' "),
            literal(false),
            literal(true),
            self.body
        )
    }
}

fn trail(points: &[[f64; 2]]) -> String {
    let mut d = String::new();
    for (i, [x, y]) in points.iter().enumerate() {
        let _ = write!(d, "{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' });
    }
    d
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_files_stand_alone() {
        let mut svg = Svg::new("a", "<title>", "what it & shows", 100.0, 50.0);
        svg.text(1.0, 2.0, "start", "", "</text><script>");
        svg.stamp("random");
        let (inline, file) = (svg.inline(), svg.file());
        assert!(inline.contains("&lt;/text&gt;&lt;script&gt;") && inline.contains("LEAKY: random"));
        assert!(inline.contains("<title id='a-title'>&lt;title&gt;</title>") && inline.contains("what it &amp; shows"));
        assert!(!inline.contains("http") && !inline.contains("var("));
        assert!(!file.contains("var(") && file.contains("prefers-color-scheme") && file.contains("#15181c"));
    }

    /// Relative luminance as WCAG defines it.
    fn luminance(colour: &str) -> f64 {
        let channel = |i: usize| {
            let c = f64::from(u8::from_str_radix(&colour[i..i + 2], 16).unwrap()) / 255.0;
            if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
    }

    #[test]
    fn every_colour_that_carries_meaning_can_be_read_in_both_themes() {
        let contrast = |a: &str, b: &str| {
            let (a, b) = (luminance(a), luminance(b));
            (a.max(b) + 0.05) / (a.min(b) + 0.05)
        };
        let (_, light, dark) = COLOURS[0];
        for (name, day, night) in COLOURS {
            if name.starts_with('s') && name != "soft" || ["ink", "muted", "leaky"].contains(&name) {
                let found = [contrast(day, light), contrast(night, dark)];
                assert!(found.iter().all(|&c| c >= 4.5), "{name}: {found:?}");
            }
        }
    }
}
