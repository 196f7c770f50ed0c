//! The data path: opening a data set, and making the batches of an epoch.

use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use super::statistics::Timing;
use crate::data::{Augmentation, Balance, Batch, Dataset, EpochPlan, demo};
use crate::error::Result;

/// The result of `bench data`.
#[derive(Clone, Debug, Serialize)]
pub struct DataReport {
    pub data: String,
    pub pairs: usize,
    pub enhancer_length: usize,
    pub promoter_length: usize,
    pub batch: usize,
    pub commit: String,
    /// Opening the file, its header and tables checked.
    pub open: Timing,
    /// One batch with shift and reverse complement, on one thread.
    pub fill: Timing,
    pub batches_per_s: f64,
    pub samples_per_s: f64,
}

/// What to time.
#[derive(Clone, Copy, Debug)]
pub struct DataBench {
    pub batch: usize,
    /// Batches timed; epochs follow each other as needed.
    pub batches: usize,
}

/// Opens `path` (the bundled data set without one) and fills batches.
pub fn run(path: Option<&Path>, bench: &DataBench) -> Result<DataReport> {
    let opening = || path.map_or_else(demo::demo, Dataset::open);
    let mut seconds = Vec::new();
    for _ in 0..7 {
        let started = Instant::now();
        drop(opening()?);
        seconds.push(started.elapsed().as_secs_f64());
    }
    let (dataset, open) = (opening()?, Timing::of(seconds));
    let samples: Vec<_> = (0..dataset.len()).map(|row| dataset.table().sample(row)).collect();
    let augmentation = Augmentation { shift: dataset.flank().min(100) as u32, reverse_complement: true };
    let plan = EpochPlan::training(&samples, Balance::None, augmentation, 1, bench.batch);
    let whole = (samples.len() / plan.batch_size()).max(1);
    let mut batch = Batch::new();
    plan.fill(&dataset, 0, 0, &mut batch);
    let timed = (0..bench.batches.max(1)).map(|i| {
        let started = Instant::now();
        plan.fill(&dataset, (i / whole) as u32, i % whole, &mut batch);
        started.elapsed().as_secs_f64()
    });
    let fill = Timing::of(timed.collect());
    let batches_per_s = 1e3 / fill.ms_median;
    Ok(DataReport {
        data: path.map_or("demo".into(), |p| p.display().to_string()),
        pairs: dataset.len(),
        enhancer_length: dataset.enhancer_length(),
        promoter_length: dataset.promoter_length(),
        batch: batch.len(),
        commit: super::commit(),
        open,
        fill,
        batches_per_s,
        samples_per_s: batches_per_s * batch.len() as f64,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_bundled_data_is_timed() {
        let report = super::run(None, &super::DataBench { batch: 8, batches: 3 }).unwrap();
        assert_eq!(report.batch, 8);
        assert!(report.samples_per_s > 0.0 && report.open.ms_min <= report.open.ms_median);
    }
}
