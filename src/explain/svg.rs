//! Drawings: heat maps, sequence logos, networks. Plain SVG, no script, no font but the reader's.

use std::fmt::Write;

/// Outlines of A, C, G, T in a unit square whose y axis points down.
const GLYPHS: [&str; 4] = [
    "M0 1L.4 0H.6L1 1H.8L.7.75H.3L.2 1ZM.36.58H.64L.5.2Z",
    "M1 .68C.95.9.78 1 .54 1C.2 1 0 .82 0 .5C0 .18.2 0 .54 0C.78 0 .95.1 1 .32L.79.36C.75.22.67.17.54.17C.32.17.21.28.21.5\
     C.21.72.32.83.54.83C.67.83.75.78.79.64Z",
    "M.54.46H1V.86C.88.95.72 1 .55 1C.2 1 0 .82 0 .5C0 .18.2 0 .55 0C.78 0 .95.1 1 .3L.79.34C.75.22.67.17.55.17C.32.17.21.28\
     .21.5C.21.72.32.83.55.83C.66.83.74.81.8.77V.62H.54Z",
    "M0 0H1V.17H.61V1H.39V.17H0Z",
];
/// Colours of A, C, G, T.
const COLOURS: [&str; 4] = ["#109648", "#255c99", "#f7b32b", "#d62839"];

/// A drawing that grows downwards.
#[derive(Clone, Debug, Default)]
pub struct Svg {
    body: String,
    width: f64,
    height: f64,
}

impl Svg {
    /// An empty drawing.
    pub fn new() -> Self {
        Self::default()
    }
    fn reach(&mut self, x: f64, y: f64) {
        self.width = self.width.max(x);
        self.height = self.height.max(y);
    }
    /// Lowest point so far.
    pub fn height(&self) -> f64 {
        self.height
    }
    /// A line of text whose baseline is at `y`.
    pub fn text(&mut self, x: f64, y: f64, size: f64, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = writeln!(self.body, "<text x='{x:.1}' y='{y:.1}' font-size='{size}'>{text}</text>");
        self.reach(x + 0.6 * size * text.len() as f64, y + 0.3 * size);
    }
    /// A filled rectangle.
    pub fn rectangle(&mut self, [x, y, w, h]: [f64; 4], colour: &str) {
        let _ = writeln!(self.body, "<rect x='{x:.2}' y='{y:.2}' width='{w:.2}' height='{h:.2}' fill='{colour}'/>");
        self.reach(x + w, y + h);
    }
    /// A curved line from one point to another.
    pub fn arc(&mut self, [x0, y0]: [f64; 2], [x1, y1]: [f64; 2], width: f64, colour: &str) {
        let middle = (x0 + x1) / 2.0;
        let path = format!("M{x0:.1} {y0:.1}C{middle:.1} {y0:.1} {middle:.1} {y1:.1} {x1:.1} {y1:.1}");
        let _ = writeln!(self.body, "<path d='{path}' fill='none' stroke='{colour}' stroke-width='{width:.2}'/>");
    }
    /// A heat map of `values` `[rows][columns]` in the box; 0 is white, `limit` red, `-limit` blue.
    pub fn heat_map(&mut self, [x, y, w, h]: [f64; 4], values: &[Vec<f64>], limit: f64) {
        let rows = values.len().max(1) as f64;
        for (r, row) in values.iter().enumerate() {
            let cell = w / row.len().max(1) as f64;
            for (c, &value) in row.iter().enumerate() {
                let colour = diverging(if limit > 0.0 { value / limit } else { 0.0 });
                if colour != "#ffffff" {
                    self.rectangle([x + c as f64 * cell, y + r as f64 * h / rows, cell, h / rows], &colour);
                }
            }
        }
        let _ = writeln!(
            self.body,
            "<rect x='{x:.2}' y='{y:.2}' width='{w:.2}' height='{h:.2}' fill='none' stroke='#888' stroke-width='.5'/>"
        );
        self.reach(x + w, y + h);
    }
    /// Letters side by side, `heights[i][a]` of the largest allowed height each; negative ones stand below the line.
    pub fn logo(&mut self, [x, y, w, h]: [f64; 4], heights: &[[f64; 4]]) {
        let stack = |sign: f64| {
            let sum = |column: &[f64; 4]| column.iter().map(|v| (v * sign).max(0.0)).sum::<f64>();
            heights.iter().map(sum).fold(0.0, f64::max)
        };
        let (above, below) = (stack(1.0), stack(-1.0));
        let scale = if above + below > 0.0 { h / (above + below) } else { 0.0 };
        let (line, cell) = (y + above * scale, w / heights.len().max(1) as f64);
        for (i, column) in heights.iter().enumerate() {
            let mut order: Vec<usize> = (0..4).filter(|&a| column[a] != 0.0).collect();
            order.sort_by(|&a, &b| column[a].abs().total_cmp(&column[b].abs()));
            let mut ends = [line, line];
            for a in order {
                let tall = column[a].abs() * scale;
                let top = if column[a] > 0.0 { ends[0] - tall } else { ends[1] };
                ends[usize::from(column[a] < 0.0)] += if column[a] > 0.0 { -tall } else { tall };
                if tall > 0.05 {
                    let _ = writeln!(
                        self.body,
                        "<path transform='translate({:.2} {top:.2}) scale({:.3} {tall:.3})' d='{}' fill='{}' fill-rule='evenodd'/>",
                        x + i as f64 * cell,
                        0.92 * cell,
                        GLYPHS[a],
                        COLOURS[a]
                    );
                }
            }
        }
        self.rectangle([x, line, w, 0.4], "#888888");
        self.reach(x + w, y + h);
    }
    /// The document.
    pub fn finish(&self) -> String {
        let (w, h) = (self.width + 20.0, self.height + 20.0);
        format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='{w:.0}' height='{h:.0}' viewBox='0 0 {w:.0} {h:.0}' \
             font-family='sans-serif'>\n<rect width='100%' height='100%' fill='#ffffff'/>\n{}</svg>\n",
            self.body
        )
    }
}

/// White at 0, towards red at 1 and blue at -1.
fn diverging(value: f64) -> String {
    let v = if value.is_finite() { value.clamp(-1.0, 1.0) } else { 0.0 };
    let mix = |to: f64| (255.0 + (to - 255.0) * v.abs()).round() as u8;
    let [r, g, b] = if v > 0.0 { [178.0, 24.0, 43.0] } else { [33.0, 102.0, 172.0] };
    format!("#{:02x}{:02x}{:02x}", mix(r), mix(g), mix(b))
}

/// `values` in at most `bins` columns, each the value of largest size within.
pub fn binned(values: &[f64], bins: usize) -> Vec<f64> {
    let n = values.len().min(bins).max(1);
    let bin = |i: usize| &values[i * values.len() / n..(i + 1) * values.len() / n];
    let largest = |part: &[f64]| part.iter().copied().fold(0.0, |m: f64, v| if v.abs() > m.abs() { v } else { m });
    (0..n).map(|i| largest(bin(i))).collect()
}

/// One element of a pair on a page: an overview of `rows` (one or four per position), then the stretch with the largest
/// values as letters. `letters[i]` holds the four heights of position `i`.
pub fn element(svg: &mut Svg, title: &str, rows: &[Vec<f64>], letters: &[[f64; 4]], limit: f64) {
    const WIDE: f64 = 1000.0;
    const ZOOM: usize = 80;
    let y = svg.height() + 24.0;
    svg.text(10.0, y, 13.0, title);
    let overview: Vec<Vec<f64>> = rows.iter().map(|row| binned(row, 500)).collect();
    let height = 14.0 * rows.len() as f64;
    svg.heat_map([10.0, y + 8.0, WIDE, height], &overview, limit);
    let n = ZOOM.min(letters.len());
    let size = |column: &[f64; 4]| column.iter().map(|v| v.abs()).sum::<f64>();
    let mut sum: f64 = letters[..n].iter().map(size).sum();
    let mut best = (sum, 0);
    for start in 1..=letters.len() - n {
        sum += size(&letters[start + n - 1]) - size(&letters[start - 1]);
        if sum > best.0 {
            best = (sum, start);
        }
    }
    // Where the letters come from.
    let base = WIDE / letters.len().max(1) as f64;
    svg.rectangle([10.0 + best.1 as f64 * base, y + 10.0 + height, (n as f64 * base).max(1.0), 3.0], "#444444");
    let y = y + height + 28.0;
    svg.text(10.0, y, 11.0, &format!("bases {} to {} of the window", best.1, best.1 + n));
    svg.logo([10.0, y + 6.0, WIDE, 90.0], &letters[best.1..best.1 + n]);
}
