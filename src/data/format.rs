//! Bytes of an `.epi` file: the fixed header and the tables behind it. docs/formats.md says the same in words.

use std::path::Path;

use serde_json::Value;

use crate::data::table::{Column, Element, PairTable, Row, Side};
use crate::data::window::{index, words};
use crate::{Error, Result};

/// First bytes of every file; the line ends betray transfers in text mode.
pub const MAGIC: [u8; 8] = *b"\x89EPI\r\n\x1a\n";
/// Version that this program writes, and the only one that it reads.
pub const VERSION: u32 = 1;
/// Bytes of the fixed header.
pub const HEADER: usize = 256;
const NO_CONTIG: u32 = u32::MAX;

/// The fixed header: counts and places, from which the length of everything else follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub file_length: u64,
    pub lengths: [u32; 2],
    pub flank: u32,
    pub rows: u64,
    pub elements: [u64; 2],
    pub windows: [u64; 2],
    pub masks: [u64; 2],
    pub columns: u64,
    pub placements: u64,
    pub json_length: u64,
    pub tables_length: u64,
    pub tables_crc: u32,
    pub payload_offset: u64,
    pub payload_length: u64,
    pub payload_sha256: [u8; 32],
}

/// CRC-32 (IEEE) of `bytes`.
pub fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

impl Header {
    /// The 256 bytes, checksum included.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut out = Vec::with_capacity(HEADER);
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend([0; 4]);
        out.extend(self.file_length.to_le_bytes());
        for word in [self.lengths[0], self.lengths[1], self.flank, self.tables_crc] {
            out.extend(word.to_le_bytes());
        }
        for word in self.counts() {
            out.extend(word.to_le_bytes());
        }
        out.extend(self.payload_sha256);
        out.resize(HEADER, 0);
        let crc = crc32(&out[16..]);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out.try_into().expect("a header of fixed size")
    }
    fn counts(&self) -> [u64; 13] {
        [
            self.rows,
            self.elements[0],
            self.elements[1],
            self.windows[0],
            self.windows[1],
            self.masks[0],
            self.masks[1],
            self.columns,
            self.placements,
            self.json_length,
            self.tables_length,
            self.payload_offset,
            self.payload_length,
        ]
    }
    /// Reads and checks the header of a file of `bytes`; every count is held against the length of the file.
    pub fn decode(bytes: &[u8], path: &Path) -> Result<Header> {
        let bad = |message: String| Error::input(path, None, message);
        if bytes.len() < 8 || bytes[..8] != MAGIC {
            return Err(
                bad("not an .epi data set (its first bytes differ); make one with `epi-engine prepare`".into()),
            );
        }
        if bytes.len() < HEADER {
            return Err(bad(format!("cut short: {} bytes, less than the header alone", bytes.len())));
        }
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if u32_at(8) != VERSION {
            return Err(bad(format!(
                "format version {}, but this program reads version {VERSION}; prepare the data set again",
                u32_at(8)
            )));
        }
        if u32_at(12) != crc32(&bytes[16..HEADER]) {
            return Err(bad("the header is damaged (checksum differs); copy or prepare the file again".into()));
        }
        let count = |i: usize| u64_at(40 + 8 * i);
        let header = Header {
            file_length: u64_at(16),
            lengths: [u32_at(24), u32_at(28)],
            flank: u32_at(32),
            tables_crc: u32_at(36),
            rows: count(0),
            elements: [count(1), count(2)],
            windows: [count(3), count(4)],
            masks: [count(5), count(6)],
            columns: count(7),
            placements: count(8),
            json_length: count(9),
            tables_length: count(10),
            payload_offset: count(11),
            payload_length: count(12),
            payload_sha256: bytes[144..176].try_into().expect("thirty-two bytes"),
        };
        if header.file_length != bytes.len() as u64 {
            return Err(bad(format!(
                "{} bytes, but its header says {}: was it copied completely?",
                bytes.len(),
                header.file_length
            )));
        }
        let consistent = header.lengths.iter().all(|l| (1..=MAX_LENGTH).contains(l))
            && header.flank <= MAX_LENGTH
            && header.expected_tables() == Some(header.tables_length)
            && header.expected_payload() == Some(header.payload_length)
            && (HEADER as u64).checked_add(header.tables_length).is_some_and(|end| end <= header.payload_offset)
            && header.payload_offset.checked_add(header.payload_length) == Some(header.file_length);
        if !consistent {
            return Err(bad("its header contradicts itself; prepare the data set again".into()));
        }
        Ok(header)
    }
    /// Stored bases of a window, flanks included.
    pub fn width(&self, side: Side) -> usize {
        self.lengths[index(side)] as usize + 2 * self.flank as usize
    }
    fn expected_tables(&self) -> Option<u64> {
        let elements = self.elements[0].checked_add(self.elements[1])?.checked_mul(24)?;
        let windows = self.windows[0].checked_add(self.windows[1])?.checked_mul(4)?;
        let rows = self.rows.checked_mul(self.columns.checked_mul(4)?.checked_add(11)?)?;
        let truth = self.placements.checked_mul(16)?;
        self.json_length.checked_add(elements)?.checked_add(windows)?.checked_add(rows)?.checked_add(truth)
    }
    fn expected_payload(&self) -> Option<u64> {
        let mut total = 0u64;
        for side in [Side::Enhancer, Side::Promoter] {
            let (i, plane) = (index(side), 8 * words(self.width(side)) as u64);
            let windows = self.windows[i].checked_mul(2 * plane)?;
            total = total.checked_add(windows)?.checked_add(self.masks[i].checked_mul(plane)?)?;
        }
        Some(total)
    }
}

/// Longest window or flank, in bases.
pub const MAX_LENGTH: u32 = 1 << 24;

/// Where a synthetic data set planted a motif.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    pub side: Side,
    pub element: u32,
    /// First base within the window (flank excluded).
    pub start: u32,
    pub length: u16,
    /// Index into the `motifs` of the description's `truth`.
    pub motif: u16,
    pub reverse: bool,
}

/// Everything between the header and the sequences.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tables {
    pub pairs: PairTable,
    /// Window of each element, per side.
    pub window_of: [Vec<u32>; 2],
    /// Mask of each window, per side.
    pub mask_of: [Vec<u32>; 2],
    pub placements: Vec<Placement>,
    /// Where everything came from.
    pub source: Value,
}

impl Tables {
    /// The bytes, and how many of them are the leading JSON.
    pub fn encode(&self) -> (Vec<u8>, u64) {
        let names: serde_json::Map<_, _> =
            self.pairs.columns.iter().map(|(name, column)| (name.clone(), column.values.clone().into())).collect();
        let json = serde_json::json!({
            "contigs": self.pairs.contigs, "cell_lines": self.pairs.cell_lines, "columns": names, "source": self.source,
        });
        let mut out = json.to_string().into_bytes();
        let json_length = out.len() as u64;
        for side in [Side::Enhancer, Side::Promoter] {
            let elements = self.pairs.elements(side);
            elements.iter().for_each(|e| out.extend(e.contig.unwrap_or(NO_CONTIG).to_le_bytes()));
            elements.iter().for_each(|e| out.extend(e.start.to_le_bytes()));
            elements.iter().for_each(|e| out.extend(e.end.to_le_bytes()));
            put_u32(&mut out, &self.window_of[index(side)]);
        }
        self.mask_of.iter().for_each(|masks| put_u32(&mut out, masks));
        let rows = &self.pairs.rows;
        rows.iter().for_each(|r| out.extend(r.enhancer.to_le_bytes()));
        rows.iter().for_each(|r| out.extend(r.promoter.to_le_bytes()));
        rows.iter().for_each(|r| out.extend(r.cell_line.to_le_bytes()));
        rows.iter().for_each(|r| out.push(r.label));
        self.pairs.columns.values().for_each(|column| put_u32(&mut out, &column.codes));
        for p in &self.placements {
            out.extend(p.element.to_le_bytes());
            out.extend(p.start.to_le_bytes());
            out.extend(p.length.to_le_bytes());
            out.extend(p.motif.to_le_bytes());
            out.extend([index(p.side) as u8, u8::from(p.reverse), 0, 0]);
        }
        (out, json_length)
    }
    /// Reads tables whose length [`Header::decode`] has checked; every index is checked here.
    pub fn decode(bytes: &[u8], header: &Header, path: &Path) -> Result<Tables> {
        let bad = |what: &str| Error::input(path, None, format!("damaged: {what}; copy or prepare the file again"));
        if crc32(bytes) != header.tables_crc {
            return Err(bad("the checksum of its tables differs"));
        }
        let (json, rest) = bytes.split_at(header.json_length as usize);
        let json: Value = serde_json::from_slice(json).map_err(|_| bad("its description is no JSON"))?;
        let names = |value: &Value| -> Option<Vec<String>> {
            value.as_array()?.iter().map(|v| v.as_str().map(String::from)).collect()
        };
        let contigs = names(&json["contigs"]).ok_or_else(|| bad("no contig names"))?;
        let cell_lines = names(&json["cell_lines"]).ok_or_else(|| bad("no cell lines"))?;
        let columns = json["columns"].as_object().ok_or_else(|| bad("no column names"))?;
        if columns.len() as u64 != header.columns {
            return Err(bad("another number of columns"));
        }

        let mut reader = Reader(rest);
        let mut elements = [Vec::new(), Vec::new()];
        let mut window_of = [Vec::new(), Vec::new()];
        for (i, (elements, window_of)) in elements.iter_mut().zip(&mut window_of).enumerate() {
            let n = header.elements[i] as usize;
            let (contig, start, end) = (reader.u32s(n), reader.i64s(n), reader.i64s(n));
            *window_of = reader.u32s(n);
            *elements = (0..n)
                .map(|e| {
                    let contig = (contig[e] != NO_CONTIG).then_some(contig[e]);
                    Element { contig, start: start[e], end: end[e] }
                })
                .collect();
            let known = |e: &Element| e.contig.is_none_or(|c| (c as usize) < contigs.len()) && sane(e);
            if !elements.iter().all(known) || window_of.iter().any(|&w| u64::from(w) >= header.windows[i]) {
                return Err(bad("an element points nowhere"));
            }
        }
        let mask_of = [reader.u32s(header.windows[0] as usize), reader.u32s(header.windows[1] as usize)];
        for (masks, stored) in mask_of.iter().zip(header.masks) {
            if masks.iter().any(|&m| m != super::window::NO_MASK && u64::from(m) >= stored) {
                return Err(bad("a mask points nowhere"));
            }
        }
        let n = header.rows as usize;
        let (enhancer, promoter, cell_line, label) = (reader.u32s(n), reader.u32s(n), reader.u16s(n), reader.take(n));
        let rows = (0..n)
            .map(|r| Row { enhancer: enhancer[r], promoter: promoter[r], cell_line: cell_line[r], label: label[r] })
            .collect();
        let mut named = std::collections::BTreeMap::new();
        // BTreeMap order is the order of the codes on disk.
        let mut sorted: Vec<_> = columns.iter().collect();
        sorted.sort_by_key(|(name, _)| name.as_str());
        for (name, values) in sorted {
            let values = names(values).ok_or_else(|| bad("a column is no list of texts"))?;
            named.insert(name.clone(), Column { values, codes: reader.u32s(n) });
        }
        let placements = reader
            .take(16 * header.placements as usize)
            .chunks_exact(16)
            .map(|p| Placement {
                element: u32::from_le_bytes(p[..4].try_into().expect("four bytes")),
                start: u32::from_le_bytes(p[4..8].try_into().expect("four bytes")),
                length: u16::from_le_bytes([p[8], p[9]]),
                motif: u16::from_le_bytes([p[10], p[11]]),
                side: if p[12] == 0 { Side::Enhancer } else { Side::Promoter },
                reverse: p[13] != 0,
            })
            .collect();
        let [enhancers, promoters] = elements;
        let pairs = PairTable {
            contigs,
            enhancers,
            promoters,
            cell_lines,
            rows,
            columns: named,
            enhancer_length: header.lengths[0] as usize,
            promoter_length: header.lengths[1] as usize,
        };
        check(&pairs).map_err(|what| bad(&what))?;
        Ok(Tables { pairs, window_of, mask_of, placements, source: json["source"].clone() })
    }
}

/// Coordinates on which arithmetic cannot overflow.
fn sane(element: &Element) -> bool {
    const FAR: i64 = 1 << 48;
    -FAR <= element.start && element.start <= element.end && element.end <= FAR
}

/// Whether the rows and columns of a table point into it.
pub fn check(pairs: &PairTable) -> std::result::Result<(), String> {
    for (r, row) in pairs.rows.iter().enumerate() {
        if row.enhancer as usize >= pairs.enhancers.len()
            || row.promoter as usize >= pairs.promoters.len()
            || row.cell_line as usize >= pairs.cell_lines.len()
            || row.label > 1
        {
            return Err(format!("row {r} points nowhere"));
        }
    }
    for (name, column) in &pairs.columns {
        let whole = column.codes.len() == pairs.rows.len();
        if !whole || column.codes.iter().any(|&c| c as usize >= column.values.len()) {
            return Err(format!("column `{name}` does not fit the rows"));
        }
    }
    Ok(())
}

fn put_u32(out: &mut Vec<u8>, words: &[u32]) {
    words.iter().for_each(|w| out.extend(w.to_le_bytes()));
}

/// Cuts arrays off the front; lengths were checked before.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(n);
        self.0 = tail;
        head
    }
    fn u32s(&mut self, n: usize) -> Vec<u32> {
        let word = |w: &[u8]| u32::from_le_bytes(w.try_into().expect("four bytes"));
        self.take(4 * n).chunks_exact(4).map(word).collect()
    }
    fn u16s(&mut self, n: usize) -> Vec<u16> {
        self.take(2 * n).chunks_exact(2).map(|w| u16::from_le_bytes([w[0], w[1]])).collect()
    }
    fn i64s(&mut self, n: usize) -> Vec<i64> {
        let word = |w: &[u8]| i64::from_le_bytes(w.try_into().expect("eight bytes"));
        self.take(8 * n).chunks_exact(8).map(word).collect()
    }
}
