//! Limits of the fixtures: what a backend may differ from PyTorch's f64 by. All failures of a file are reported at once.

use super::fixture::{Array, Fixture};
use crate::harness::compare::{coordinates, largest};
use epi_engine::backend::{Backend, DType, Tensor};

/// Relative limits of one comparison.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Outputs, activations and losses: largest difference over largest value.
    pub output: f64,
    /// Gradients: distance of a tensor over its length …
    pub gradient: f64,
    /// … or, for tensors that nearly cancel, largest difference over the file's largest gradient.
    pub cancelling: f64,
}

/// Collects the differences of one file on one backend.
pub struct Judge<'a, B: Backend> {
    b: &'a B,
    file: String,
    pub limits: Limits,
    largest_gradient: f64,
    compared: usize,
    /// Worst comparison so far: share of its limit, and which.
    worst: (f64, String),
    failures: Vec<String>,
}

impl<'a, B: Backend> Judge<'a, B> {
    pub fn new(b: &'a B, fixture: &Fixture, full_size: bool) -> Self {
        let limits = match (b.dtype(), full_size) {
            // The fixtures themselves are rounded to f32.
            (DType::F64, _) => Limits { output: 1e-6, gradient: 1e-6, cancelling: 1e-7 },
            (_, false) => Limits { output: 1e-5, gradient: 1e-4, cancelling: 1e-6 },
            (_, true) => Limits { output: 5e-5, gradient: 1e-3, cancelling: 1e-6 },
        };
        let (file, worst) = (fixture.name.clone(), (0.0, "none".into()));
        Judge { b, file, limits, largest_gradient: 0.0, compared: 0, worst, failures: Vec::new() }
    }
    /// Sets the scale for gradients that nearly cancel.
    pub fn gradients_up_to(&mut self, largest: f64) {
        self.largest_gradient = largest;
    }
    pub fn fail(&mut self, message: String) {
        self.failures.push(message);
    }
    /// Fetches a tensor for comparison.
    pub fn fetch(&self, tensor: &Tensor<B>) -> Array {
        Array { shape: tensor.shape().to_vec(), values: self.b.to_f64(tensor).expect("a readable tensor") }
    }
    /// Compares an output, activation, loss or statistic.
    pub fn output(&mut self, what: &str, got: &Tensor<B>, expected: &Array) {
        let got = self.fetch(got);
        self.close(what, &got, expected, self.limits.output);
    }
    /// Compares with a limit relative to the largest expected value.
    pub fn close(&mut self, what: &str, got: &Array, expected: &Array, limit: f64) {
        let Some((error, n)) = self.difference(what, got, expected) else { return };
        let used = error / (limit * largest(&expected.values).max(1e-30));
        self.used(what, used);
        if used > 1.0 {
            let at = coordinates(n, &expected.shape);
            let (got, expected) = (got.values[n], expected.values[n]);
            self.fail(format!("{what}{at:?} = {got:e}, expected {expected:e}, limit {limit:.0e} of the largest"));
        }
    }
    /// Compares a gradient.
    pub fn gradient(&mut self, what: &str, got: &Tensor<B>, expected: &Array) {
        let got = self.fetch(got);
        let Some((error, n)) = self.difference(what, &got, expected) else { return };
        let length = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let distance = length(&mut got.values.iter().zip(&expected.values).map(|(g, e)| g - e));
        let relative = distance / length(&mut expected.values.iter().copied()).max(1e-300);
        let cancelling = self.limits.cancelling * self.largest_gradient;
        let used = (relative / self.limits.gradient).min(if error == 0.0 { 0.0 } else { error / cancelling });
        self.used(what, used);
        if used > 1.0 {
            let at = coordinates(n, &expected.shape);
            let (got, expected) = (got.values[n], expected.values[n]);
            self.fail(format!("{what}: relative distance {relative:.1e}; at {at:?} {got:e}, expected {expected:e}"));
        }
    }
    fn used(&mut self, what: &str, share: f64) {
        if share > self.worst.0 {
            self.worst = (share, what.into());
        }
    }
    /// Largest difference and where; nothing if the shapes differ or a value is not finite, which is a failure.
    fn difference(&mut self, what: &str, got: &Array, expected: &Array) -> Option<(f64, usize)> {
        self.compared += 1;
        if got.values.len() != expected.values.len() {
            self.fail(format!("{what} has shape {:?}, expected {:?}", got.shape, expected.shape));
            return None;
        }
        if let Some(n) = got.values.iter().position(|v| !v.is_finite()) {
            self.fail(format!("{what}{:?} = {}", coordinates(n, &got.shape), got.values[n]));
            return None;
        }
        let differences = got.values.iter().zip(&expected.values).map(|(g, e)| (g - e).abs());
        differences.enumerate().map(|(n, d)| (d, n)).reduce(|best, next| if next.0 > best.0 { next } else { best })
    }
    /// Panics with everything that was wrong.
    #[track_caller]
    pub fn verdict(self) {
        let (file, name) = (&self.file, self.b.name());
        let (share, what) = &self.worst;
        println!("{file} on {name}: {} tensors, worst {what} at {:.1} % of its limit", self.compared, 100.0 * share);
        assert!(self.compared > 0, "{file} on {name}: nothing was compared");
        assert!(self.failures.is_empty(), "{file} on {name}:\n  {}", self.failures.join("\n  "));
    }
}
