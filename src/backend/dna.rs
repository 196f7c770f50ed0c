//! A batch of DNA as bit planes: the only form in which sequences reach a backend.

/// `batch` sequences of `length` bases. Codes are A=0, C=1, G=2, T=3; anything else is N.
///
/// Per sequence three bit planes of `words` 64-bit words, bit `i % 64` of word `i / 64` for base `i`: the low and the
/// high bit of the code, and "known" (0 = N; then both code bits are 0). Bits past `length` are 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnaBatch {
    batch: usize,
    length: usize,
    words: usize,
    low: Vec<u64>,
    high: Vec<u64>,
    known: Vec<u64>,
}

impl DnaBatch {
    /// An all-N batch.
    pub fn new(batch: usize, length: usize) -> Self {
        let words = length.div_ceil(64);
        let plane = vec![0; batch * words];
        DnaBatch { batch, length, words, low: plane.clone(), high: plane.clone(), known: plane }
    }
    /// From codes `[B,L]` (values above 3 are N).
    pub fn from_codes(codes: &[u8], batch: usize, length: usize) -> Self {
        assert_eq!(codes.len(), batch * length, "codes do not fill {batch} x {length}");
        let mut out = Self::new(batch, length);
        for b in 0..batch {
            out.write(b, codes[b * length..(b + 1) * length].iter().copied());
        }
        out
    }
    /// Overwrites sequence `b` with codes.
    pub fn write(&mut self, b: usize, codes: impl Iterator<Item = u8>) {
        let row = b * self.words..(b + 1) * self.words;
        let (low, high, known) = (&mut self.low[row.clone()], &mut self.high[row.clone()], &mut self.known[row]);
        low.fill(0);
        high.fill(0);
        known.fill(0);
        for (i, code) in codes.take(self.length).enumerate() {
            if code < 4 {
                let (word, bit) = (i / 64, i % 64);
                low[word] |= u64::from(code & 1) << bit;
                high[word] |= u64::from(code >> 1) << bit;
                known[word] |= 1 << bit;
            }
        }
    }
    /// Number of sequences.
    pub fn batch(&self) -> usize {
        self.batch
    }
    /// Bases per sequence.
    pub fn length(&self) -> usize {
        self.length
    }
    /// 64-bit words per plane and sequence.
    pub fn words(&self) -> usize {
        self.words
    }
    /// Planes of sequence `b`: (low, high, known).
    pub fn planes(&self, b: usize) -> (&[u64], &[u64], &[u64]) {
        let row = b * self.words..(b + 1) * self.words;
        (&self.low[row.clone()], &self.high[row.clone()], &self.known[row])
    }
    /// Planes of sequence `b` to be overwritten: (low, high, known). The caller keeps the invariants of the type.
    pub fn planes_mut(&mut self, b: usize) -> (&mut [u64], &mut [u64], &mut [u64]) {
        let row = b * self.words..(b + 1) * self.words;
        (&mut self.low[row.clone()], &mut self.high[row.clone()], &mut self.known[row])
    }
    /// Code of base `i` of sequence `b`; 4 = N.
    pub fn code(&self, b: usize, i: usize) -> u8 {
        let (low, high, known) = self.planes(b);
        let (word, bit) = (i / 64, i % 64);
        if known[word] >> bit & 1 == 0 { 4 } else { (low[word] >> bit & 1 | (high[word] >> bit & 1) << 1) as u8 }
    }
    /// Unpacks sequence `b` into codes 0..=4.
    pub fn codes(&self, b: usize) -> Vec<u8> {
        (0..self.length).map(|i| self.code(b, i)).collect()
    }
    /// Whether sequence `b` has no N.
    pub fn is_known(&self, b: usize) -> bool {
        self.planes(b).2.iter().map(|w| w.count_ones() as usize).sum::<usize>() == self.length
    }
}
