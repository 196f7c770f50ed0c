//! Every variant of a VCF through each pair whose windows hold it: with the reference allele and with the alternative.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::pairs::{Place, SIDES};
use super::partial::Partial;
use super::scorer::{Score, Scorer};
use super::vcf::{Record, Vcf};
use crate::backend::Backend;
use crate::data::genome::other_convention;
use crate::data::{Dataset, Genome, Side};
use crate::error::{Error, Result};

/// Records that are read, scored and written together.
const BLOCK: usize = 256;

/// What became of the records and alleles of a file.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    pub records: u64,
    /// Records that lie in no window of the pairs.
    pub outside: u64,
    /// Records that share a reference base with the record before; each is scored alone.
    pub overlapping: u64,
    /// Records whose reference allele is not what the genome (or the stored window) has there; not scored.
    pub reference_differs: u64,
    /// Alternative alleles that spell no sequence (`<DEL>`, `*`, breakends); not scored.
    pub symbolic: u64,
    /// Alternative alleles that were scored, and in how many pairs altogether.
    pub alleles: u64,
    pub scored: u64,
}

/// The windows of a data set by place.
struct Index {
    /// Sorted starts with their elements, per contig name and side.
    by_contig: HashMap<String, [Vec<(i64, u32)>; 2]>,
    /// Rows of each element.
    rows: [HashMap<u32, Vec<u32>>; 2],
    lengths: [usize; 2],
}

impl Index {
    fn of(dataset: &Dataset, rows: &[u32]) -> Result<Self> {
        let table = dataset.table();
        let sides = [Side::Enhancer, Side::Promoter];
        let lengths = sides.map(|s| table.length(s));
        let mut index = Index { by_contig: HashMap::new(), rows: Default::default(), lengths };
        for &row in rows {
            for (s, side) in sides.into_iter().enumerate() {
                let element = table.sample(row as usize).element(side);
                index.rows[s].entry(element).or_default().push(row);
            }
        }
        for (s, side) in sides.into_iter().enumerate() {
            for &number in index.rows[s].keys() {
                let element = &table.elements(side)[number as usize];
                let Some(contig) = element.contig else { continue };
                let name = table.contigs[contig as usize].clone();
                index.by_contig.entry(name).or_default()[s].push((element.window_start(lengths[s]), number));
            }
        }
        if index.by_contig.is_empty() {
            let message =
                "the pairs have no coordinates, so that no variant can be placed; prepare the data set from a genome";
            return Err(Error::input(dataset.path(), None, message));
        }
        index.by_contig.values_mut().flatten().for_each(|list| list.sort_unstable());
        Ok(index)
    }
    /// Elements of a side whose windows hold a base of `start..end`.
    fn holding(&self, contig: &str, side: usize, start: i64, end: i64) -> &[(i64, u32)] {
        let name = if self.by_contig.contains_key(contig) { contig.to_string() } else { other_convention(contig) };
        let Some(lists) = self.by_contig.get(&name) else { return &[] };
        let list = &lists[side];
        let from = list.partition_point(|(s, _)| s + self.lengths[side] as i64 <= start);
        let to = list.partition_point(|(s, _)| *s < end);
        &list[from.min(to)..to]
    }
}

/// What is needed to place variants.
pub struct Sources<'a> {
    pub dataset: &'a Dataset,
    /// Rows of the data set whose pairs are scored.
    pub rows: &'a [u32],
    /// Checks reference alleles, and supplies the bases that a deletion lets into a window; without it the stored windows
    /// and their flanks do.
    pub genome: Option<&'a Genome>,
}

/// One copy to be scored.
struct Job {
    record: usize,
    allele: usize,
    row: u32,
    side: usize,
    /// Index of the first reference base in the window; negative when it lies before it.
    offset: i64,
    codes: Vec<u8>,
}

impl Sources<'_> {
    fn contig(&self, name: &str) -> Option<(usize, &Genome)> {
        self.genome.and_then(|g| Some((g.find(name)?, g)))
    }
    /// `length` bases of an element from base `start` of the genome on; N where nobody knows.
    fn bases(&self, contig: &str, side: usize, element: u32, start: i64, length: usize) -> Vec<u8> {
        let mut out = vec![4; length];
        if let Some((contig, genome)) = self.contig(contig) {
            genome.fetch(contig, start, &mut out);
            return out;
        }
        let s = [Side::Enhancer, Side::Promoter][side];
        let stored = self.dataset.stored_codes(s, element);
        let table = self.dataset.table();
        let origin = table.elements(s)[element as usize].window_start(table.length(s)) - self.dataset.flank() as i64;
        for (i, code) in out.iter_mut().enumerate() {
            let at = start + i as i64 - origin;
            *code = usize::try_from(at).ok().and_then(|at| stored.get(at).copied()).unwrap_or(4);
        }
        out
    }
}

/// Error when the header gives lengths that the genome's contigs do not have.
fn check_assembly(vcf: &Vcf, genome: &Genome) -> Result<()> {
    for (name, length) in &vcf.contigs {
        if let (Some(length), Some(contig)) = (length, genome.find(name))
            && *length != genome.length(contig)
            && genome.length(contig) > 0
        {
            let message = format!(
                "the header gives {name} {length} bases, {} has {}: another assembly. Lift the variants over first",
                genome.path().display(),
                genome.length(contig)
            );
            return Err(Error::input(vcf.path(), None, message));
        }
    }
    Ok(())
}

/// How far both files are, as [`Partial`] keeps it after every block of records.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
struct State {
    counts: Counts,
    /// Bytes of the table and of the annotated file.
    bytes: [u64; 2],
    /// Contig and end of the record before.
    last: (String, i64),
}

/// A result that is written a block at a time under a hidden name, which is its own only when it is complete.
struct Growing {
    file: File,
    path: PathBuf,
    to: PathBuf,
}

impl Growing {
    fn hidden(to: &Path) -> PathBuf {
        to.with_file_name(format!(".{}.partial", to.file_name().unwrap_or_default().to_string_lossy()))
    }
    /// Opens what was written of `to`, up to `bytes`.
    fn open(to: &Path, bytes: u64) -> Result<Self> {
        let path = Self::hidden(to);
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = opened.and_then(|mut file| {
            file.set_len(bytes)?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        });
        Ok(Growing { file: file.map_err(Error::io(&path))?, path, to: to.to_path_buf() })
    }
    fn append(&mut self, text: &[u8]) -> Result<()> {
        self.file.write_all(text).map_err(Error::io(&self.path))
    }
    fn finish(self) -> Result<()> {
        self.file.sync_all().map_err(Error::io(&self.path))?;
        std::fs::rename(&self.path, &self.to).map_err(Error::io(&self.to))
    }
}

/// Scores a VCF: a table of every allele in every pair at `table`, the annotated file at `annotated`. Both grow block by block
/// beside the journal at `journal`; a run of the same `key` goes on behind the last block. `tick` is told the records done.
/// Returns the counts, and the records that an earlier run had done.
///
/// # Errors
/// Malformed records by line; [`Error::Input`] when most reference alleles disagree, which is what another assembly does.
pub fn score_variants<B: Backend>(
    scorer: &Scorer<'_, B>,
    sources: &Sources<'_>,
    vcf: &mut Vcf,
    (table, annotated): (&Path, &Path),
    (journal, key): (&Path, &str),
    tick: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<(Counts, u64)> {
    if let Some(genome) = sources.genome {
        check_assembly(vcf, genome)?;
    }
    let index = Index::of(sources.dataset, sources.rows)?;
    let (mut kept, states) = Partial::open(journal, key, 1, |line| serde_json::from_str::<State>(line).ok())?;
    let there = |to: &Path| std::fs::metadata(Growing::hidden(to)).map_or(0, |m| m.len());
    // What the journal speaks of may have been removed.
    let whole = |s: &State| s.bytes[0] <= there(table) && s.bytes[1] <= there(annotated);
    let state = states.into_iter().next_back().filter(whole).unwrap_or_default();
    let mut files = [Growing::open(table, state.bytes[0])?, Growing::open(annotated, state.bytes[1])?];
    let resumed = state.counts.records;
    match stream(scorer, sources, &index, vcf, state, &mut files, &mut kept, tick) {
        Ok(counts) => {
            let [table, annotated] = files;
            table.finish()?;
            annotated.finish()?;
            kept.remove()?;
            Ok((counts, resumed))
        }
        Err(error) => {
            // What a person stopped, or a full disk, can go on; a file that is wrong will be another one.
            if !matches!(error, Error::Interrupted(_) | Error::Io { .. }) {
                files.iter().for_each(|f| drop(std::fs::remove_file(&f.path)));
                kept.remove()?;
            }
            Err(error)
        }
    }
}

/// What stands above the records of both files.
fn heads(vcf: &Vcf) -> [String; 2] {
    let mut head: String = vcf.header.iter().flat_map(|line| [line, "\n"]).collect();
    for (id, number, kind, what) in [
        ("EPI_PAIRS", "1", "Integer", "Enhancer-promoter pairs whose windows hold the variant"),
        ("EPI_CHANGE", "A", "Float", "Largest change of the log odds of interaction among these pairs"),
        ("EPI_ROW", "A", "Integer", "Row of the data set of that pair"),
    ] {
        head += &format!("##INFO=<ID={id},Number={number},Type={kind},Description=\"{what}\">\n");
    }
    let table = "chrom\tpos\tid\tref\talt\trow\tcell_line\tlabel\tside\twindow\toffset\tenhancer_promoter_distance\t\
                 ref_log_odds\talt_log_odds\tchange\tref_probability\talt_probability\n";
    [table.into(), head + &vcf.columns + "\n"]
}

fn stream<B: Backend>(
    scorer: &Scorer<'_, B>,
    sources: &Sources<'_>,
    index: &Index,
    vcf: &mut Vcf,
    mut state: State,
    files: &mut [Growing; 2],
    kept: &mut Partial,
    tick: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Counts> {
    if state.counts.records == 0 {
        for ((file, head), bytes) in files.iter_mut().zip(heads(vcf)).zip(&mut state.bytes) {
            file.append(head.as_bytes())?;
            *bytes = head.len() as u64;
        }
    }
    for _ in 0..state.counts.records {
        vcf.next_record()?;
    }
    let mut references: HashMap<u32, Score> = HashMap::new();
    loop {
        let mut texts = [String::new(), String::new()];
        let mut block = Vec::new();
        while block.len() < BLOCK {
            let Some(record) = vcf.next_record()? else { break };
            block.push(record);
        }
        if block.is_empty() {
            return Ok(state.counts);
        }
        let counts = &mut state.counts;
        let jobs = place(sources, index, &block, counts, &mut state.last);
        let checked = counts.records - counts.outside;
        if counts.reference_differs >= 20 && 2 * counts.reference_differs > checked {
            let message = format!(
                "{} of {checked} reference alleles disagree with the sequence there: another assembly, or shifted \
                 positions. Lift the variants over first",
                counts.reference_differs
            );
            return Err(Error::input(vcf.path(), block[0].number, message));
        }
        let windows = |row: u32| {
            let sample = sources.dataset.table().sample(row as usize);
            [Side::Enhancer, Side::Promoter].map(|s| sources.dataset.codes(s, sample.element(s)))
        };
        let mut missing: Vec<u32> = jobs.iter().map(|j| j.row).filter(|r| !references.contains_key(r)).collect();
        missing.sort_unstable();
        missing.dedup();
        for rows in missing.chunks(scorer.batch()) {
            let codes: Vec<_> = rows.iter().map(|&row| windows(row)).collect();
            let borrowed: Vec<[&[u8]; 2]> = codes.iter().map(|[e, p]| [e.as_slice(), p.as_slice()]).collect();
            references.extend(rows.iter().copied().zip(scorer.score(&borrowed)?));
        }
        let mut best: HashMap<(usize, usize), (f32, u32)> = HashMap::new();
        let mut pairs: HashMap<usize, std::collections::HashSet<u32>> = HashMap::new();
        for chunk in jobs.chunks(scorer.batch()) {
            let codes: Vec<[Vec<u8>; 2]> = chunk
                .iter()
                .map(|job| {
                    let mut codes = windows(job.row);
                    codes[job.side].clone_from(&job.codes);
                    codes
                })
                .collect();
            let borrowed: Vec<[&[u8]; 2]> = codes.iter().map(|[e, p]| [e.as_slice(), p.as_slice()]).collect();
            for (job, alt) in chunk.iter().zip(scorer.score(&borrowed)?) {
                let (record, reference) = (&block[job.record], references[&job.row]);
                let change = alt.log_odds - reference.log_odds;
                let entry = best.entry((job.record, job.allele)).or_insert((change, job.row));
                if change.abs() > entry.0.abs() {
                    *entry = (change, job.row);
                }
                pairs.entry(job.record).or_default().insert(job.row);
                let place = Place::of(sources.dataset, job.row)?;
                texts[0] += &format!(
                    "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{change}\t{}\t{}\n",
                    record.contig,
                    record.start + 1,
                    record.id,
                    super::pairs::letters(&record.reference),
                    record.alternatives[job.allele].0,
                    job.row,
                    place.cell_line,
                    place.sample.label,
                    SIDES[job.side],
                    place.window(job.side),
                    job.offset,
                    place.distance.map_or("NA".into(), |d| d.to_string()),
                    reference.log_odds,
                    alt.log_odds,
                    reference.probability,
                    alt.probability,
                );
            }
        }
        counts.scored += jobs.len() as u64;
        counts.alleles += best.len() as u64;
        for (i, record) in block.iter().enumerate() {
            let info = pairs.get(&i).map_or(String::new(), |rows| {
                let of = |f: &dyn Fn(&(f32, u32)) -> String| -> String {
                    let each = (0..record.alternatives.len()).map(|a| best.get(&(i, a)).map_or(".".into(), f));
                    each.collect::<Vec<_>>().join(",")
                };
                let (changes, rows_of) = (of(&|b| format!("{:.6}", b.0)), of(&|b| b.1.to_string()));
                format!("EPI_PAIRS={};EPI_CHANGE={changes};EPI_ROW={rows_of}", rows.len())
            });
            texts[1] += &(record.annotated(&info) + "\n");
        }
        for ((file, text), bytes) in files.iter_mut().zip(&texts).zip(&mut state.bytes) {
            file.append(text.as_bytes())?;
            *bytes += text.len() as u64;
        }
        kept.append([serde_json::to_string(&state).expect("counts are JSON")])?;
        tick(state.counts.records)?;
    }
}

/// The copies that a block of records asks for.
fn place(
    sources: &Sources<'_>,
    index: &Index,
    block: &[Record],
    counts: &mut Counts,
    last: &mut (String, i64),
) -> Vec<Job> {
    let mut jobs = Vec::new();
    for (number, record) in block.iter().enumerate() {
        counts.records += 1;
        let end = record.start + record.reference.len() as i64;
        counts.overlapping += u64::from(record.contig == last.0 && record.start < last.1);
        let before = if record.contig == last.0 { last.1 } else { 0 };
        *last = (record.contig.clone(), end.max(before));
        counts.symbolic += record.alternatives.iter().filter(|(_, codes)| codes.is_none()).count() as u64;
        let held: Vec<(usize, i64, u32)> = (0..2)
            .flat_map(|side| {
                index.holding(&record.contig, side, record.start, end).iter().map(move |&(s, e)| (side, s, e))
            })
            .collect();
        let Some(&(side, _, element)) = held.first() else {
            counts.outside += 1;
            continue;
        };
        let there = sources.bases(&record.contig, side, element, record.start, record.reference.len());
        if there.iter().zip(&record.reference).any(|(&a, &b)| a < 4 && b < 4 && a != b) {
            counts.reference_differs += 1;
            continue;
        }
        for (allele, (_, codes)) in record.alternatives.iter().enumerate() {
            let Some(alternative) = codes else { continue };
            for &(side, start, element) in &held {
                let length = index.lengths[side];
                let offset = record.start - start;
                // What stands before the window's first base stays outside.
                let front = usize::try_from(offset).unwrap_or(0);
                let hidden = usize::try_from(-offset).unwrap_or(0).min(alternative.len());
                let mut codes = sources.bases(&record.contig, side, element, start, front);
                codes.extend(&alternative[hidden..]);
                codes.truncate(length);
                let behind = sources.bases(&record.contig, side, element, end, length - codes.len());
                codes.extend(behind);
                for &row in &index.rows[side][&element] {
                    jobs.push(Job { record: number, allele, row, side, offset, codes: codes.clone() });
                }
            }
        }
    }
    jobs
}
