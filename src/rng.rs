//! Counter-based randomness: every random number is a pure function of (seed, stream, step, element), so masks are
//! regenerated instead of stored, equal on every backend, and an epoch's order can be computed for any index anywhere.
//!
//! Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), Philox4x32-10.

/// Purposes that draw from one seed; each has its own stream so that they never share numbers.
///
/// Streams below 256 belong to dropout layers (numbered by the model).
pub mod stream {
    /// Initial weights; the parameter's index is added.
    pub const INIT: u32 = 0x1000_0000;
    /// Order of the samples of an epoch.
    pub const ORDER: u32 = 0x2000_0000;
    /// Shift and reverse complement of a sample.
    pub const AUGMENT: u32 = 0x2000_0001;
    /// Assignment of rows, loci or components to folds.
    pub const SPLIT: u32 = 0x2000_0002;
    /// Resampling for intervals.
    pub const BOOTSTRAP: u32 = 0x2000_0003;
    /// Synthetic data.
    pub const SYNTH: u32 = 0x2000_0004;
    /// Negatives drawn for tables that hold none.
    pub const NEGATIVES: u32 = 0x2000_0006;
    /// Sequences of control experiments.
    pub const CONTROL: u32 = 0x2000_0008;
    /// Features that the splits of boosted trees draw.
    pub const TREES: u32 = 0x2000_0010;
    /// Backgrounds of explanations.
    pub const EXPLAIN: u32 = 0x2000_0007;
    /// Sampling of latent variables.
    pub const LATENT: u32 = 0x2000_0005;
}

const M0: u32 = 0xD251_1F53;
const M1: u32 = 0xCD9E_8D57;
const W0: u32 = 0x9E37_79B9;
const W1: u32 = 0xBB67_AE85;

/// One Philox4x32-10 block: four words from a 128-bit counter and a 64-bit key.
#[inline(always)]
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let p0 = u64::from(M0) * u64::from(c0);
        let p1 = u64::from(M1) * u64::from(c2);
        (c0, c1, c2, c3) = ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
        k0 = k0.wrapping_add(W0);
        k1 = k1.wrapping_add(W1);
    }
    [c0, c1, c2, c3]
}

/// The block of a keyed stream: `counter = [block low, block high, stream, step]`, `key = seed`.
///
/// This layout is part of the contract with the CUDA kernels (`kernels/include/philox.cuh`).
#[inline(always)]
pub fn block(seed: u64, stream: u32, step: u32, block: u64) -> [u32; 4] {
    philox([block as u32, (block >> 32) as u32, stream, step], [seed as u32, (seed >> 32) as u32])
}

/// A sequential reader of one stream, for host code that wants "the next number".
#[derive(Clone, Debug)]
pub struct Stream {
    seed: u64,
    stream: u32,
    step: u32,
    next: u64,
    words: [u32; 4],
}

impl Stream {
    /// Starts the stream `(seed, stream, step)` at its first word.
    pub fn new(seed: u64, stream: u32, step: u32) -> Self {
        Stream { seed, stream, step, next: 0, words: [0; 4] }
    }
    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        let within = (self.next % 4) as usize;
        if within == 0 {
            self.words = block(self.seed, self.stream, self.step, self.next / 4);
        }
        self.next += 1;
        self.words[within]
    }
    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) << 32 | u64::from(self.next_u32())
    }
    /// Uniform in [0, 1) with 24 bits.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }
    /// Uniform in [0, 1) with 53 bits.
    pub fn uniform_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }
    /// Uniform integer in `0..n` (`n > 0`), without modulo bias (Lemire's method).
    pub fn below(&mut self, n: u32) -> u32 {
        let threshold = n.wrapping_neg() % n;
        loop {
            let product = u64::from(self.next_u32()) * u64::from(n);
            if product as u32 >= threshold {
                return (product >> 32) as u32;
            }
        }
    }
    /// Standard normal (Box–Muller, one of the pair).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform_f64()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform_f64()).cos()
    }
    /// Fisher–Yates shuffle in place.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u32 + 1) as usize);
        }
    }
}

/// Dropout of one layer: which elements are kept is a function of (seed, stream, step, element) alone.
///
/// Probabilities are whole multiples of 1/65536. Element `e` reads the 16-bit half `e % 8` of block `e / 8`
/// (word `(e % 8) / 2`, low half first) and is dropped when that half is below `threshold`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability of dropping, in [0, 1).
    pub probability: f32,
    /// Seed of the run.
    pub seed: u64,
    /// Number of the layer, unique within a model.
    pub stream: u32,
}

impl Dropout {
    /// Halves below this value are dropped.
    pub fn threshold(&self) -> u32 {
        ((f64::from(self.probability) * 65536.0).round() as u32).min(65535)
    }
    /// Factor of the kept elements: the exact inverse of the probability of keeping.
    pub fn scale(&self) -> f32 {
        (65536.0 / f64::from(65536 - self.threshold())) as f32
    }
    /// Whether element `e` is kept at `step`.
    pub fn keeps(&self, step: u32, e: u64) -> bool {
        let word = block(self.seed, self.stream, step, e / 8)[(e % 8) as usize / 2];
        (word >> (16 * (e % 2))) & 0xFFFF >= self.threshold()
    }
}

/// Standard normal noise of one layer, a function of (seed, stream, step, element) alone.
///
/// Elements `4 b .. 4 b + 4` come from block `b`: words 0 and 1 give the first two, words 2 and 3 the others, by Box and
/// Muller's method from 24 bits each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    /// Seed of the run.
    pub seed: u64,
    /// Number of the layer, unique within a model.
    pub stream: u32,
}

impl Noise {
    /// Element `e` at `step`.
    pub fn at(&self, step: u32, e: u64) -> f64 {
        let words = block(self.seed, self.stream, step, e / 4);
        let pair = (e % 4 / 2 * 2) as usize;
        let uniform = |word: u32| f64::from(word >> 8) / 16_777_216.0;
        let radius = (-2.0 * (uniform(words[pair]) + 1.0 / 16_777_216.0).ln()).sqrt();
        let angle = std::f64::consts::TAU * uniform(words[pair + 1]);
        radius * if e.is_multiple_of(2) { angle.cos() } else { angle.sin() }
    }
}

/// A keyed bijection of `0..n`: a Feistel network on the next power of four, with cycle walking.
///
/// `at(i)` is the `i`-th sample of the epoch; no table is stored and any index is computed alone.
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    n: u64,
    half: u32,
    seed: u64,
    epoch: u32,
}

impl Permutation {
    /// The order of epoch `epoch` of a list of `n` samples.
    pub fn new(n: u64, seed: u64, epoch: u32) -> Self {
        let bits = 64 - n.saturating_sub(1).leading_zeros();
        Permutation { n, half: bits.div_ceil(2).max(1), seed, epoch }
    }
    /// Bits of each half of the network.
    pub fn half_bits(&self) -> u32 {
        self.half
    }
    /// Where position `i` of the order points to.
    pub fn at(&self, i: u64) -> u64 {
        assert!(i < self.n, "position {i} of an order of {}", self.n);
        let mask = (1u64 << self.half) - 1;
        let mut x = i;
        loop {
            let (mut left, mut right) = (x >> self.half, x & mask);
            for round in 0..6u64 {
                let f = block(self.seed, stream::ORDER, self.epoch, right << 3 | round)[0];
                (left, right) = (right, left ^ (u64::from(f) & mask));
            }
            x = left << self.half | right;
            if x < self.n {
                return x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_known_answers() {
        // Random123's kat_vectors, philox4x32 10 rounds.
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn permutation_is_a_bijection_and_depends_on_epoch() {
        for n in [1u64, 2, 3, 7, 64, 65, 1000, 4097] {
            let order = Permutation::new(n, 7, 3);
            let mut seen = vec![false; n as usize];
            for i in 0..n {
                assert!(!std::mem::replace(&mut seen[order.at(i) as usize], true));
            }
        }
        let (a, b) = (Permutation::new(1000, 7, 0), Permutation::new(1000, 7, 1));
        assert!((0..1000).filter(|&i| a.at(i) == b.at(i)).count() < 20);
    }

    #[test]
    fn noise_is_standard_normal() {
        let noise = Noise { seed: 1, stream: stream::LATENT };
        let values: Vec<f64> = (0..40_000).map(|e| noise.at(5, e)).collect();
        let moment = |power: i32| values.iter().map(|x| x.powi(power)).sum::<f64>() / values.len() as f64;
        for (power, expected) in [(1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)] {
            assert!((moment(power) - expected).abs() < 0.1, "moment {power}: {}", moment(power));
        }
        let neighbours = values.windows(2).map(|w| w[0] * w[1]).sum::<f64>() / values.len() as f64;
        assert!(neighbours.abs() < 0.02, "{neighbours}");
        assert_ne!(noise.at(5, 0), noise.at(6, 0));
    }

    #[test]
    fn dropout_rate_and_scale_agree() {
        let dropout = Dropout { probability: 0.2, seed: 1, stream: 3 };
        let kept = (0..100_000).filter(|&e| dropout.keeps(5, e)).count() as f32;
        assert!((kept * dropout.scale() / 100_000.0 - 1.0).abs() < 0.01);
        assert!((0..1000).any(|e| dropout.keeps(5, e) != dropout.keeps(6, e)));
    }
}
