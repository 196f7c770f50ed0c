//! SPEID's HDF5 (`all_sequence_data.h5`): one-hot windows, streamed block by block, 31 GB never in memory.
//!
//! Per cell line three arrays: `<cell>_X_enhancers` [N, 4, L] and `<cell>_X_promoters` [N, 4, L] (or [N, L, 4]),
//! `<cell>labels` [N]; any storage layout, float or integer.

use std::path::Path;

use hdf5_reader::{Dataset as Array, Datatype, H5Type, Hdf5File, OpenOptions, SliceInfo, SliceInfoElem};
use serde_json::Value;

use crate::data::cut::{CutOptions, join};
use crate::data::format::MAX_LENGTH;
use crate::data::pairs::Pairs;
use crate::data::table::{Element, PairTable, Row};
use crate::data::{Contents, Notes};
use crate::{Error, Result};

/// Bytes of one-hot values that are held at a time.
const BLOCK_BYTES: u64 = 32 << 20;
/// Most rows that are believed.
const MOST_ROWS: u64 = 1 << 28;

/// One value of a one-hot array: 0, 1, or something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bit {
    Zero,
    One,
    Other,
}

impl Bit {
    fn of(bytes: &[u8], dtype: &Datatype) -> Bit {
        let number = match dtype {
            Datatype::Enum { base, .. } => return Bit::of(bytes, base),
            Datatype::FloatingPoint { byte_order, .. } => {
                let little = *byte_order == hdf5_reader::ByteOrder::LittleEndian;
                match (bytes.len(), little) {
                    (2, true) => half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f64(),
                    (2, false) => half::f16::from_be_bytes([bytes[0], bytes[1]]).to_f64(),
                    (4, true) => f64::from(f32::from_le_bytes(bytes.try_into().expect("four bytes"))),
                    (4, false) => f64::from(f32::from_be_bytes(bytes.try_into().expect("four bytes"))),
                    (8, true) => f64::from_le_bytes(bytes.try_into().expect("eight bytes")),
                    (8, false) => f64::from_be_bytes(bytes.try_into().expect("eight bytes")),
                    _ => return Bit::Other,
                }
            }
            Datatype::FixedPoint { byte_order, .. } => {
                let little = *byte_order == hdf5_reader::ByteOrder::LittleEndian;
                let low = if little { bytes.first() } else { bytes.last() };
                let sum: u32 = bytes.iter().map(|b| u32::from(*b)).sum();
                match (sum, low) {
                    (0, _) => 0.0,
                    (1, Some(1)) => 1.0,
                    _ => 2.0,
                }
            }
            _ => return Bit::Other,
        };
        match number {
            0.0 => Bit::Zero,
            1.0 => Bit::One,
            _ => Bit::Other,
        }
    }
}

impl H5Type for Bit {
    fn hdf5_type() -> Datatype {
        <u8 as H5Type>::hdf5_type()
    }
    fn from_bytes(bytes: &[u8], dtype: &Datatype) -> hdf5_reader::error::Result<Self> {
        Ok(Bit::of(bytes, dtype))
    }
    fn element_size(dtype: &Datatype) -> usize {
        match dtype {
            Datatype::FixedPoint { size, .. } | Datatype::FloatingPoint { size, .. } => usize::from(*size),
            Datatype::Enum { base, .. } => Self::element_size(base),
            _ => 1,
        }
    }
    fn decode_vec(raw: &[u8], dtype: &Datatype, count: usize) -> Option<hdf5_reader::error::Result<Vec<Self>>> {
        let size = Self::element_size(dtype);
        (raw.len() == count.checked_mul(size)?)
            .then(|| Ok(raw.chunks_exact(size).map(|bytes| Bit::of(bytes, dtype)).collect()))
    }
}

/// Order of the four channels, `ATCG` as SPEID writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channels([u8; 4]);

impl Default for Channels {
    fn default() -> Self {
        Channels([0, 3, 1, 2])
    }
}

impl std::str::FromStr for Channels {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let letters: Vec<u8> = text.bytes().filter(|b| *b != b',').filter_map(crate::data::fasta::code).collect();
        let mut sorted = letters.clone();
        sorted.sort_unstable();
        match letters.try_into() {
            Ok(order) if sorted == [0, 1, 2, 3] => Ok(Channels(order)),
            _ => Err(Error::config("--channels", format!("`{text}` is no order of A, C, G, T, such as ATCG"))),
        }
    }
}

/// Imports one cell line. `pairs` (in row order) supplies coordinates; without them elements are told apart by sequence.
pub fn import(
    path: &Path,
    cell_line: &str,
    pairs: Option<Pairs>,
    channels: Channels,
    cut: CutOptions,
    mut progress: impl FnMut(u64, u64),
) -> Result<(Contents, Notes)> {
    std::fs::File::open(path).map_err(Error::io(path))?;
    let options = OpenOptions::default().with_max_read_bytes(16 * BLOCK_BYTES as usize);
    let file = Hdf5File::open_with_options(path, options).map_err(|e| {
        Error::input(path, None, format!("no HDF5 file that can be read ({e}): was it copied completely?"))
    })?;
    let names = [format!("{cell_line}_X_enhancers"), format!("{cell_line}_X_promoters"), format!("{cell_line}labels")];
    let [enhancers, promoters, labels] = names.each_ref().map(|name| open(&file, path, name));
    let sides = [Windows::new(path, enhancers?)?, Windows::new(path, promoters?)?];
    let labels = read_labels(path, &labels?)?;
    let rows = labels.len() as u64;
    for side in &sides {
        if side.rows != rows {
            let message = format!("{} has {} rows, but there are {rows} labels", side.array.name(), side.rows);
            return Err(Error::input(path, None, message));
        }
    }
    let mut notes = Notes::default();
    let lengths = [0, 1].map(|s| cut.lengths[s].unwrap_or(sides[s].length));
    let spare = [0, 1].map(|s| sides[s].length.saturating_sub(lengths[s]) / 2);
    let flank = spare.into_iter().min().unwrap_or(0).min(cut.flank);
    let shape = PairTable { enhancer_length: lengths[0], promoter_length: lengths[1], ..PairTable::default() };
    let mut contents = Contents::new(shape, flank, Value::Null);
    let mut row_windows: [Vec<u32>; 2] = Default::default();
    for (s, side) in sides.iter().enumerate() {
        let width = lengths[s] + 2 * flank;
        let start = side.length as i64 / 2 - lengths[s] as i64 / 2 - flank as i64;
        let mut window = vec![4; width];
        side.stream(path, channels, |row, codes| {
            let base = |i: i64| usize::try_from(i).ok().and_then(|i| codes.get(i).copied()).unwrap_or(4);
            window.iter_mut().zip(start..).for_each(|(code, i)| *code = base(i));
            row_windows[s].push(contents.windows[s].push(&window));
            progress(s as u64 * rows + row, 2 * rows);
        })?;
    }
    let pairs = match pairs {
        Some(mut pairs) => {
            notes = std::mem::take(&mut pairs.notes);
            check_order(&pairs, &labels, path)?;
            pairs
        }
        None => bare_pairs(path, cell_line, &labels),
    };
    join(pairs, &row_windows, &mut contents);
    Ok((contents, notes))
}

/// Rows without coordinates: every row its own element, until [`join`] tells equal sequences.
fn bare_pairs(path: &Path, cell_line: &str, labels: &[u8]) -> Pairs {
    let nothing = Element { contig: None, start: 0, end: 0 };
    let row = |&label: &u8| Row { enhancer: 0, promoter: 0, label, cell_line: 0 };
    let table = PairTable {
        enhancers: vec![nothing.clone()],
        promoters: vec![nothing],
        cell_lines: vec![cell_line.to_string()],
        rows: labels.iter().map(row).collect(),
        ..PairTable::default()
    };
    let lines = (1..=labels.len() as u64).collect();
    Pairs { table, lines, ids: [vec![None], vec![None]], notes: Notes::default(), path: path.to_path_buf() }
}

/// The table must be the one that the file was made from: as many rows, the same labels.
fn check_order(pairs: &Pairs, labels: &[u8], path: &Path) -> Result<()> {
    if pairs.table.rows.len() != labels.len() {
        let message = format!("{} rows, but {} has {}", pairs.table.rows.len(), path.display(), labels.len());
        return Err(Error::input(&pairs.path, None, message));
    }
    match pairs.table.rows.iter().zip(labels).position(|(row, label)| row.label != *label) {
        Some(row) => {
            let message = format!("label {}, but row {row} of {} has {}", 1 - labels[row], path.display(), labels[row]);
            Err(pairs.error(row, message))
        }
        None => Ok(()),
    }
}

fn open(file: &Hdf5File, path: &Path, name: &str) -> Result<Array> {
    file.dataset(name).map_err(|error| {
        let present = file.root_group().and_then(|group| group.member_names());
        let message = match present {
            Ok((_, names)) if !names.iter().any(|n| n == name) => {
                format!(
                    "no array `{name}`; there are: {}",
                    names.iter().take(18).cloned().collect::<Vec<_>>().join(", ")
                )
            }
            _ => format!("`{name}` cannot be read ({error})"),
        };
        Error::input(path, None, message)
    })
}

fn numeric(dtype: &Datatype) -> bool {
    match dtype {
        Datatype::FixedPoint { .. } => true,
        Datatype::FloatingPoint { size, .. } => [2, 4, 8].contains(size),
        Datatype::Enum { base, .. } => numeric(base),
        _ => false,
    }
}

fn read_labels(path: &Path, array: &Array) -> Result<Vec<u8>> {
    let bad = |message: String| Error::input(path, None, format!("{}: {message}", array.name()));
    let shape = array.shape();
    let rows = shape.first().copied().unwrap_or(0);
    if !numeric(array.dtype()) || rows == 0 || rows > MOST_ROWS || shape[1..].iter().any(|n| *n != 1) {
        return Err(bad(format!("labels must be numbers of shape [N], not {shape:?}")));
    }
    let bits = array.read_array::<Bit>().map_err(|e| bad(e.to_string()))?;
    let label = |(row, bit): (usize, &Bit)| match bit {
        Bit::Zero => Ok(0),
        Bit::One => Ok(1),
        Bit::Other => Err(bad(format!("the label of row {row} is neither 0 nor 1"))),
    };
    bits.iter().enumerate().map(label).collect()
}

/// A one-hot array of one side.
struct Windows {
    array: Array,
    rows: u64,
    length: usize,
    /// Channels before positions, [N, 4, L].
    channels_first: bool,
    /// Rows to read at a time: whole chunks, as far as memory allows.
    block: u64,
}

impl Windows {
    fn new(path: &Path, array: Array) -> Result<Self> {
        let shape = array.shape().to_vec();
        let bad = |message: &str| Error::input(path, None, format!("{}: {message} (shape {shape:?})", array.name()));
        let &[rows, a, b] = shape.as_slice() else { return Err(bad("a one-hot array has shape [N, 4, L]")) };
        let (length, channels_first) = match (a, b) {
            (4, length) => (length, true),
            (length, 4) => (length, false),
            _ => return Err(bad("a one-hot array has shape [N, 4, L]")),
        };
        if length == 0 || length > u64::from(MAX_LENGTH) || rows > MOST_ROWS {
            return Err(bad("absurd size"));
        }
        if !numeric(array.dtype()) {
            return Err(bad("neither float nor integer"));
        }
        let most = (BLOCK_BYTES / (32 * length)).max(1);
        let chunk = array.chunks().and_then(|c| c.first().copied()).map_or(1, u64::from).max(1);
        let block = (most / chunk * chunk).max(chunk.min(most)).max(1);
        Ok(Windows { rows, length: length as usize, channels_first, block, array })
    }

    /// Hands every row to `sink` as codes.
    fn stream(&self, path: &Path, channels: Channels, mut sink: impl FnMut(u64, &[u8])) -> Result<()> {
        let bad = |message: String| Error::input(path, None, format!("{}: {message}", self.array.name()));
        let mut codes = vec![4; self.length];
        let mut first = 0;
        while first < self.rows {
            let end = (first + self.block).min(self.rows);
            let mut selection = SliceInfo::all(3);
            selection.selections[0] = SliceInfoElem::Slice { start: first, end, step: 1 };
            let block = self.array.read_slice::<Bit>(&selection).map_err(|e| bad(e.to_string()))?;
            let bits: Vec<Bit> = block.iter().copied().collect();
            if bits.len() as u64 != (end - first) * 4 * self.length as u64 {
                return Err(bad("fewer values than its shape says".into()));
            }
            for (row, bits) in (first..).zip(bits.chunks_exact(4 * self.length)) {
                for (i, code) in codes.iter_mut().enumerate() {
                    let at = |c: usize| bits[if self.channels_first { c * self.length + i } else { 4 * i + c }];
                    let four = [at(0), at(1), at(2), at(3)];
                    let ones = four.iter().filter(|b| **b == Bit::One).count();
                    let zeros = four.iter().filter(|b| **b == Bit::Zero).count();
                    *code = match (ones, zeros) {
                        (1, 3) => channels.0[four.iter().position(|b| *b == Bit::One).expect("one of them")],
                        // None set, or all equally: an unknown base, as the usual encoders write it.
                        (0, 4) | (4, 0) | (0, 0) => 4,
                        _ => return Err(bad(format!("row {row}, position {i} is not one-hot"))),
                    };
                }
                sink(row, &codes);
            }
            first = end;
        }
        Ok(())
    }
}
