//! How long a run will take: rates measured once on one processor, scaled to this one; corrected by what has run already.

use super::index::{Cell, CellState};
use super::plan::Job;
use crate::config::Config;
use crate::data::Sample;
use crate::data::split::Split;
use crate::models::{Model, Network};
use crate::train::training_plan;

/// Samples per second that train and that are scored, of windows of 3000 and 2000 bp, with AVX2 on two cores
/// (`docs/benchmarks.md`).
const RATES: [(&str, f64, f64); 3] = [("epsat", 17.9, 71.3), ("speid", 192.0, 563.0), ("eplae", 6.99, 22.8)];
/// The processor of [`RATES`].
const THREADS: f64 = 2.0;
/// AVX-512 as a multiple of it, portable code likewise (EPSAT).
const AVX512: f64 = 1.6;
const PORTABLE: f64 = 0.12;
/// Trees x training rows per second of one core of the same processor.
const TREE_ROWS: f64 = 5.2e6;

/// What the work of a cell comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// Samples that will train and that will be scored, validation as often as it is.
    pub train: u64,
    pub score: u64,
    /// Seconds on this machine when nothing else runs; `None` for devices that have not been measured.
    pub seconds: Option<f64>,
}

/// How fast a device is beside the one of [`RATES`], by its name; `None` for one that has not been measured.
pub fn speed(device: &str) -> Option<f64> {
    let isa = device.strip_prefix("cpu (")?;
    let factor = match isa.split(',').next()? {
        "avx512" => AVX512,
        "avx2" => 1.0,
        _ => PORTABLE,
    };
    Some(factor * rayon::current_num_threads() as f64 / THREADS)
}

/// What a network's run comes to if nothing stops it early.
pub fn network(config: &Config, lengths: [usize; 2], split: &Split, speed: Option<f64>) -> Estimate {
    let limit = match config.train.step_limit() {
        0 => u64::MAX,
        n => u64::from(n),
    };
    let (batch, mut steps, mut train, mut evaluations) = (config.train.batch as u64, 0, 0, 0);
    for phase in config.phases() {
        let plan = training_plan(config, phase.balance, &split.train);
        let batches = (plan.batches() as u64).max(1);
        let all = batches * u64::from(phase.epochs);
        let of_phase = if phase.max_steps > 0 { all.min(phase.max_steps.into()) } else { all }.min(limit - steps);
        steps += of_phase;
        train += (of_phase / batches) * plan.len() as u64 + (of_phase % batches) * batch;
        let every = if config.train.evaluate_every > 0 { config.train.evaluate_every.into() } else { batches };
        evaluations += of_phase.div_ceil(every);
    }
    let of = |part: &[Sample]| part.len() as u64;
    let test = if split.test == split.validation { 0 } else { of(&split.test) };
    let score = (evaluations + 1) * of(&split.validation) + test;
    let seconds = speed.map(|speed| {
        let network = Network::new(&config.model);
        let (_, training, scoring) =
            RATES.into_iter().find(|(name, ..)| *name == config.model.name()).expect("every network has been measured");
        // A smaller or larger network of the same kind, or other windows.
        let published = crate::config::load(config.model.name(), &[]).expect("a preset of that name");
        let usual = Network::new(&published.model).flops_forward(3000, 2000);
        let scale = network.flops_forward(lengths[0], lengths[1]) / usual;
        (train as f64 / training + score as f64 / scoring) * scale / speed
    });
    Estimate { train, score, seconds }
}

/// What growing trees on these splits comes to, one fold a thread.
pub fn trees(trees: usize, splits: &[Split]) -> Estimate {
    let rows: u64 = splits.iter().map(|s| s.train.len() as u64).sum();
    let threads = rayon::current_num_threads().min(splits.len()).max(1) as f64;
    let seconds = trees as f64 * rows as f64 / TREE_ROWS / threads;
    Estimate { train: rows, score: splits.iter().map(|s| s.test.len() as u64).sum(), seconds: Some(seconds) }
}

/// A cell for [`left`].
pub struct Part<'a> {
    pub cell: &'a Cell,
    pub job: &'a Job,
    pub estimate: Estimate,
    /// The share of a running one that is over.
    pub done: f64,
}

/// Seconds that the cells from the state they are in will still take: their estimates, times how much longer finished cells of
/// the same kind took than theirs. `at_once` of them share the processor, so that each takes that much longer by itself.
pub fn left(parts: &[Part<'_>], at_once: usize) -> Option<f64> {
    let kind = |job: &Job| match job {
        Job::Network(config) => config.model.name(),
        Job::Trees(_) => "trees",
    };
    let factor = |name: Option<&str>| {
        let finished =
            parts.iter().filter(|p| p.cell.state == CellState::Done && name.is_none_or(|name| kind(p.job) == name));
        let sums = finished.fold((0.0, 0.0), |(took, said), p| match p.estimate.seconds {
            Some(seconds) => (took + p.cell.seconds, said + seconds),
            None => (took, said),
        });
        (sums.1 > 0.0).then(|| sums.0 / sums.1 / at_once as f64)
    };
    let overall = factor(None).unwrap_or(1.0);
    let mut seconds = 0.0;
    for part in parts {
        let share = match part.cell.state {
            CellState::Pending | CellState::Interrupted => 1.0,
            CellState::Running => 1.0 - part.done,
            CellState::Done | CellState::Failed | CellState::NoData => continue,
        };
        seconds += share * part.estimate.seconds? * factor(Some(kind(part.job))).unwrap_or(overall);
    }
    Some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_measured_devices_have_a_speed() {
        let two = speed("cpu (avx2, 2 threads); no CUDA: no driver").unwrap();
        assert!(speed("cpu (avx512, 2 threads)").unwrap() > two);
        assert!(speed("NVIDIA H100").is_none());
    }
}
