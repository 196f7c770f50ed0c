//! Rank tests and false discovery rates.

/// Two-sided or one-sided Mann–Whitney test by the normal approximation, corrected for ties and continuity: the probability
/// of a rank sum at least this large when `a` does not tend to be larger than `b`. 1 when either is empty or all are tied.
pub fn mann_whitney_greater(a: &[f32], b: &[f32]) -> f64 {
    let (n, m) = (a.len() as f64, b.len() as f64);
    if a.is_empty() || b.is_empty() {
        return 1.0;
    }
    let mut all: Vec<(f32, bool)> = a.iter().map(|&v| (v, true)).chain(b.iter().map(|&v| (v, false))).collect();
    all.sort_unstable_by(|x, y| x.0.total_cmp(&y.0));
    let (mut rank_sum, mut ties, mut start) = (0.0, 0.0, 0);
    while start < all.len() {
        let mut end = start + 1;
        while end < all.len() && all[end].0 == all[start].0 {
            end += 1;
        }
        let t = (end - start) as f64;
        let mean_rank = (start + end + 1) as f64 / 2.0;
        rank_sum += mean_rank * all[start..end].iter().filter(|v| v.1).count() as f64;
        ties += t * t * t - t;
        start = end;
    }
    let total = n + m;
    let u = rank_sum - n * (n + 1.0) / 2.0;
    let variance = n * m / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)).max(1.0));
    if variance <= 0.0 {
        return 1.0;
    }
    upper_tail((u - n * m / 2.0 - 0.5) / variance.sqrt())
}

/// Probability that a standard normal exceeds `z`.
pub fn upper_tail(z: f64) -> f64 {
    0.5 * erfc(z / std::f64::consts::SQRT_2)
}

/// Complementary error function: a Chebyshev fit with relative error below 1.2e-7 everywhere (Press et al., "Numerical
/// Recipes", 6.2).
fn erfc(x: f64) -> f64 {
    const C: [f64; 10] = [
        -1.26551223,
        1.00002368,
        0.37409196,
        0.09678418,
        -0.18628806,
        0.27886807,
        -1.13520398,
        1.48851587,
        -0.82215223,
        0.17087277,
    ];
    let t = 1.0 / (1.0 + 0.5 * x.abs());
    let sum = C.iter().rev().fold(0.0, |sum, c| sum * t + c);
    let value = t * (sum - x * x).exp();
    if x >= 0.0 { value } else { 2.0 - value }
}

/// Benjamini–Hochberg: the false discovery rate at which each of these p values is still called.
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
    let (mut q, mut least) = (vec![1.0; p.len()], 1.0f64);
    for (i, &at) in order.iter().enumerate() {
        least = least.min(p[at] * p.len() as f64 / (p.len() - i) as f64);
        q[at] = least;
    }
    q
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_scipy() {
        // scipy.stats.mannwhitneyu(a, b, alternative="greater", method="asymptotic")
        let p = mann_whitney_greater(&[3.0, 4.0, 4.0, 6.0, 9.0], &[1.0, 2.0, 4.0, 3.5, 0.5, 2.0]);
        assert!((p - 0.016840222909646634).abs() < 1e-8, "{p}");
        assert_eq!(mann_whitney_greater(&[1.0, 1.0], &[1.0]), 1.0);
        assert!((upper_tail(1.959964) - 0.025).abs() < 1e-6);
        // scipy.stats.false_discovery_control
        let q = benjamini_hochberg(&[0.01, 0.04, 0.03, 0.5]);
        let expected = [0.04, 0.16 / 3.0, 0.16 / 3.0, 0.5];
        assert!(q.iter().zip(expected).all(|(q, e)| (q - e).abs() < 1e-12), "{q:?}");
    }
}
