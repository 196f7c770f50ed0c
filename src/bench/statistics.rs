//! What repeated timings say.

use serde::{Deserialize, Serialize};

/// Milliseconds of repeated runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    pub ms_median: f64,
    pub ms_min: f64,
    pub ms_max: f64,
}

impl Timing {
    /// Summary of at least one timing in seconds.
    pub fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        let n = seconds.len();
        let median = if n % 2 == 1 { seconds[n / 2] } else { (seconds[n / 2 - 1] + seconds[n / 2]) / 2.0 };
        Timing { ms_median: median * 1e3, ms_min: seconds[0] * 1e3, ms_max: seconds[n - 1] * 1e3 }
    }
}

/// Largest resident memory of this process so far, in MiB; `None` where the system does not tell.
pub fn peak_memory_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some((kib / 1024.0 * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_extremes() {
        let odd = Timing::of(vec![0.003, 0.001, 0.002]);
        assert_eq!(odd, Timing { ms_median: 2.0, ms_min: 1.0, ms_max: 3.0 });
        assert_eq!(Timing::of(vec![0.001, 0.25, 0.75, 1.0]).ms_median, 500.0);
        assert_eq!(Timing::of(vec![0.5]).ms_median, 500.0);
    }

    #[test]
    fn memory_is_told_on_linux() {
        assert_eq!(peak_memory_mib().is_some_and(|mib| mib > 1.0), cfg!(target_os = "linux"));
    }
}
