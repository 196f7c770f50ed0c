//! Initial values, as PyTorch and Keras choose them, from counter-based random numbers.

use crate::rng;

/// How a tensor starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Every element the same.
    Constant(f32),
    /// Uniform in ±`bound`.
    Uniform { bound: f32 },
    /// `[rows,columns]` with orthonormal columns (at most as many as rows), uniform among all such.
    Orthogonal { columns: usize },
    /// Ones at `from..to`, zeros elsewhere: an LSTM's bias that begins by keeping what it knows.
    Ones { from: usize, to: usize },
}

impl Init {
    /// PyTorch's default for the weight and the bias of convolutions and linear maps: uniform in ±1/√fan_in
    /// (`kaiming_uniform_` with a = √5).
    pub fn fan_in(fan_in: usize) -> Self {
        Init::Uniform { bound: 1.0 / (fan_in as f32).sqrt() }
    }
    /// Keras's default for weights: uniform in ±√(6 / (fan_in + fan_out)).
    pub fn glorot(fan_in: usize, fan_out: usize) -> Self {
        Init::Uniform { bound: (6.0 / (fan_in + fan_out) as f32).sqrt() }
    }
    /// The first `len` values of parameter number `index` of a model under `seed`.
    pub fn values(self, seed: u64, index: u32, len: usize) -> Vec<f32> {
        let mut stream = rng::Stream::new(seed, rng::stream::INIT.wrapping_add(index), 0);
        match self {
            Init::Constant(c) => vec![c; len],
            Init::Uniform { bound } => (0..len).map(|_| bound * (2.0 * stream.uniform() - 1.0)).collect(),
            Init::Orthogonal { columns } => orthogonal(&mut stream, len / columns, columns),
            Init::Ones { from, to } => (0..len).map(|i| if (from..to).contains(&i) { 1.0 } else { 0.0 }).collect(),
        }
    }
}

/// `[rows,columns]` with orthonormal columns: normal numbers, column by column made orthogonal to those before (twice, so
/// that rounding leaves nothing).
fn orthogonal(stream: &mut rng::Stream, rows: usize, columns: usize) -> Vec<f32> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(columns);
    for _ in 0..columns {
        let mut column: Vec<f64> = (0..rows).map(|_| stream.normal()).collect();
        for other in basis.iter().chain(&basis) {
            let along = dot(&column, other);
            column.iter_mut().zip(other).for_each(|(x, o)| *x -= along * o);
        }
        let length = dot(&column, &column).sqrt();
        column.iter_mut().for_each(|x| *x /= length);
        basis.push(column);
    }
    (0..rows).flat_map(|r| basis.iter().map(move |column| column[r] as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orthogonal_columns_are_orthonormal() {
        for (rows, columns) in [(8, 2), (20, 5), (5, 5), (200, 50)] {
            let w = Init::Orthogonal { columns }.values(3, 1, rows * columns);
            for i in 0..columns {
                for j in 0..columns {
                    let dot: f64 =
                        (0..rows).map(|r| f64::from(w[r * columns + i]) * f64::from(w[r * columns + j])).sum();
                    let expected = if i == j { 1.0 } else { 0.0 };
                    assert!((dot - expected).abs() < 1e-6, "{rows} x {columns}: columns {i} and {j}: {dot}");
                }
            }
        }
    }

    #[test]
    fn ones_and_glorot() {
        assert_eq!(Init::Ones { from: 1, to: 3 }.values(0, 0, 4), [0.0, 1.0, 1.0, 0.0]);
        assert_eq!(Init::glorot(2, 4), Init::Uniform { bound: 1.0 });
    }
}
