//! The page: one file, no script, no network, light and dark, for narrow screens and for paper.

use std::fmt::Write;

use super::format::escape;
use super::svg::{self, Svg};
use super::tables::{Table, badge};

const STYLE: &str = "\
*{box-sizing:border-box}
html{scroll-padding-top:3.4rem;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif}
header,main,footer{max-width:64rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:2.2rem;padding-bottom:1.2rem}
.overline{margin:0;color:var(--muted);font-size:.8rem;letter-spacing:.09em;text-transform:uppercase}
h1{margin:.1rem 0 .2rem;font-size:clamp(1.5rem,5vw,2.1rem);line-height:1.2;font-weight:650;letter-spacing:-.01em;overflow-wrap:anywhere}
.subtitle{margin:0;color:var(--muted);overflow-wrap:anywhere}
nav{position:sticky;top:0;z-index:2;background:var(--paper);border-bottom:1px solid var(--line)}
nav ul{display:flex;gap:1.3rem;max-width:64rem;margin:0 auto;padding:.6rem 1.25rem;list-style:none;overflow-x:auto;white-space:nowrap;font-size:.9rem}
nav a{color:var(--muted);text-decoration:none}
nav a:hover,nav a:focus-visible{color:var(--ink);text-decoration:underline;text-underline-offset:.3em}
section{padding-top:1.9rem}
h2{margin:0 0 .5rem;font-size:1.25rem;font-weight:650;letter-spacing:-.005em}
h3{margin:1.3rem 0 .3rem;font-size:1rem;font-weight:650}
p{margin:.5rem 0;max-width:46rem}
.verdict{font-size:1.08rem;border-left:3px solid var(--s0);padding:.15rem 0 .15rem .9rem;margin:1rem 0}
.verdict.leaks{border-color:var(--leaky)}
strong.leaky{display:inline-block;padding:0 .4em;border:1px solid var(--leaky);border-radius:3px;background:var(--leaky-soft);color:var(--leaky);font-size:.72em;line-height:1.5;letter-spacing:.05em;vertical-align:.1em}
.keys{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.6rem,1fr));gap:.8rem;margin:1.1rem 0 0}
.keys div{padding:.7rem .9rem;border:1px solid var(--line);border-radius:6px;background:var(--soft)}
.keys dt{color:var(--muted);font-size:.82rem}
.keys dd{margin:0;font-size:1.5rem;font-weight:600;font-variant-numeric:tabular-nums;line-height:1.25}
.keys dd small{display:block;font-size:.82rem;font-weight:400;color:var(--muted)}
.figures{display:flex;flex-wrap:wrap;gap:1.2rem 2rem;margin:1rem 0}
figure{margin:0;max-width:100%;min-width:0}
figure .scroll{max-width:100%}
figure svg{display:block;height:auto;max-width:100%}
figure svg.wide{max-width:none}
figcaption{max-width:40rem;margin-top:.35rem;color:var(--muted);font-size:.86rem;line-height:1.45}
.file{margin:.15rem 0 0;color:var(--muted);font:.76rem ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.scroll{overflow-x:auto}
.scroll:focus-visible{outline:2px solid var(--s0);outline-offset:2px}
.table{margin:1.2rem 0}
table{min-width:min(22rem,100%);border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding-bottom:.35rem}
th,td{padding:.32rem .8rem .32rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line);white-space:nowrap}
td.w{white-space:normal;min-width:18rem}
thead th{color:var(--muted);font-weight:500;border-bottom-color:var(--muted)}
tbody th{font-weight:500}
.n{text-align:right}
.note{color:var(--muted);font-style:italic}
.footnote{color:var(--muted);font-size:.83rem;line-height:1.45;margin:.3rem 0 0}
.missing{padding:.6rem .9rem;border:1px dashed var(--muted);border-radius:6px;color:var(--muted)}
code,pre{font:.84em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
code{overflow-wrap:anywhere}
pre{margin:.5rem 0;padding:.7rem .9rem;overflow-x:auto;background:var(--soft);border:1px solid var(--line);border-radius:6px;line-height:1.45}
details{margin:.7rem 0}
summary{cursor:pointer;color:var(--muted)}
footer{margin-top:2.5rem;padding-top:1rem;padding-bottom:2.5rem;color:var(--muted);font-size:.83rem}
";

const PRINT: &str = "\
nav{display:none}
body{font-size:10.5pt}
header,main,footer{max-width:none;padding-left:0;padding-right:0}
figure,.table,.keys div{break-inside:avoid}
h2,h3{break-after:avoid}
figure svg.wide{max-width:100%}
.scroll{overflow:visible}
table{font-size:8pt}
th,td{white-space:normal;padding-right:.5rem}
";

/// A chapter of the page.
#[derive(Clone, Debug, Default)]
pub struct Section {
    pub id: &'static str,
    pub title: &'static str,
    body: String,
    /// A row of figures is open.
    row: bool,
    /// What was put into it, to be written as files too.
    pub figures: Vec<Svg>,
    pub tables: Vec<Table>,
}

impl Section {
    /// An empty chapter.
    pub fn new(id: &'static str, title: &'static str) -> Self {
        Section { id, title, ..Section::default() }
    }
    fn push(&mut self, html: &str) {
        if std::mem::take(&mut self.row) {
            self.body.push_str("</div>\n");
        }
        self.body.push_str(html);
    }
    /// A paragraph.
    pub fn text(&mut self, text: &str) {
        self.push(&format!("<p>{}</p>\n", escape(text)));
    }
    /// A smaller heading.
    pub fn heading(&mut self, text: &str) {
        self.push(&format!("<h3>{}</h3>\n", escape(text)));
    }
    /// What is not here, why, and the command that makes it.
    pub fn missing(&mut self, id: &str, what: &str, command: Option<&str>) {
        let command = command.map_or(String::new(), |c| format!(" <code>{}</code>", escape(c)));
        self.push(&format!("<p class='missing' id='{}'>{}{command}</p>\n", escape(id), escape(what)));
    }
    /// Lines as they are.
    pub fn lines(&mut self, text: &str) {
        self.push(&format!("<pre>{}</pre>\n", escape(text.trim_end())));
    }
    /// Lines that open on demand.
    pub fn folded_lines(&mut self, summary: &str, text: &str) {
        let (summary, text) = (escape(summary), escape(text.trim_end()));
        self.push(&format!("<details><summary>{summary}</summary><pre>{text}</pre></details>\n"));
    }
    /// A list of points, which opens on demand when it is long.
    pub fn list(&mut self, name: &str, items: &[String]) {
        let list: String = items.iter().map(|i| format!("<li>{}</li>", escape(i))).collect();
        match items.len() {
            0..=3 => self.push(&format!("<h3>{}</h3>\n<ul>{list}</ul>\n", escape(name))),
            n => self.push(&format!("<details><summary>{}: {n}</summary><ul>{list}</ul></details>\n", escape(name))),
        }
    }
    /// The sentence that sums it up.
    pub fn verdict(&mut self, text: &str, leaky: bool) {
        let class = if leaky { "verdict leaks" } else { "verdict" };
        let stamp = if leaky { format!("{} ", badge("")) } else { String::new() };
        self.push(&format!("<p class='{class}'>{stamp}{}</p>\n", escape(text)));
    }
    /// Figures that matter most: name, value, remark.
    pub fn keys(&mut self, keys: &[[String; 3]]) {
        let mut html = String::from("<dl class='keys'>");
        for [name, value, remark] in keys {
            let _ = write!(
                html,
                "<div><dt>{}</dt><dd>{}<small>{}</small></dd></div>",
                escape(name),
                escape(value),
                escape(remark)
            );
        }
        self.push(&(html + "</dl>\n"));
    }
    /// A table.
    pub fn table(&mut self, table: Table) {
        self.push(&table.html());
        self.tables.push(table);
    }
    /// A table that opens on demand.
    pub fn folded_table(&mut self, summary: &str, table: Table) {
        self.push(&format!("<details><summary>{}</summary>{}</details>\n", escape(summary), table.html()));
        self.tables.push(table);
    }
    /// A drawing; neighbours stand side by side where there is room.
    pub fn figure(&mut self, svg: Svg, caption: &str) {
        if !self.row {
            self.body.push_str("<div class='figures'>\n");
            self.row = true;
        }
        // What is wider than a column scrolls in its own frame.
        let (width, title) = (svg.width(), escape(&svg.title));
        let (drawing, scroll) = match width > 420.0 {
            true => (
                svg.inline().replacen("class='drawing'", "class='drawing wide'", 1),
                format!(" tabindex='0' role='region' aria-label='{title}'"),
            ),
            false => (svg.inline(), String::new()),
        };
        let _ = writeln!(
            self.body,
            "<figure style='width:min({width:.0}px,100%)'><div class='scroll'{scroll}>{drawing}</div>\n<figcaption>{}\
             <span class='file'> figures/{}.svg</span></figcaption></figure>",
            escape(caption),
            escape(&svg.id)
        );
        self.figures.push(svg);
    }
}

/// What stands above the chapters.
#[derive(Clone, Debug)]
pub struct Head {
    pub title: String,
    pub subtitle: String,
    pub leaky: Option<String>,
}

/// The whole page.
pub fn page(head: &Head, sections: &[Section], footer: &str) -> String {
    let (title, subtitle) = (escape(&head.title), escape(&head.subtitle));
    let stamp = head.leaky.as_deref().map(badge).unwrap_or_default();
    let (light, dark) = (svg::colours(false), svg::colours(true));
    let mut html = format!(
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n\
         <meta name='viewport' content='width=device-width,initial-scale=1'>\n<meta name='color-scheme' content='light dark'>\n\
         <meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>\n:root{{color-scheme:light dark;{light}}}\n\
         @media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n@media print{{:root{{color-scheme:light;{light}}}}}\n\
         {STYLE}{}@media print{{\n{PRINT}}}\n</style>\n</head>\n<body>\n\
         <header><p class='overline'>epi-engine report</p><h1>{title}{stamp}</h1><p class='subtitle'>{subtitle}</p></header>\n\
         <nav aria-label='Contents'><ul>",
        svg::style()
    );
    for section in sections {
        let _ = write!(html, "<li><a href='#{}'>{}</a></li>", section.id, escape(section.title));
    }
    html.push_str("</ul></nav>\n<main>\n");
    for Section { id, title, body, row, .. } in sections {
        let close = if *row { "</div>\n" } else { "" };
        let _ = writeln!(
            html,
            "<section id='{id}' aria-labelledby='{id}-title'>\n<h2 id='{id}-title'>{}</h2>\n{body}{close}</section>",
            escape(title)
        );
    }
    let _ = write!(html, "</main>\n<footer>{}</footer>\n</body>\n</html>\n", escape(footer));
    html
}
