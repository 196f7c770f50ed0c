//! numpy's legacy `RandomState`: MT19937 and the masked rejection of `choice`, bit for bit.
//!
//! Source: Matsumoto and Nishimura, "Mersenne Twister" (1998); numpy/random/src/{mt19937,distributions}.

const N: usize = 624;
const M: usize = 397;

/// `numpy.random.RandomState(seed)`, as far as EPSAT's program uses it.
pub struct LegacyRandom {
    state: [u32; N],
    next: usize,
}

impl LegacyRandom {
    /// Seeds as `RandomState(seed)` does with an integer below 2³².
    pub fn new(seed: u32) -> Self {
        let mut state = [seed; N];
        for i in 1..N {
            let previous = state[i - 1];
            state[i] = (previous ^ previous >> 30).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        LegacyRandom { state, next: N }
    }
    /// The next tempered word.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == N {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= y << 7 & 0x9D2C_5680;
        y ^= y << 15 & 0xEFC6_0000;
        y ^ y >> 18
    }
    /// `choice(n, size)`: with replacement, from `0..n`; words are masked and rejected above `n - 1`.
    pub fn choice(&mut self, n: u32, size: usize) -> Vec<u32> {
        let Some(largest) = n.checked_sub(1) else { return Vec::new() };
        let mask = u32::MAX.checked_shr(largest.leading_zeros()).unwrap_or(0);
        let mut draw = || loop {
            let value = self.next_u32() & mask;
            if value <= largest {
                return value;
            }
        };
        // A choice among one draws nothing.
        (0..size).map(|_| if largest == 0 { 0 } else { draw() }).collect()
    }

    fn twist(&mut self) {
        for i in 0..N {
            let y = self.state[i] & 0x8000_0000 | self.state[(i + 1) % N] & 0x7FFF_FFFF;
            let odd = if y & 1 == 1 { 0x9908_B0DF } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ y >> 1 ^ odd;
        }
        self.next = 0;
    }
}
