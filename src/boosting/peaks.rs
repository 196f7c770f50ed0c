//! Features from peak files: mean signal per base of each factor over enhancer, promoter and the window between them.
//!
//! As TargetFinder computes them: the signals of all peaks that overlap a region, summed, divided by the region's length.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;

use crate::config::Regions;
use crate::data::input::Lines;
use crate::data::{Element, Pairs};
use crate::error::{Error, Result};

/// One peak: 0-based, half-open.
#[derive(Clone, Copy, Debug)]
struct Peak {
    start: i64,
    end: i64,
    signal: f64,
    /// The highest end among this peak and those before it.
    reach: i64,
}

/// The peaks of one factor, by contig, sorted by start.
#[derive(Clone, Debug, Default)]
pub struct Peaks(HashMap<String, Vec<Peak>>);

impl Peaks {
    /// Reads files of one factor, plain or compressed. The signal is column 7 of narrowPeak and broadPeak, column 4 of
    /// bedGraph and column 5 of BED (1 where a BED file has none), told apart by the end of the file's name.
    ///
    /// # Errors
    /// [`Error::Input`] with file and line for what is no interval or has no finite signal.
    pub fn read<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<Peaks> {
        let mut peaks = Peaks::default();
        for path in paths {
            peaks.add(path)?;
        }
        for peaks in peaks.0.values_mut() {
            peaks.sort_by_key(|p| (p.start, p.end));
            let mut reach = i64::MIN;
            for peak in peaks {
                reach = reach.max(peak.end);
                peak.reach = reach;
            }
        }
        Ok(peaks)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let name = path.to_string_lossy().to_ascii_lowercase();
        let name = name.trim_end_matches(".gz").trim_end_matches(".bgz");
        let column = match name.rsplit('.').next() {
            Some("narrowpeak" | "broadpeak") => Some(6),
            Some("bedgraph" | "bg") => Some(3),
            _ => None,
        };
        let mut lines = Lines::open(path)?;
        while let Some(text) = lines.next_line()? {
            if text.trim().is_empty() || ["#", "track", "browser"].iter().any(|start| text.starts_with(start)) {
                continue;
            }
            let fields: Vec<String> = text.split('\t').map(|f| f.trim().to_string()).collect();
            let bad = |message: String| Error::input(path, lines.number(), message);
            let interval = || Some((fields.get(1)?.parse::<i64>().ok()?, fields.get(2)?.parse::<i64>().ok()?));
            let (start, end) = interval().filter(|(start, end)| 0 <= *start && start < end).ok_or_else(|| {
                bad("not a peak: contig, start and end in columns 1 to 3, separated by tabs, 0 <= start < end".into())
            })?;
            let cell = match column {
                Some(at) => Some(fields.get(at).map_or("", String::as_str)),
                None => fields.get(4).map(String::as_str),
            };
            let signal = match cell {
                None => 1.0,
                Some(cell) => cell.parse::<f64>().ok().filter(|s| s.is_finite()).ok_or_else(|| {
                    bad(format!("the signal in column {} is `{cell}`, not a finite number", column.unwrap_or(4) + 1))
                })?,
            };
            self.0.entry(fields[0].clone()).or_default().push(Peak { start, end, signal, reach: end });
        }
        Ok(())
    }

    /// Signals of the peaks that overlap an interval, summed, by its length; 0 for an empty interval.
    pub fn mean(&self, contig: &str, start: i64, end: i64) -> f64 {
        let peaks = self.0.get(contig).map_or(&[][..], Vec::as_slice);
        let before = peaks.partition_point(|p| p.start < end);
        let near = peaks[..before].iter().rev().take_while(|p| p.reach > start);
        let sum: f64 = near.filter(|p| p.end > start).map(|p| p.signal).sum();
        if start < end { sum / (end - start) as f64 } else { 0.0 }
    }
}

/// The bases between two elements of one contig, as TargetFinder counts them (one base short on both sides).
fn window(a: &Element, b: &Element) -> (i64, i64) {
    let (left, right) = if a.start <= b.start { (a, b) } else { (b, a) };
    (left.end + 1, right.start - 1)
}

/// A table in the form of TargetFinder's `training.csv`: coordinates, label and the measurements of every pair.
///
/// # Errors
/// [`Error::Config`] for `eep`: which bases extend an enhancer is for the pairs to say.
pub fn measure(pairs: &Pairs, factors: &[(String, Peaks)], regions: Regions) -> Result<String> {
    let names: &[&str] = match regions {
        Regions::Ep => &["enhancer", "promoter"],
        Regions::Epw => &["enhancer", "promoter", "window"],
        Regions::Eep => {
            let message = "eep: give --pairs with the extended enhancers, and measure them as ep";
            return Err(Error::config("--regions", message));
        }
    };
    let mut text =
        String::from("enhancer_chrom,enhancer_start,enhancer_end,promoter_chrom,promoter_start,promoter_end");
    text.push_str(",cell_line,label");
    for region in names {
        factors.iter().for_each(|(factor, _)| text.push_str(&format!(",{factor} ({region})")));
    }
    text.push('\n');
    let table = &pairs.table;
    for (row, r) in table.rows.iter().enumerate() {
        let (e, p) = (&table.enhancers[r.enhancer as usize], &table.promoters[r.promoter as usize]);
        let (Some(ec), Some(pc)) = (e.contig, p.contig) else {
            return Err(pairs.error(row, "a pair without coordinates cannot be measured"));
        };
        let (contig, other) = (&table.contigs[ec as usize], &table.contigs[pc as usize]);
        let cell = &table.cell_lines[r.cell_line as usize];
        let _ = write!(text, "{contig},{},{},{other},{},{},{cell},{}", e.start, e.end, p.start, p.end, r.label);
        for region in names {
            let (contig, (start, end)) = match *region {
                "enhancer" => (contig, (e.start, e.end)),
                "promoter" => (other, (p.start, p.end)),
                _ => (contig, if ec == pc { window(e, p) } else { (0, 0) }),
            };
            for (_, peaks) in factors {
                let _ = write!(text, ",{}", peaks.mean(contig, start, end));
            }
        }
        text.push('\n');
    }
    Ok(text)
}
