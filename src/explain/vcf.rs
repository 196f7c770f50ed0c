//! Variant call files: one record at a time, plain, gzip or bgzip.

use std::path::{Path, PathBuf};

use crate::data::input::Lines;
use crate::error::{Error, Result};

/// One record; sample columns are only passed through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Line in the file, from 1.
    pub number: u64,
    /// The whole line.
    pub line: String,
    pub contig: String,
    /// 0-based position of the first reference base.
    pub start: i64,
    pub id: String,
    /// Reference allele as codes 0..=4.
    pub reference: Vec<u8>,
    /// Alternative alleles; `None` for one that spells no sequence.
    pub alternatives: Vec<(String, Option<Vec<u8>>)>,
}

/// Reads header and records in order.
pub struct Vcf {
    lines: Lines,
    path: PathBuf,
    /// Header lines up to `#CHROM`, which is not among them.
    pub header: Vec<String>,
    /// The line of column names.
    pub columns: String,
    /// Contigs that the header declares, with their lengths where it says so.
    pub contigs: Vec<(String, Option<u64>)>,
}

/// Codes of an allele; `None` unless all of it is bases (any IUPAC letter that is not A, C, G or T counts as N).
fn codes(allele: &str) -> Option<Vec<u8>> {
    let code = |b: u8| match b.to_ascii_uppercase() {
        b'A' => Some(0),
        b'C' => Some(1),
        b'G' => Some(2),
        b'T' => Some(3),
        b'N' | b'R' | b'Y' | b'S' | b'W' | b'K' | b'M' | b'B' | b'D' | b'H' | b'V' => Some(4),
        _ => None,
    };
    (!allele.is_empty()).then(|| allele.bytes().map(code).collect())?
}

impl Vcf {
    /// Opens a file and reads its header.
    pub fn open(path: &Path) -> Result<Self> {
        let mut lines = Lines::open(path)?;
        let (mut header, mut contigs) = (Vec::new(), Vec::new());
        loop {
            let number = lines.number() + 1;
            let Some(line) = lines.next_line()? else {
                return Err(Error::input(path, number, "no line of column names (#CHROM POS ID REF ALT …): not a VCF"));
            };
            if number == 1 && !line.starts_with("##fileformat=VCF") {
                return Err(Error::input(path, 1, "not a VCF: the first line must be ##fileformat=VCF…"));
            }
            if let Some(contig) = line.strip_prefix("##contig=<").and_then(|l| l.strip_suffix('>')) {
                let field = |key: &str| contig.split(',').find_map(|f| f.trim().strip_prefix(key).map(str::to_string));
                if let Some(id) = field("ID=") {
                    contigs.push((id, field("length=").and_then(|l| l.parse().ok())));
                }
            }
            if line.starts_with("##") {
                header.push(line.to_string());
            } else if line.starts_with("#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO") {
                let columns = line.to_string();
                return Ok(Vcf { lines, path: path.to_path_buf(), header, columns, contigs });
            } else {
                let message = "expected a header line or the column names, separated by tabs";
                return Err(Error::input(path, number, message));
            }
        }
    }
    /// Records of a file, for a progress bar.
    pub fn count(path: &Path) -> Result<u64> {
        let (mut lines, mut records) = (Lines::open(path)?, 0);
        while let Some(line) = lines.next_line()? {
            records += u64::from(!line.is_empty() && !line.starts_with('#'));
        }
        Ok(records)
    }
    /// The next record.
    pub fn next_record(&mut self) -> Result<Option<Record>> {
        let line = loop {
            match self.lines.next_line()? {
                None => return Ok(None),
                Some("") => {}
                Some(line) => break line.to_string(),
            }
        };
        let number = self.lines.number();
        let bad = |message: String| Error::input(&self.path, number, message);
        let fields: Vec<&str> = line.splitn(9, '\t').collect();
        let [contig, position, id, reference, alternatives, ..] = fields[..] else {
            return Err(bad(format!("{} columns; a record has at least 8, separated by tabs", fields.len())));
        };
        if fields.len() < 8 {
            return Err(bad(format!("{} columns; a record has at least 8, separated by tabs", fields.len())));
        }
        let start = position.parse::<i64>().ok().filter(|p| *p >= 0);
        let start = start.ok_or_else(|| bad(format!("POS `{position}` is no position")))? - 1;
        let spelled = codes(reference).ok_or_else(|| bad(format!("REF `{reference}` is no sequence")))?;
        let alternatives =
            alternatives.split(',').map(|a| (a.to_string(), codes(a))).filter(|(a, _)| a != ".").collect();
        let (contig, id) = (contig.to_string(), id.to_string());
        Ok(Some(Record { number, contig, start, id, reference: spelled, alternatives, line }))
    }
    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Record {
    /// The line with further INFO entries.
    pub fn annotated(&self, info: &str) -> String {
        if info.is_empty() {
            return self.line.clone();
        }
        let mut fields: Vec<&str> = self.line.split('\t').collect();
        let joined = if fields[7] == "." { info.to_string() } else { format!("{};{info}", fields[7]) };
        fields[7] = &joined;
        fields.join("\t")
    }
}
