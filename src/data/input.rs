//! Text input of any size: plain, gzip or bgzip, read as a stream, line by line where lines are meant to be short.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::{Error, Result};

/// Longest line of a table; more is no table.
const LONGEST_LINE: usize = 1 << 20;
/// The empty block that ends every complete bgzip file.
const BGZIP_END: [u8; 28] =
    [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 6, 0, 0x42, 0x43, 2, 0, 0x1b, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A reader of the content of `path`, decompressed if it starts as gzip does.
pub fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    if file.metadata().map_err(Error::io(path))?.is_dir() {
        return Err(Error::input(path, None, "a folder, not a file"));
    }
    let mut head = Vec::new();
    file.by_ref().take(16).read_to_end(&mut head).map_err(Error::io(path))?;
    if head.len() < 2 || head[..2] != [0x1f, 0x8b] {
        // Chained rather than rewound, so that pipes work too.
        return Ok(Box::new(BufReader::with_capacity(1 << 17, std::io::Cursor::new(head).chain(file))));
    }
    if head.len() == 16 && head[3] & 4 != 0 && head[12..14] == *b"BC" {
        let mut end = [0; 28];
        file.seek(SeekFrom::End(-28)).and_then(|_| file.read_exact(&mut end)).map_err(Error::io(path))?;
        if end != BGZIP_END {
            return Err(Error::input(path, None, "bgzip data without its end block: was it copied completely?"));
        }
        file.seek(SeekFrom::Start(16)).map_err(Error::io(path))?;
    }
    let compressed = BufReader::with_capacity(1 << 17, std::io::Cursor::new(head).chain(file));
    Ok(Box::new(BufReader::with_capacity(1 << 17, MultiGzDecoder::new(compressed))))
}

/// A failure while reading line `line` of `path`, damaged compression included.
pub fn failed(path: &Path, line: u64) -> impl FnOnce(std::io::Error) -> Error {
    use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    move |source| match source.kind() {
        UnexpectedEof => Error::input(path, line, "the compressed data ends too early: was it copied completely?"),
        InvalidData | InvalidInput => Error::input(path, line, format!("damaged compressed data ({source})")),
        _ => Error::Io { path: path.to_path_buf(), source },
    }
}

/// Lines of a text file without their ends (LF or CRLF), counted from 1.
pub struct Lines {
    reader: Box<dyn BufRead>,
    path: PathBuf,
    buffer: Vec<u8>,
    number: u64,
}

impl Lines {
    /// Opens a plain, gzip or bgzip file.
    pub fn open(path: &Path) -> Result<Lines> {
        Ok(Lines { reader: open(path)?, path: path.to_path_buf(), buffer: Vec::new(), number: 0 })
    }
    /// Number of the line that [`Lines::next_line`] gave last.
    pub fn number(&self) -> u64 {
        self.number
    }
    /// The next line; a line that is too long or no UTF-8 is an error.
    pub fn next_line(&mut self) -> Result<Option<&str>> {
        self.buffer.clear();
        let line = self.number + 1;
        let mut limited = (&mut self.reader).take(LONGEST_LINE as u64 + 1);
        if limited.read_until(b'\n', &mut self.buffer).map_err(failed(&self.path, line))? == 0 {
            return Ok(None);
        }
        self.number = line;
        if self.buffer.last() == Some(&b'\n') {
            self.buffer.pop();
            if self.buffer.last() == Some(&b'\r') {
                self.buffer.pop();
            }
        } else if self.buffer.len() > LONGEST_LINE {
            return Err(Error::input(&self.path, line, "a line of more than a million characters: not a table"));
        }
        let text =
            if line == 1 { self.buffer.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.buffer) } else { &self.buffer };
        std::str::from_utf8(text).map(Some).map_err(|_| Error::input(&self.path, line, "not text (no valid UTF-8)"))
    }
}
