//! Do scores mean probabilities? Reliability bins of equal width and their expected calibration error.

/// One bin of the reliability diagram: samples with a score in `low..high` (the last bin includes 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bin {
    pub low: f64,
    pub high: f64,
    pub n: usize,
    /// Mean predicted probability; `None` in an empty bin.
    pub mean_score: Option<f64>,
    /// Share of positives; `None` in an empty bin.
    pub positive_rate: Option<f64>,
}

/// Reliability bins and their summary.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    pub bins: Vec<Bin>,
    /// Expected calibration error: |mean score − positive rate| averaged over samples; `None` when there are none.
    pub ece: Option<f64>,
}

/// Bins probabilities into `bins` intervals of equal width over [0, 1].
pub fn calibration(labels: &[u8], scores: &[f64], bins: usize) -> Calibration {
    let bins = bins.max(1);
    let mut sums = vec![(0usize, 0.0f64, 0.0f64); bins];
    for (&label, &score) in labels.iter().zip(scores) {
        let bin = &mut sums[((score * bins as f64) as usize).min(bins - 1)];
        *bin = (bin.0 + 1, bin.1 + score, bin.2 + f64::from(label));
    }
    let gap: f64 = sums.iter().map(|(_, score, positives)| (score - positives).abs()).sum();
    let mean = |sum: f64, n: usize| (n > 0).then(|| sum / n as f64);
    let bin = |(i, &(n, score, positives)): (usize, &(usize, f64, f64))| Bin {
        low: i as f64 / bins as f64,
        high: (i + 1) as f64 / bins as f64,
        n,
        mean_score: mean(score, n),
        positive_rate: mean(positives, n),
    };
    Calibration { bins: sums.iter().enumerate().map(bin).collect(), ece: mean(gap, labels.len()) }
}
