//! The memory-mapped data set: tables in memory, sequences where the file is, read only where a batch needs them.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::backend::{DnaBatch, WindowSet, WindowSide};
use crate::data::format::{self, HEADER, Header, Placement, Tables};
use crate::data::table::{PairTable, Side};
use crate::data::window::{NO_MASK, Plane, Windows, copy_window, index, words};
use crate::{Error, Result};

/// What a new data set is made of; [`Contents::write`] makes it a file, [`Contents::into_dataset`] keeps it in memory.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    pub pairs: PairTable,
    /// Bases stored on each side of every window.
    pub flank: usize,
    /// Windows of the enhancers and of the promoters, one entry in `of_element` per element.
    pub windows: [Windows; 2],
    /// Planted motifs of a synthetic set.
    pub placements: Vec<Placement>,
    /// Where everything came from.
    pub source: Value,
}

impl Contents {
    /// Without sequences yet: `pairs` names the elements whose windows are to be pushed, in order.
    pub fn new(pairs: PairTable, flank: usize, source: Value) -> Self {
        let windows = [pairs.enhancer_length, pairs.promoter_length].map(|length| Windows::new(length + 2 * flank));
        Contents { pairs, flank, windows, placements: Vec::new(), source }
    }

    fn encode_head(&self) -> Result<(Header, Vec<u8>)> {
        let config = |message: String| Error::config("data set", message);
        format::check(&self.pairs).map_err(config)?;
        for side in [Side::Enhancer, Side::Promoter] {
            let (elements, windows) = (self.pairs.elements(side).len(), &self.windows[index(side)]);
            if windows.of_element.len() != elements || windows.width() != self.pairs.length(side) + 2 * self.flank {
                return Err(config(format!("{elements} elements, {} windows given", windows.of_element.len())));
            }
        }
        let longest = self.pairs.enhancer_length.max(self.pairs.promoter_length).max(self.flank);
        if longest > format::MAX_LENGTH as usize || self.pairs.enhancer_length.min(self.pairs.promoter_length) == 0 {
            return Err(config(format!("window lengths and flank must lie in 1..={} bases", format::MAX_LENGTH)));
        }
        let mut tables = Tables {
            pairs: self.pairs.clone(),
            placements: self.placements.clone(),
            source: self.source.clone(),
            ..Tables::default()
        };
        for (i, windows) in self.windows.iter().enumerate() {
            tables.window_of[i].clone_from(&windows.of_element);
            tables.mask_of[i].clone_from(&windows.mask_of);
        }
        let (bytes, json_length) = tables.encode();
        let mut sha = Sha256::new();
        let mut payload_length = 0;
        self.payload(|chunk| {
            sha.update(chunk);
            payload_length += chunk.len() as u64;
            Ok(())
        })
        .expect("hashing does not fail");
        let payload_offset = ((HEADER + bytes.len()) as u64).next_multiple_of(64);
        let header = Header {
            file_length: payload_offset + payload_length,
            lengths: [self.pairs.enhancer_length as u32, self.pairs.promoter_length as u32],
            flank: self.flank as u32,
            rows: self.pairs.rows.len() as u64,
            elements: [self.pairs.enhancers.len() as u64, self.pairs.promoters.len() as u64],
            windows: [0, 1].map(|i| self.windows[i].len() as u64),
            masks: [0, 1].map(|i| (self.windows[i].masks.len() / words(self.windows[i].width())) as u64),
            columns: self.pairs.columns.len() as u64,
            placements: self.placements.len() as u64,
            json_length,
            tables_length: bytes.len() as u64,
            tables_crc: format::crc32(&bytes),
            payload_offset,
            payload_length,
            payload_sha256: sha.finalize().into(),
        };
        Ok((header, bytes))
    }

    /// Sequences in file order, in bounded pieces.
    fn payload(&self, mut sink: impl FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<()> {
        let mut buffer = Vec::with_capacity(1 << 16);
        for part in self.windows.iter().map(|w| &w.planes).chain(self.windows.iter().map(|w| &w.masks)) {
            for piece in part.chunks(1 << 13) {
                buffer.clear();
                piece.iter().for_each(|w| buffer.extend(w.to_le_bytes()));
                sink(&buffer)?;
            }
        }
        Ok(())
    }

    fn emit(&self, out: &mut impl Write, head: &(Header, Vec<u8>)) -> std::io::Result<()> {
        out.write_all(&head.0.encode())?;
        out.write_all(&head.1)?;
        let padding = head.0.payload_offset as usize - HEADER - head.1.len();
        out.write_all(&[0; 64][..padding])?;
        self.payload(|chunk| out.write_all(chunk))
    }

    /// Writes the file whole or not at all: under another name first, then renamed.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let head = self.encode_head()?;
        write_atomically(path, |out| self.emit(out, &head))
    }

    /// The same bytes, kept in memory.
    pub fn into_dataset(self) -> Result<Dataset> {
        let head = self.encode_head()?;
        let mut bytes = Vec::with_capacity(head.0.file_length as usize);
        self.emit(&mut bytes, &head).map_err(Error::io("memory"))?;
        Dataset::read(PathBuf::from("(in memory)"), Storage::Shared(Cow::Owned(bytes)))
    }
}

/// Runs `fill` on a temporary neighbour of `path` and gives it its name only when all is written.
pub fn write_atomically(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&mut File>) -> std::io::Result<()>,
) -> Result<()> {
    // Renaming onto a device or a pipe would put a plain file in its place.
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(Error::input(path, None, "is there already and is no plain file; choose another name to write to"));
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = tempfile::Builder::new()
        .prefix(".epi-")
        .suffix(".partial")
        .permissions_like_new()
        .tempfile_in(folder)
        .map_err(Error::io(folder))?;
    let written = (|| {
        let mut out = BufWriter::with_capacity(1 << 16, temporary.as_file_mut());
        fill(&mut out)?;
        out.flush()?;
        drop(out);
        temporary.as_file().sync_all()
    })();
    written.map_err(Error::io(path))?;
    temporary.persist(path).map_err(|e| Error::io(path)(e.error))?;
    Ok(())
}

trait PermissionsLikeNew {
    fn permissions_like_new(&mut self) -> &mut Self;
}

impl PermissionsLikeNew for tempfile::Builder<'_, '_> {
    /// Temporary files are private; a data set is to be as readable as any new file (less the umask).
    fn permissions_like_new(&mut self) -> &mut Self {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            self.permissions(std::fs::Permissions::from_mode(0o666));
        }
        self
    }
}

enum Storage {
    Mapped(memmap2::Mmap),
    Shared(Cow<'static, [u8]>),
}

impl Storage {
    fn bytes(&self) -> &[u8] {
        match self {
            Storage::Mapped(map) => map,
            Storage::Shared(bytes) => bytes,
        }
    }
}

/// Labelled pairs of windows. Cheap to clone; opening reads the tables only, whatever the size of the sequences.
#[derive(Clone)]
pub struct Dataset {
    storage: Arc<Storage>,
    header: Arc<Header>,
    tables: Arc<Tables>,
    /// Replaces the pairs of the file in [`Dataset::with_table`].
    pairs: Option<Arc<PairTable>>,
    path: PathBuf,
}

impl std::fmt::Debug for Dataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dataset({}, {} pairs)", self.path.display(), self.len())
    }
}

impl Dataset {
    /// Maps a file and checks its header, its tables and its length. Sequences are checked by [`Dataset::verify`].
    pub fn open(path: impl AsRef<Path>) -> Result<Dataset> {
        let path = path.as_ref();
        let file = File::open(path).map_err(Error::io(path))?;
        let metadata = file.metadata().map_err(Error::io(path))?;
        if !metadata.is_file() {
            return Err(Error::input(path, None, "not a file"));
        }
        if metadata.len() == 0 {
            return Err(Error::input(path, None, "empty file, not an .epi data set"));
        }
        // SAFETY: mapped read-only. Files are written under another name and renamed, never changed in place, by this
        // program; one that another program cuts short meanwhile would raise SIGBUS, as any mapped file.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?;
        Self::read(path.to_path_buf(), Storage::Mapped(map))
    }
    /// A data set compiled into the program (`include_bytes!`), at any alignment.
    pub fn from_static(bytes: &'static [u8]) -> Result<Dataset> {
        Self::read(PathBuf::from("(built in)"), Storage::Shared(Cow::Borrowed(bytes)))
    }
    /// A data set held in memory.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Dataset> {
        Self::read(PathBuf::from("(in memory)"), Storage::Shared(Cow::Owned(bytes)))
    }
    fn read(path: PathBuf, storage: Storage) -> Result<Dataset> {
        let header = Header::decode(storage.bytes(), &path)?;
        let (tables, padding) =
            storage.bytes()[HEADER..header.payload_offset as usize].split_at(header.tables_length as usize);
        if padding.iter().any(|&b| b != 0) {
            return Err(Error::input(
                path,
                None,
                "damaged between tables and sequences; copy or prepare the file again",
            ));
        }
        let tables = Tables::decode(tables, &header, &path)?;
        let (header, tables) = (Arc::new(header), Arc::new(tables));
        Ok(Dataset { storage: Arc::new(storage), header, tables, pairs: None, path })
    }
    /// The same sequences with other rows (a selection, a resampling). Elements must stay as they are.
    pub fn with_table(&self, pairs: PairTable) -> Result<Dataset> {
        let own = &self.tables.pairs;
        let same = (pairs.enhancer_length, pairs.promoter_length) == (own.enhancer_length, own.promoter_length);
        if !same || pairs.enhancers != own.enhancers || pairs.promoters != own.promoters {
            return Err(Error::config("data set", "a table with other elements than its sequences"));
        }
        format::check(&pairs).map_err(|message| Error::config("data set", message))?;
        Ok(Dataset { pairs: Some(Arc::new(pairs)), ..self.clone() })
    }
    /// The same data under another name, for messages.
    pub fn called(self, path: &Path) -> Dataset {
        Dataset { path: path.to_path_buf(), ..self }
    }
    /// The pairs.
    pub fn table(&self) -> &PairTable {
        self.pairs.as_deref().unwrap_or(&self.tables.pairs)
    }
    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.table().rows.len()
    }
    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Bases of an enhancer window, flanks excluded.
    pub fn enhancer_length(&self) -> usize {
        self.header.lengths[0] as usize
    }
    /// Bases of a promoter window, flanks excluded.
    pub fn promoter_length(&self) -> usize {
        self.header.lengths[1] as usize
    }
    /// Stored bases on each side of a window: shifts up to this see no N of ours.
    pub fn flank(&self) -> usize {
        self.header.flank as usize
    }
    /// Where everything came from, as `prepare` recorded it.
    pub fn info(&self) -> &Value {
        &self.tables.source
    }
    /// Motifs that `synth` planted; empty for real data. Their names are `info()["truth"]["motifs"]`.
    pub fn placements(&self) -> &[Placement] {
        &self.tables.placements
    }
    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Number of distinct stored windows of a side.
    pub fn windows(&self, side: Side) -> usize {
        self.header.windows[index(side)] as usize
    }
    /// Stored window of an element; equal sequences share one.
    pub fn window_of(&self, side: Side, element: u32) -> u32 {
        self.tables.window_of[index(side)][element as usize]
    }
    /// SHA-256 of the sequences and CRC-32 of the tables: equal for equal data sets.
    pub fn fingerprint(&self) -> String {
        let sha: String = self.header.payload_sha256.iter().map(|b| format!("{b:02x}")).collect();
        format!("{sha}-{:08x}", self.header.tables_crc)
    }
    /// Reads every sequence and compares the checksum of the header.
    pub fn verify(&self) -> Result<()> {
        let found: [u8; 32] = Sha256::digest(&self.storage.bytes()[self.header.payload_offset as usize..]).into();
        if found == self.header.payload_sha256 {
            return Ok(());
        }
        Err(Error::input(
            &self.path,
            None,
            "the sequences are damaged (SHA-256 differs); copy or prepare the file again",
        ))
    }

    /// Planes of a stored window, flanks included: low, high, and known if it holds an N.
    fn planes(&self, side: Side, window: u32) -> (Plane<'_>, Plane<'_>, Option<Plane<'_>>) {
        let (i, width) = (index(side), self.header.width(side));
        let payload = &self.storage.bytes()[self.header.payload_offset as usize..];
        let sizes = [Side::Enhancer, Side::Promoter].map(|side| 8 * words(self.header.width(side)));
        let windows_at = |i: usize| if i == 0 { 0 } else { 2 * sizes[0] * self.header.windows[0] as usize };
        let masks_start = windows_at(1) + 2 * sizes[1] * self.header.windows[1] as usize;
        let masks_at = masks_start + if i == 0 { 0 } else { sizes[0] * self.header.masks[0] as usize };
        let plane = |at: usize| Plane::new(&payload[at..at + sizes[i]], width);
        let at = windows_at(i) + 2 * sizes[i] * window as usize;
        let mask = self.tables.mask_of[i][window as usize];
        let known = (mask != NO_MASK).then(|| plane(masks_at + sizes[i] * mask as usize));
        (plane(at), plane(at + sizes[i]), known)
    }

    /// Every stored window, for a device that keeps them all.
    pub fn window_set(&self) -> WindowSet<'_> {
        let payload = &self.storage.bytes()[self.header.payload_offset as usize..];
        let side = |side: Side| {
            let (i, bytes) = (index(side), 8 * words(self.header.width(side)));
            let [planes, masks] = [self.header.windows.map(|n| 2 * n as usize), self.header.masks.map(|n| n as usize)];
            let before = 8 * words(self.header.width(Side::Enhancer));
            let masks_at = planes[0] * before + planes[1] * 8 * words(self.header.width(Side::Promoter));
            let [planes_at, masks_at] = [[0, masks_at], [planes[0] * before, masks_at + masks[0] * before]][i];
            WindowSide {
                length: self.header.lengths[i] as usize,
                planes: &payload[planes_at..][..planes[i] * bytes],
                masks: &payload[masks_at..][..masks[i] * bytes],
                mask_of: &self.tables.mask_of[i],
            }
        };
        WindowSet { sides: [side(Side::Enhancer), side(Side::Promoter)], flank: self.flank() }
    }
    /// Writes the window of an element into sequence `b` of a batch: moved by `shift` bases along the forward strand
    /// (N beyond the stored flank), then reverse-complemented if asked.
    ///
    /// # Panics
    /// If `out` has another length than the windows of this side, or `element` or `b` does not exist.
    pub fn write_window(
        &self,
        side: Side,
        element: u32,
        shift: i32,
        reverse_complement: bool,
        out: &mut DnaBatch,
        b: usize,
    ) {
        let length = self.header.lengths[index(side)] as usize;
        assert_eq!(out.length(), length, "a batch of other windows");
        let planes = self.planes(side, self.window_of(side, element));
        let start = i64::from(self.header.flank) + i64::from(shift);
        copy_window(planes, start, length, reverse_complement, out.planes_mut(b));
    }
    /// The window of an element with its stored flanks, as codes 0..=4.
    pub fn stored_codes(&self, side: Side, element: u32) -> Vec<u8> {
        let width = self.header.width(side);
        let mut out = DnaBatch::new(1, width);
        copy_window(self.planes(side, self.window_of(side, element)), 0, width, false, out.planes_mut(0));
        out.codes(0)
    }
    /// The window of an element as codes 0..=4 (4 = N), forward strand, flanks excluded.
    pub fn codes(&self, side: Side, element: u32) -> Vec<u8> {
        let mut out = DnaBatch::new(1, self.header.lengths[index(side)] as usize);
        self.write_window(side, element, 0, false, &mut out, 0);
        out.codes(0)
    }
}
