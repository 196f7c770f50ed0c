//! One line of a table into fields.

use std::borrow::Cow;

/// Form of a table.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub delimiter: u8,
    pub columns: usize,
}

impl Shape {
    /// Tabs if the first line has one, else commas, else blanks.
    pub fn of(first: &str) -> Shape {
        let delimiter = [b'\t', b',', b' '].into_iter().find(|d| first.as_bytes().contains(d)).unwrap_or(b'\t');
        Shape { delimiter, columns: 0 }
    }
}

/// Splits a line; in comma-separated lines a field may stand in quotes, doubled quotes inside.
pub fn split(line: &str, delimiter: u8, fields: &mut Vec<Cow<'static, str>>) -> Result<(), String> {
    fields.clear();
    if delimiter != b',' || !line.contains('"') {
        fields.extend(line.split(delimiter as char).map(|field| Cow::Owned(field.to_string())));
        return Ok(());
    }
    let mut rest = line;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, tail) = rest.split_once(',').map_or((rest, None), |(field, tail)| (field, Some(tail)));
            fields.push(Cow::Owned(field.to_string()));
            match tail {
                Some(tail) => rest = tail,
                None => return Ok(()),
            }
            continue;
        };
        let mut field = String::new();
        let mut tail = quoted;
        loop {
            let (text, after) = tail.split_once('"').ok_or("a quoted field is not closed on its line")?;
            field.push_str(text);
            match after.strip_prefix('"') {
                Some(after) => {
                    field.push('"');
                    tail = after;
                }
                None => {
                    tail = after;
                    break;
                }
            }
        }
        fields.push(Cow::Owned(field));
        match tail.strip_prefix(',') {
            Some(tail) => rest = tail,
            None if tail.is_empty() => return Ok(()),
            None => return Err("text after a closing quote".into()),
        }
    }
}
