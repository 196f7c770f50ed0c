//! How numbers and text are written, the same in every figure and table.

use crate::metrics::Interval;

/// What stands where the data define no value.
pub const NONE: &str = "–";

/// A score of the unit interval or a difference of two: `.812`, `1.000`, `−.050`; [`NONE`] where there is none.
pub fn score(value: Option<f64>) -> String {
    value.map_or(NONE.into(), |v| decimals(v, 3))
}

/// `.812 [.77, .85]`; narrow intervals with a digit more, so that they still hold their value: `.998 [.996, .999]`.
pub fn with_interval(value: Option<f64>, interval: Option<Interval>) -> String {
    match (value, interval) {
        (Some(v), Some(i)) => {
            let digits = if i.high - i.low < 0.03 { 3 } else { 2 };
            format!("{} [{}, {}]", decimals(v, 3), decimals(i.low, digits), decimals(i.high, digits))
        }
        _ => score(value),
    }
}

/// A number with so many decimals, without the zero before the point, and with a true minus sign.
pub fn decimals(value: f64, digits: usize) -> String {
    let text = format!("{:.digits$}", value.abs());
    let bare = text.strip_prefix('0').filter(|rest| rest.starts_with('.')).unwrap_or(&text);
    let negative = value < 0.0 && text.bytes().any(|b| (b'1'..=b'9').contains(&b));
    format!("{}{bare}", if negative { "−" } else { "" })
}

/// `685,070`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(|c| std::str::from_utf8(c).expect("digits")).collect();
    groups.join(",")
}

/// `8.2 s`, `12 min`, `3 h 05 min`.
pub fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match seconds {
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 5400.0 => format!("{minutes} min"),
        _ => format!("{} h {:02} min", minutes / 60, minutes % 60),
    }
}

/// The name that tables give a model: `EPSAT`, `TargetFinder`; others as they are.
pub fn model_name(name: &str) -> String {
    match name {
        "epsat" | "epsat-paper" | "eplae" | "eplae-vae" | "eplae-two-stage" | "speid" => {
            let (head, tail) = name.split_once('-').map_or((name, String::new()), |(h, t)| (h, format!("-{t}")));
            head.to_uppercase() + &tail
        }
        "target-finder" => "TargetFinder".into(),
        other => other.into(),
    }
}

/// Text for HTML, XML and quoted attributes; characters that XML forbids are replaced.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A name as part of a file's name and of an id: letters, digits, `.`, `_`; everything else becomes one `-`.
pub fn slug(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        match c {
            c if c.is_ascii_alphanumeric() || c == '.' || c == '_' => out.push(c),
            _ if out.is_empty() || out.ends_with('-') => {}
            _ => out.push('-'),
        }
    }
    out.trim_matches(['-', '.']).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_one_way() {
        let interval = Interval { low: 0.7654, high: 0.8512 };
        assert_eq!(with_interval(Some(0.8123), Some(interval)), ".812 [.77, .85]");
        assert_eq!(with_interval(Some(0.8123), None), ".812");
        assert_eq!(with_interval(Some(0.9976), Some(Interval { low: 0.9961, high: 0.999 })), ".998 [.996, .999]");
        assert_eq!(with_interval(None, Some(interval)), NONE);
        assert_eq!([score(Some(1.0)), score(Some(0.0)), score(Some(-0.05))], ["1.000", ".000", "−.050"]);
        assert_eq!([decimals(-0.0001, 3), decimals(-1.25, 2), decimals(12.0, 0)], [".000", "−1.25", "12"]);
        assert_eq!([thousands(7), thousands(685_070), thousands(85_619_200)], ["7", "685,070", "85,619,200"]);
        assert_eq!([duration(8.25), duration(720.0), duration(11_100.0)], ["8.2 s", "12 min", "3 h 05 min"]);
        assert_eq!(
            [model_name("eplae-vae"), model_name("target-finder"), model_name("my <x>")],
            ["EPLAE-vae", "TargetFinder", "my <x>"]
        );
    }

    #[test]
    fn text_of_users_cannot_leave_its_place() {
        assert_eq!(escape("<a b=\"c\" d='e'>&\u{1}"), "&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;\u{fffd}");
        assert_eq!([slug("../HeLa S3/<x>"), slug("chr1:5"), slug("…")], ["HeLa-S3-x", "chr1-5", ""]);
    }
}
