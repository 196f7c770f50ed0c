//! Results under way on disk, so that a run that was stopped or killed goes on where it was.

use std::fmt::{Display, Write as _};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, Result};

/// A text file: a first line that says what the others are results of, then a line each.
pub struct Partial {
    file: File,
    path: PathBuf,
}

impl Partial {
    /// Opens the results of `key` with those that `read` understands, in whole groups of `group`, so that what follows is
    /// computed in the groups of an unbroken run; a file of anything else is begun anew.
    pub fn open<T>(path: &Path, key: &str, group: usize, read: impl Fn(&str) -> Option<T>) -> Result<(Self, Vec<T>)> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Error::io(path)(e)),
        };
        let (mut done, mut ends, mut end) = (Vec::new(), Vec::new(), key.len() + 1);
        if text.strip_prefix(key).is_some_and(|rest| rest.starts_with('\n')) {
            // A last line cut short by a crash has no end.
            for line in text[end..].split_inclusive('\n').filter(|l| l.ends_with('\n')) {
                let Some(result) = read(line.trim_end_matches('\n')) else { break };
                end += line.len();
                done.push(result);
                ends.push(end);
            }
        }
        done.truncate(done.len() / group * group);
        match done.len() {
            0 => std::fs::write(path, format!("{key}\n")).map_err(Error::io(path))?,
            n => {
                let file = OpenOptions::new().write(true).open(path).map_err(Error::io(path))?;
                file.set_len(ends[n - 1] as u64).map_err(Error::io(path))?;
            }
        }
        let file = OpenOptions::new().append(true).open(path).map_err(Error::io(path))?;
        Ok((Partial { file, path: path.to_path_buf() }, done))
    }
    /// Keeps further results, a line each.
    pub fn append(&mut self, lines: impl IntoIterator<Item = String>) -> Result<()> {
        let mut text = String::new();
        lines.into_iter().for_each(|line| text += &(line + "\n"));
        self.file.write_all(text.as_bytes()).map_err(Error::io(&self.path))
    }
    /// Removes the file: the results are elsewhere now.
    pub fn remove(self) -> Result<()> {
        std::fs::remove_file(&self.path).map_err(Error::io(&self.path))
    }
}

/// Numbers as a line; they come back to the bit.
pub fn line<T: Display>(numbers: impl IntoIterator<Item = T>) -> String {
    let mut text = String::new();
    for number in numbers {
        let _ = write!(text, "{}{number}", if text.is_empty() { "" } else { "\t" });
    }
    text
}

/// The numbers of a line; `None` unless all of it is numbers.
pub fn numbers<T: FromStr>(line: &str) -> Option<Vec<T>> {
    if line.is_empty() {
        return Some(Vec::new());
    }
    line.split('\t').map(|field| field.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_groups_of_the_same_key_come_back_to_the_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".x.partial");
        let open = |key: &str, group| Partial::open(&path, key, group, numbers::<f64>).unwrap();
        let values = [[0.1 + 0.2, -0.0], [1.0 / 3.0, f64::MIN_POSITIVE], [1e300, 5.0]];
        let (mut partial, done) = open("key", 1);
        assert!(done.is_empty());
        partial.append(values.iter().map(line)).unwrap();
        let (mut partial, done) = open("key", 1);
        let bits = |v: &[f64]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert!(done.iter().zip(&values).all(|(a, b)| bits(a) == bits(b)) && done.len() == 3);
        partial.append(["1\tno number".into(), "2\t3".into()]).unwrap();
        assert_eq!(open("key", 2).1.len(), 2, "what follows the last whole group is computed anew");
        let mut text = std::fs::read_to_string(&path).unwrap();
        text += "4\t5";
        std::fs::write(&path, text).unwrap();
        assert_eq!(open("key", 1).1.len(), 2, "a line without an end was not finished");
        assert!(open("another key", 1).1.is_empty());
        open("key", 1).0.remove().unwrap();
        assert!(!path.exists());
    }
}
