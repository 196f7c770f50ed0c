//! How well an autoencoder gives back the sequences of a part.

use serde_json::{Value, json};

/// Sums over the windows of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rebuilt {
    /// Squared errors, and how many values they are of (four a base).
    pub squares: f64,
    pub values: f64,
    /// Bases whose largest channel is the right one, and bases that are not N.
    pub right: f64,
    pub known: f64,
}

impl Rebuilt {
    /// Adds what [`crate::backend::Backend::reconstruction`] found for `values` values.
    pub fn add(&mut self, [squares, right, known]: [f64; 3], values: usize) {
        let all = Rebuilt { squares, values: values as f64, right, known };
        *self = self.joined(&all);
    }
    /// Mean squared error; `None` without windows.
    pub fn mse(&self) -> Option<f64> {
        (self.values > 0.0).then(|| self.squares / self.values)
    }
    /// Share of the known bases that are given back; `None` without any.
    pub fn base_accuracy(&self) -> Option<f64> {
        (self.known > 0.0).then(|| self.right / self.known)
    }
    fn joined(&self, other: &Rebuilt) -> Rebuilt {
        Rebuilt {
            squares: self.squares + other.squares,
            values: self.values + other.values,
            right: self.right + other.right,
            known: self.known + other.known,
        }
    }
}

/// Both kinds of windows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reconstruction {
    pub enhancer: Rebuilt,
    pub promoter: Rebuilt,
}

impl Reconstruction {
    /// Two parts together.
    pub fn joined(self, other: Reconstruction) -> Reconstruction {
        Reconstruction {
            enhancer: self.enhancer.joined(&other.enhancer),
            promoter: self.promoter.joined(&other.promoter),
        }
    }
    /// Mean squared error over every channel of every base.
    pub fn mse(&self) -> Option<f64> {
        self.enhancer.joined(&self.promoter).mse()
    }
    /// `bases right 61.2 % enhancer, 60.1 % promoter, MSE 0.1432`
    pub fn brief(&self) -> String {
        let percent = |of: &Rebuilt| of.base_accuracy().map_or("-".to_string(), |a| format!("{:.1} %", 100.0 * a));
        let mse = self.mse().map_or("-".to_string(), |mse| format!("{mse:.4}"));
        format!("bases right {} enhancer, {} promoter, MSE {mse}", percent(&self.enhancer), percent(&self.promoter))
    }
    /// As `metrics.json` holds it.
    pub fn to_json(&self) -> Value {
        let one = |of: &Rebuilt| json!({ "base_accuracy": of.base_accuracy(), "mse": of.mse() });
        json!({ "mse": self.mse(), "enhancer": one(&self.enhancer), "promoter": one(&self.promoter) })
    }
}
