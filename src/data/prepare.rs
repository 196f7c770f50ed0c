//! From pairs and a genome to a data set: windows centred on the elements, cut from the reference.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::data::fasta::{self, Fasta};
use crate::data::pairs::Pairs;
use crate::data::table::{Element, Side};
use crate::data::window::index;
use crate::data::{Contents, Genome, Notes};
use crate::{Error, Result};

/// Shape of the windows and what to do with rows that do not fit.
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// Bases of a window, without flanks.
    pub enhancer_length: usize,
    pub promoter_length: usize,
    /// Further bases stored on each side, for shifting.
    pub flank: usize,
    /// Rows with a window of which more than this share is N are dropped, and counted.
    pub max_unknown: f64,
    /// Drop and count rows on unknown contigs or beyond their ends, instead of refusing them.
    pub lenient: bool,
}

impl Default for PrepareOptions {
    fn default() -> Self {
        PrepareOptions { enhancer_length: 3000, promoter_length: 2000, flank: 100, max_unknown: 0.5, lenient: false }
    }
}

impl PrepareOptions {
    /// Length of one side's window.
    pub fn length(&self, side: Side) -> usize {
        match side {
            Side::Enhancer => self.enhancer_length,
            Side::Promoter => self.promoter_length,
        }
    }
    /// Whether lengths and flank are such as a file can hold.
    pub fn check(&self) -> Result<()> {
        const MOST: usize = crate::data::format::MAX_LENGTH as usize;
        let bad = |option: &str, message: String| Err(Error::config(option, message));
        for (option, n) in [("--enhancer-length", self.enhancer_length), ("--promoter-length", self.promoter_length)] {
            if !(1..=MOST).contains(&n) {
                return bad(option, format!("{n} bases; it must lie in 1..={MOST}"));
            }
        }
        if self.flank > MOST {
            return bad("--flank", format!("{} bases; at most {MOST}", self.flank));
        }
        if !(0.0..=1.0).contains(&self.max_unknown) {
            return bad("--max-unknown", format!("{} is no share between 0 and 1", self.max_unknown));
        }
        Ok(())
    }
}

const SIDES: [Side; 2] = [Side::Enhancer, Side::Promoter];

/// Cuts the windows of all pairs out of a genome. Windows that leave their contig are padded with N (and counted).
pub fn from_genome(mut pairs: Pairs, genome: &Genome, options: &PrepareOptions) -> Result<(Contents, Notes)> {
    options.check()?;
    let mut notes = std::mem::take(&mut pairs.notes);
    drop_rows_off_the_genome(&mut pairs, genome, options, &mut notes)?;
    let contigs = adopt_contig_names(&mut pairs, genome)?;
    pairs.table.enhancer_length = options.enhancer_length;
    pairs.table.promoter_length = options.promoter_length;

    let contig_of = |e: &Element| contigs[e.contig.expect("pairs for a genome have coordinates") as usize];
    let unknown: [Vec<bool>; 2] = SIDES.map(|side| {
        let length = options.length(side);
        let enough = ((1.0 - options.max_unknown) * length as f64).max(1.0);
        let known = |e: &Element| genome.known(contig_of(e), e.window_start(length), length);
        pairs.table.elements(side).iter().map(|e| (known(e) as f64) < enough).collect()
    });
    let drop = |row: usize| {
        let pair = pairs.table.rows[row];
        unknown[0][pair.enhancer as usize] || unknown[1][pair.promoter as usize]
    };
    let dropped: Vec<bool> = (0..pairs.table.rows.len()).map(drop).collect();
    for row in (0..dropped.len()).filter(|&r| dropped[r]) {
        let what = format!("row with a window of which more than {} is N, dropped", options.max_unknown);
        notes.add(&what, || pairs.place(row));
    }
    if dropped.iter().all(|d| *d) {
        let message = "every row has a window that is mostly N in this genome: is it the right assembly?";
        return Err(Error::input(&pairs.path, None, message));
    }
    // Contigs stay as they are numbered, so that `contigs` above stays right.
    let names = pairs.table.contigs.clone();
    if dropped.contains(&true) {
        pairs.retain(|r| !dropped[r]);
    }
    let kept = pairs.table.contigs.iter().map(|name| names.iter().position(|n| n == name).expect("a subset"));
    let contigs: Vec<usize> = kept.map(|i| contigs[i]).collect();

    let mut contents = Contents::new(pairs.table, options.flank, Value::Null);
    for side in SIDES {
        let length = options.length(side);
        let windows = &mut contents.windows[index(side)];
        let mut cut: HashMap<(usize, i64), u32> = HashMap::new();
        let mut codes = vec![0; length + 2 * options.flank];
        for element in contents.pairs.elements(side) {
            let contig = contigs[element.contig.expect("a contig") as usize];
            let start = element.window_start(length);
            if start < 0 || start + length as i64 > genome.length(contig) as i64 {
                let what = "window that leaves its contig, padded with N";
                notes.add(what, || format!("{}:{}-{}", genome.name(contig), element.start, element.end));
            }
            match cut.get(&(contig, start)) {
                Some(window) => windows.push_shared(*window),
                None => {
                    genome.fetch(contig, start - options.flank as i64, &mut codes);
                    cut.insert((contig, start), windows.push(&codes));
                }
            }
        }
    }
    Ok((contents, notes))
}

fn drop_rows_off_the_genome(
    pairs: &mut Pairs,
    genome: &Genome,
    options: &PrepareOptions,
    notes: &mut Notes,
) -> Result<()> {
    let found: Vec<Option<usize>> = pairs.table.contigs.iter().map(|name| genome.find(name)).collect();
    let trouble = |element: &Element| -> Option<(&'static str, String)> {
        let contig = element.contig.expect("a contig") as usize;
        let name = &pairs.table.contigs[contig];
        let Some(contig) = found[contig] else {
            let some: Vec<&str> = genome.names().take(8).collect();
            let message = format!("no contig `{name}` in {} (it has {}, …)", genome.path().display(), some.join(", "));
            return Some(("row on a contig that the genome lacks, dropped", message));
        };
        let length = genome.length(contig);
        (element.end as u64 > length).then(|| {
            let message = format!(
                "{name}:{}-{} ends beyond the {length} bases of that contig: is this the right assembly?",
                element.start, element.end
            );
            ("row with an element beyond the end of its contig, dropped", message)
        })
    };
    let mut dropped = vec![false; pairs.table.rows.len()];
    for (row, drop) in dropped.iter_mut().enumerate() {
        for side in SIDES {
            let Some((what, message)) = trouble(pairs.table.element(side, row)) else { continue };
            if !options.lenient {
                return Err(pairs.error(row, format!("{message} (--lenient drops such rows, and counts them)")));
            }
            notes.add(what, || pairs.place(row));
            *drop = true;
            break;
        }
    }
    if dropped.contains(&true) {
        pairs.retain(|r| !dropped[r]);
    }
    if pairs.table.rows.is_empty() {
        let path = genome.path().display();
        return Err(Error::input(
            &pairs.path,
            None,
            format!("no pair lies on a contig of {path}: is this the right assembly?"),
        ));
    }
    Ok(())
}

/// Names contigs as the genome does; gives the genome's index of each.
fn adopt_contig_names(pairs: &mut Pairs, genome: &Genome) -> Result<Vec<usize>> {
    let contigs: Vec<usize> = pairs.table.contigs.iter().map(|n| genome.find(n).expect("looked up before")).collect();
    for (i, contig) in contigs.iter().enumerate() {
        if let Some(first) = contigs[..i].iter().position(|c| c == contig) {
            let (a, b) = (&pairs.table.contigs[first], &pairs.table.contigs[i]);
            let message = format!("both `{a}` and `{b}` are used for one contig; write one of them throughout");
            return Err(Error::input(&pairs.path, None, message));
        }
    }
    pairs.table.contigs = contigs.iter().map(|c| genome.name(*c).to_string()).collect();
    Ok(contigs)
}

/// Compares a FASTA file of known windows, named `contig:start-end` (0-based, half-open), with a genome.
///
/// Gives the number of windows compared. N matches anything. Any difference is an error: this is another assembly.
pub fn check_assembly(genome: &Genome, windows: &Path) -> Result<usize> {
    let mut fasta = Fasta::open(windows)?;
    let (mut compared, mut first, mut different) = (0, None, 0);
    while let Some((name, line)) = fasta.header()? {
        let bad = |message: String| Error::input(windows, line, message);
        let interval = parse_interval(&name);
        let (contig, start, end) =
            interval.ok_or_else(|| bad(format!("`{name}` is not of the form contig:start-end")))?;
        let contig =
            genome.find(contig).ok_or_else(|| bad(format!("no contig `{contig}` in {}", genome.path().display())))?;
        let mut codes = Vec::new();
        let length = fasta.sequence(|piece| {
            if codes.len() as i64 <= end - start {
                codes.extend_from_slice(piece);
            }
        })?;
        if length as i64 != end - start {
            return Err(bad(format!("{name} has {length} bases")));
        }
        let mut reference = vec![0; codes.len()];
        genome.fetch(contig, start, &mut reference);
        compared += 1;
        if codes.iter().zip(&reference).any(|(a, b)| a != b && *a < 4 && *b < 4) {
            different += 1;
            first.get_or_insert((name, line));
        }
    }
    match first {
        None if compared == 0 => Err(Error::input(windows, None, "no window to compare")),
        None => Ok(compared),
        Some((name, line)) => {
            let path = genome.path().display();
            let message =
                format!("{different} of {compared} windows differ from {path}, first {name}: another assembly?");
            Err(Error::input(windows, line, message))
        }
    }
}

/// `contig:start-end`, perhaps behind a cell line (`NHEK|chr1:10-20`).
pub fn parse_interval(name: &str) -> Option<(&str, i64, i64)> {
    let name = name.split_once('|').map_or(name, |(_, rest)| rest);
    let (contig, range) = name.rsplit_once(':')?;
    let (start, end) = range.split_once('-')?;
    let (start, end) = (start.parse::<i64>().ok()?, end.parse::<i64>().ok()?);
    (0 <= start && start < end && end < 1 << 40 && !contig.is_empty()).then_some((contig, start, end))
}

/// Letters of codes, for output.
pub fn letters(codes: &[u8]) -> String {
    codes.iter().map(|&c| fasta::letter(c)).collect()
}

/// Name, size and (up to 1 GiB) SHA-256 of an input file. The name only: data sets do not depend on where they are made.
pub fn provenance(path: &Path) -> Result<Value> {
    let mut file = std::fs::File::open(path).map_err(Error::io(path))?;
    let bytes = file.metadata().map_err(Error::io(path))?.len();
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
    let mut source = json!({"file": name, "bytes": bytes});
    if bytes <= 1 << 30 {
        let mut sha = Sha256::new();
        let mut buffer = vec![0; 1 << 18];
        loop {
            let n = std::io::Read::read(&mut file, &mut buffer).map_err(Error::io(path))?;
            if n == 0 {
                break;
            }
            sha.update(&buffer[..n]);
        }
        let hex: String = sha.finalize().iter().map(|b| format!("{b:02x}")).collect();
        source["sha256"] = hex.into();
    }
    Ok(source)
}
