//! FASTA as a stream of records: any line length, upper or lower case, plain, gzip or bgzip.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use crate::data::input;
use crate::{Error, Result};

const UNKNOWN: u8 = 4;
const BLANK: u8 = 5;
const INVALID: u8 = 6;

/// Code of every byte: A, C, G, T (U) = 0..=3, other IUPAC letters 4, blanks 5, anything else 6.
static CODES: [u8; 256] = {
    let mut codes = [INVALID; 256];
    let letters = b"ACGTURYSWKMBDHVNX";
    let mut i = 0;
    while i < letters.len() {
        let code = match letters[i] {
            b'A' => 0,
            b'C' => 1,
            b'G' => 2,
            b'T' | b'U' => 3,
            _ => UNKNOWN,
        };
        codes[letters[i] as usize] = code;
        codes[letters[i].to_ascii_lowercase() as usize] = code;
        i += 1;
    }
    codes[b' ' as usize] = BLANK;
    codes[b'\t' as usize] = BLANK;
    codes[b'\r' as usize] = BLANK;
    codes
};

/// Code 0..=4 of a letter (4 = N and the other IUPAC letters), or `None` if it stands for no base.
pub fn code(letter: u8) -> Option<u8> {
    Some(CODES[letter as usize]).filter(|c| *c <= UNKNOWN)
}

/// The letter of a code.
pub fn letter(code: u8) -> char {
    ['A', 'C', 'G', 'T', 'N'][usize::from(code.min(4))]
}

/// Reads records one after the other: [`Fasta::header`], then [`Fasta::sequence`], and again.
pub struct Fasta {
    reader: Box<dyn BufRead>,
    path: PathBuf,
    line: u64,
    codes: Vec<u8>,
}

impl Fasta {
    /// Opens a file; nothing is read yet.
    pub fn open(path: &Path) -> Result<Fasta> {
        Ok(Fasta { reader: input::open(path)?, path: path.to_path_buf(), line: 0, codes: Vec::new() })
    }
    /// Name (up to the first blank) and line of the next record; `None` at the end of the file.
    pub fn header(&mut self) -> Result<Option<(String, u64)>> {
        const LONGEST: u64 = 1 << 16;
        loop {
            let mut text = Vec::new();
            let mut limited = std::io::Read::take(&mut self.reader, LONGEST);
            let failed = input::failed(&self.path, self.line + 1);
            if limited.read_until(b'\n', &mut text).map_err(failed)? == 0 {
                return Ok(None);
            }
            self.line += 1;
            let bad = |message: &str| Err(Error::input(&self.path, self.line, message));
            if text.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            if text[0] != b'>' {
                return bad("FASTA records start with `>name`");
            }
            if text.len() as u64 == LONGEST && text.last() != Some(&b'\n') {
                return bad("a FASTA header of more than 65,536 characters");
            }
            let name = std::str::from_utf8(&text[1..]).ok().and_then(|text| text.split_whitespace().next());
            return match name {
                Some(name) if !text[1].is_ascii_whitespace() => Ok(Some((name.to_string(), self.line))),
                _ => bad("a FASTA record without a name"),
            };
        }
    }
    /// Hands the bases of the record to `sink` as codes 0..=4, in pieces; gives their number.
    pub fn sequence(&mut self, mut sink: impl FnMut(&[u8])) -> Result<u64> {
        let (mut length, mut line_start) = (0, true);
        loop {
            let buffer = self.reader.fill_buf().map_err(input::failed(&self.path, self.line + 1))?;
            if buffer.is_empty() || (line_start && buffer[0] == b'>') {
                return Ok(length);
            }
            let end = buffer.iter().position(|&b| b == b'\n');
            let text = &buffer[..end.unwrap_or(buffer.len())];
            self.codes.clear();
            self.codes.extend(text.iter().map(|&b| CODES[b as usize]));
            if self.codes.iter().any(|&c| c > UNKNOWN) {
                if let Some(at) = self.codes.iter().position(|&c| c == INVALID) {
                    let message = format!("`{}` is no IUPAC nucleotide letter", text[at].escape_ascii());
                    return Err(Error::input(&self.path, self.line + 1, message));
                }
                self.codes.retain(|&c| c != BLANK);
            }
            length += self.codes.len() as u64;
            sink(&self.codes);
            let used = text.len() + usize::from(end.is_some());
            self.line += u64::from(end.is_some());
            line_start = end.is_some();
            self.reader.consume(used);
        }
    }
}
