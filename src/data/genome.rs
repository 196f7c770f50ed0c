//! Genomes: UCSC .2bit and FASTA, each plain or compressed; any base of any contig by coordinate.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::data::fasta::Fasta;
use crate::data::input;
use crate::{Error, Result};

const SIGNATURE: u32 = 0x1A41_2743;
/// Code (A, C, G, T = 0..=3) of the two bits of .2bit's alphabet T, C, A, G.
const FROM_TWO_BIT: [u8; 4] = [3, 1, 0, 2];
const TO_TWO_BIT: [u8; 4] = [2, 1, 3, 0];

/// One contig: its length, its unknown stretches and where its bases are.
#[derive(Debug)]
struct Contig {
    name: String,
    length: u64,
    /// Disjoint, sorted stretches of N.
    unknown: Vec<(u64, u64)>,
    bases: Bases,
}

/// Four bases a byte, first base in the high bits.
#[derive(Debug)]
enum Bases {
    /// First byte in the .2bit file.
    At(usize),
    Packed(Vec<u8>),
    /// Not asked for when the genome was opened.
    Skipped,
}

#[derive(Debug)]
enum Storage {
    Mapped(memmap2::Mmap),
    Memory(Vec<u8>),
}

/// A genome open for reading.
#[derive(Debug)]
pub struct Genome {
    path: PathBuf,
    storage: Storage,
    contigs: Vec<Contig>,
    by_name: HashMap<String, usize>,
}

/// The name of a contig in the other convention: `chr20` = `20`, `chrM` = `MT`.
pub fn other_convention(name: &str) -> String {
    match name {
        "chrM" => "MT".into(),
        "MT" | "M" => "chrM".into(),
        _ => name.strip_prefix("chr").map_or_else(|| format!("chr{name}"), String::from),
    }
}

impl Genome {
    /// Opens a genome. From FASTA only the contigs in `wanted` are kept (all if `None`); .2bit is read where needed.
    pub fn open(path: impl AsRef<Path>, wanted: Option<&HashSet<String>>) -> Result<Genome> {
        let path = path.as_ref();
        let mut reader = input::open(path)?;
        let mut head = Vec::new();
        reader.by_ref().take(4).read_to_end(&mut head).map_err(input::failed(path, 1))?;
        let signature = head.as_slice().try_into().map(u32::from_le_bytes).unwrap_or(0);
        if signature != SIGNATURE && signature.swap_bytes() != SIGNATURE {
            return match head.iter().find(|b| !b.is_ascii_whitespace()) {
                Some(b'>') => Self::from_fasta(path, wanted),
                None if head.len() < 4 => Err(Error::input(path, None, "empty: neither .2bit nor FASTA")),
                _ => Err(Error::input(path, None, "neither .2bit nor FASTA (plain, gzip or bgzip)")),
            };
        }
        let mut file = File::open(path).map_err(Error::io(path))?;
        let mut magic = [0; 2];
        file.read_exact(&mut magic).map_err(Error::io(path))?;
        let storage = if magic == [0x1f, 0x8b] {
            // Offsets of version 0 have 32 bits, so no honest file is longer; it bounds a dishonest one.
            let mut bytes = head;
            let limit = u64::from(u32::MAX);
            reader.take(limit).read_to_end(&mut bytes).map_err(input::failed(path, 1))?;
            if bytes.len() as u64 > limit {
                return Err(Error::input(path, None, "more than 4 GiB of compressed .2bit; decompress it first"));
            }
            Storage::Memory(bytes)
        } else {
            // SAFETY: mapped read-only; see `Dataset::open` for files changed underneath.
            Storage::Mapped(unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?)
        };
        Self::from_two_bit(path, storage)
    }

    fn from_two_bit(path: &Path, storage: Storage) -> Result<Genome> {
        let bytes: &[u8] = match &storage {
            Storage::Mapped(map) => map,
            Storage::Memory(bytes) => bytes,
        };
        let bad = |message: &str| Error::input(path, None, format!(".2bit: {message}; was it copied completely?"));
        let mut reader = TwoBit { bytes, at: 4, swap: bytes[..4] != SIGNATURE.to_le_bytes() };
        let cut = || bad("ends too early");
        let version = reader.word().ok_or_else(cut)?;
        let count = reader.word().ok_or_else(cut)?;
        reader.word().ok_or_else(cut)?;
        if version > 1 {
            return Err(bad(&format!("unknown version {version}")));
        }
        let mut index = Vec::new();
        for _ in 0..count {
            let size = reader.take(1).ok_or_else(cut)?[0];
            let name = std::str::from_utf8(reader.take(usize::from(size)).ok_or_else(cut)?);
            let name = name.map_err(|_| bad("a contig name is no text"))?.to_string();
            index.push((name, reader.offset(version == 1).ok_or_else(cut)?));
        }
        let mut contigs = Vec::with_capacity(index.len());
        let mut used = 0;
        for (name, offset) in index {
            let begin = usize::try_from(offset).map_err(|_| cut())?;
            reader.at = begin;
            let length = u64::from(reader.word().ok_or_else(cut)?);
            let unknown = reader.blocks().ok_or_else(cut)?;
            reader.blocks().ok_or_else(cut)?;
            reader.word().ok_or_else(cut)?;
            let start = reader.at;
            reader.take(length.div_ceil(4) as usize).ok_or_else(cut)?;
            used += reader.at - begin;
            if used > bytes.len() {
                return Err(bad("its contigs overlap"));
            }
            if unknown.iter().any(|&(_, end)| end > length) {
                return Err(bad(&format!("an N block of {name} lies outside of it")));
            }
            contigs.push(Contig { name, length, unknown: merged(unknown), bases: Bases::At(start) });
        }
        Self::indexed(path, storage, contigs)
    }

    fn from_fasta(path: &Path, wanted: Option<&HashSet<String>>) -> Result<Genome> {
        let mut fasta = Fasta::open(path)?;
        let mut contigs = Vec::new();
        let mut seen = HashSet::new();
        while let Some((name, line)) = fasta.header()? {
            if !seen.insert(name.clone()) {
                return Err(Error::input(path, line, format!("a second record named {name}")));
            }
            let keep = wanted.is_none_or(|w| w.contains(&name) || w.contains(&other_convention(&name)));
            let (mut packed, mut unknown) = (Packer::default(), Vec::<(u64, u64)>::new());
            let length = fasta.sequence(|codes| {
                if keep {
                    codes.iter().for_each(|&code| packed.push(code, &mut unknown));
                }
            })?;
            let bases = if keep { Bases::Packed(packed.finish()) } else { Bases::Skipped };
            contigs.push(Contig { name, length, unknown, bases });
        }
        Self::indexed(path, Storage::Memory(Vec::new()), contigs)
    }

    fn indexed(path: &Path, storage: Storage, contigs: Vec<Contig>) -> Result<Genome> {
        if contigs.is_empty() {
            return Err(Error::input(path, None, "a genome without contigs"));
        }
        let mut by_name = HashMap::new();
        for (i, contig) in contigs.iter().enumerate() {
            if by_name.insert(contig.name.clone(), i).is_some() {
                return Err(Error::input(path, None, format!("two contigs named {}", contig.name)));
            }
        }
        Ok(Genome { path: path.to_path_buf(), storage, contigs, by_name })
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Index of a contig, under its own name or that of the other convention (`chr20` = `20`).
    pub fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).or_else(|| self.by_name.get(&other_convention(name))).copied()
    }
    /// Names of all contigs, in file order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.contigs.iter().map(|c| c.name.as_str())
    }
    /// Name of a contig.
    pub fn name(&self, contig: usize) -> &str {
        &self.contigs[contig].name
    }
    /// Bases of a contig.
    pub fn length(&self, contig: usize) -> u64 {
        self.contigs[contig].length
    }
    /// Known bases (neither N nor outside of the contig) among the `length` from `start` on.
    pub fn known(&self, contig: usize, start: i64, length: usize) -> usize {
        let contig = &self.contigs[contig];
        let from = start.clamp(0, contig.length as i64) as u64;
        let to = start.saturating_add(length as i64).clamp(from as i64, contig.length as i64) as u64;
        let first = contig.unknown.partition_point(|&(_, end)| end <= from);
        let blocks = contig.unknown[first..].iter().take_while(|&&(a, _)| a < to);
        (to - from - blocks.map(|&(a, b)| b.min(to) - a.max(from)).sum::<u64>()) as usize
    }
    /// Fills `out` with the codes (0..=4, 4 = N) from base `start` on; N outside of the contig.
    pub fn fetch(&self, contig: usize, start: i64, out: &mut [u8]) {
        let contig = &self.contigs[contig];
        out.fill(4);
        let from = start.clamp(0, contig.length as i64);
        let to = (start.saturating_add(out.len() as i64)).clamp(from, contig.length as i64);
        if from == to {
            return;
        }
        let bytes: &[u8] = match (&contig.bases, &self.storage) {
            (Bases::Packed(bytes), _) => bytes,
            (Bases::At(at), Storage::Mapped(map)) => &map[*at..],
            (Bases::At(at), Storage::Memory(bytes)) => &bytes[*at..],
            (Bases::Skipped, _) => return,
        };
        let inside = &mut out[(from - start) as usize..(to - start) as usize];
        for (i, code) in (from as usize..to as usize).zip(inside.iter_mut()) {
            *code = FROM_TWO_BIT[usize::from(bytes[i / 4] >> (6 - 2 * (i % 4)) & 3)];
        }
        let first = contig.unknown.partition_point(|&(_, end)| end <= from as u64);
        for &(a, b) in contig.unknown[first..].iter().take_while(|&&(a, _)| a < to as u64) {
            let (a, b) = ((a as i64).max(from), (b as i64).min(to));
            inside[(a - from) as usize..(b - from) as usize].fill(4);
        }
    }
}

/// Sorted and without overlaps.
fn merged(mut blocks: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    blocks.retain(|(start, end)| start < end);
    blocks.sort_unstable();
    blocks.dedup_by(|next, last| {
        let joins = next.0 <= last.1;
        if joins {
            last.1 = last.1.max(next.1);
        }
        joins
    });
    blocks
}

#[derive(Default)]
struct Packer {
    bytes: Vec<u8>,
    partial: u8,
    count: u64,
}

impl Packer {
    fn push(&mut self, code: u8, unknown: &mut Vec<(u64, u64)>) {
        let bits = if code < 4 { TO_TWO_BIT[usize::from(code)] } else { 0 };
        self.partial = self.partial << 2 | bits;
        if code >= 4 {
            match unknown.last_mut() {
                Some((_, end)) if *end == self.count => *end += 1,
                _ => unknown.push((self.count, self.count + 1)),
            }
        }
        self.count += 1;
        if self.count.is_multiple_of(4) {
            self.bytes.push(self.partial);
        }
    }
    fn finish(mut self) -> Vec<u8> {
        let rest = self.count % 4;
        if rest > 0 {
            self.bytes.push(self.partial << (2 * (4 - rest)));
        }
        self.bytes
    }
}

/// Reads the numbers of a .2bit file; `None` when it ends too early.
struct TwoBit<'a> {
    bytes: &'a [u8],
    at: usize,
    swap: bool,
}

impl<'a> TwoBit<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let piece = self.bytes.get(self.at..self.at.checked_add(n)?)?;
        self.at += n;
        Some(piece)
    }
    fn word(&mut self) -> Option<u32> {
        let word = u32::from_le_bytes(self.take(4)?.try_into().ok()?);
        Some(if self.swap { word.swap_bytes() } else { word })
    }
    fn offset(&mut self, wide: bool) -> Option<u64> {
        if !wide {
            return self.word().map(u64::from);
        }
        let word = u64::from_le_bytes(self.take(8)?.try_into().ok()?);
        Some(if self.swap { word.swap_bytes() } else { word })
    }
    /// A list of blocks as (start, end).
    fn blocks(&mut self) -> Option<Vec<(u64, u64)>> {
        let n = self.word()? as usize;
        let bytes = self.take(n.checked_mul(8)?)?;
        let word = |i: usize| {
            let word = u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().expect("four bytes"));
            u64::from(if self.swap { word.swap_bytes() } else { word })
        };
        Some((0..n).map(|i| (word(i), word(i) + word(n + i))).collect())
    }
}
