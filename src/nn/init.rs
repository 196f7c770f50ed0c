//! Initial values, as PyTorch chooses them, from counter-based random numbers.

use crate::rng;

/// How a tensor starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Every element the same.
    Constant(f32),
    /// Uniform in ±`bound`.
    Uniform { bound: f32 },
}

impl Init {
    /// PyTorch's default for the weight and the bias of convolutions and linear maps: uniform in ±1/√fan_in
    /// (`kaiming_uniform_` with a = √5).
    pub fn fan_in(fan_in: usize) -> Self {
        Init::Uniform { bound: 1.0 / (fan_in as f32).sqrt() }
    }
    /// The first `len` values of parameter number `index` of a model under `seed`.
    pub fn values(self, seed: u64, index: u32, len: usize) -> Vec<f32> {
        match self {
            Init::Constant(c) => vec![c; len],
            Init::Uniform { bound } => {
                let mut stream = rng::Stream::new(seed, rng::stream::INIT.wrapping_add(index), 0);
                (0..len).map(|_| bound * (2.0 * stream.uniform() - 1.0)).collect()
            }
        }
    }
}
