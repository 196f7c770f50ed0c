//! A backend against the f64 oracle, with a tolerance that calibrates itself on the naive f32 oracle.

use super::SEED;
use super::case::Fill;
use super::run::{Op, Options, Outputs, execute};
use epi_engine::backend::Backend;
use epi_engine::backend::reference::Reference;

/// Largest allowed error in units of the naive f32 error.
const FACTOR: f64 = 3.0;
/// Allowed besides: a few roundings of the tensor's largest element …
const OWN: f64 = 16.0 * f32::EPSILON as f64;
/// … and one of the largest gradient of the case, for gradients that cancel to nearly nothing.
const SHARED: f64 = 2.0 * f32::EPSILON as f64;

pub fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |top, v| v.abs().max(top))
}

/// Largest deviation and where it is.
fn worst(values: &[f64], truth: &[f64]) -> (f64, usize) {
    values
        .iter()
        .zip(truth)
        .map(|(v, t)| (v - t).abs())
        .enumerate()
        .fold((0.0, 0), |best, (n, error)| if error > best.0 { (error, n) } else { best })
}

/// Row-major index `n` as coordinates of `shape`.
pub fn coordinates(mut n: usize, shape: &[usize]) -> Vec<usize> {
    let mut at: Vec<_> = shape.iter().rev().map(|&size| (n % size, n /= size).0).collect();
    at.reverse();
    at
}

/// The verdict on `fast`: its worst element in units of the limit, or an error with the tensor, the element and the limit.
pub fn compare(truth: &Outputs, naive: &Outputs, fast: &Outputs) -> Result<String, String> {
    if !truth.keys().eq(fast.keys()) {
        return Err(format!("results are {:?}, not {:?}", fast.keys(), truth.keys()));
    }
    let is_gradient = |name: &str| name.starts_with('d');
    let shared =
        truth.iter().filter(|(name, _)| is_gradient(name)).map(|(_, t)| largest(&t.values)).fold(0.0, f64::max);
    let mut report = (0.0, "exact".to_string());
    for (name, truth) in truth {
        let (naive, fast) = (&naive[name], &fast[name]);
        if fast.shape != truth.shape {
            return Err(format!("{name} has shape {:?}, not {:?}", fast.shape, truth.shape));
        }
        if let Some(n) = fast.values.iter().position(|v| !v.is_finite()) {
            return Err(format!("{name}{:?} = {}", coordinates(n, &fast.shape), fast.values[n]));
        }
        let (error, n) = worst(&fast.values, &truth.values);
        let (naive_error, _) = worst(&naive.values, &truth.values);
        let tiny = OWN * largest(&truth.values) + if is_gradient(name) { SHARED * shared } else { 0.0 };
        let limit = FACTOR * naive_error + tiny;
        if error > limit {
            return Err(format!(
                "{name}{:?} = {:e}, oracle {:e}: error {error:.2e} exceeds {limit:.2e} (naive f32 {naive_error:.2e})",
                coordinates(n, &fast.shape),
                fast.values[n],
                truth.values[n],
            ));
        }
        if error / limit > report.0 {
            let used = error / limit;
            report = (used, format!("{name}{:?} uses {:.0} % of its limit", coordinates(n, &fast.shape), 100.0 * used));
        }
    }
    Ok(report.1)
}

/// Asserts that `b` agrees with the oracle on this case.
#[track_caller]
pub fn check_against_reference<B: Backend>(b: &B, op: &impl Op, fill: Fill) {
    check_with(b, op, fill, Options::default());
}

/// The same with options.
#[track_caller]
pub fn check_with<B: Backend>(b: &B, op: &impl Op, fill: Fill, options: Options) {
    let inputs = op.inputs(fill, SEED);
    let oracle = |what, result: epi_engine::Result<Outputs>| result.unwrap_or_else(|e| panic!("{op:?} on {what}: {e}"));
    let truth = oracle("f64", execute(&Reference::<f64>::new(), op, &inputs, options));
    let naive = oracle("f32", execute(&Reference::<f32>::new(), op, &inputs, options));
    let fast = oracle("backend", execute(b, op, &inputs, options));
    match compare(&truth, &naive, &fast) {
        Ok(worst) => println!("{op:?}, {fill:?}, on {}: {worst}", b.name()),
        Err(message) => panic!("{op:?}, {fill:?}, on {}: {message}", b.name()),
    }
}

/// Asserts that `b`, which rounds what products multiply, is within `tolerance` of the largest element of each tensor.
#[track_caller]
pub fn check_roughly<B: Backend>(b: &B, op: &impl Op, tolerance: f64, options: Options) {
    let inputs = op.inputs(Fill::Randn, SEED);
    let truth = execute(&Reference::<f64>::new(), op, &inputs, options).unwrap();
    let got = execute(b, op, &inputs, options).unwrap();
    for (name, truth) in &truth {
        let top = largest(&truth.values);
        for (n, (x, y)) in got[name].values.iter().zip(&truth.values).enumerate() {
            let error = (x - y).abs();
            assert!(error <= tolerance * top, "{op:?} on {}: {name}[{n}] = {x}, oracle {y}", b.name());
        }
    }
}

#[test]
fn a_wrong_backend_is_caught() {
    use super::run::Output;
    let outputs = |values: &[f64]| {
        Outputs::from([("out".to_string(), Output { values: values.to_vec(), shape: vec![values.len()], slot: false })])
    };
    let (truth, naive) = (outputs(&[1.0, -2.0, 0.5]), outputs(&[1.0, -2.0 + 1e-6, 0.5]));
    let close = compare(&truth, &naive, &outputs(&[1.0, -2.0, 0.5 + 5e-6])).expect("within the limit");
    assert!(close.starts_with("out[2]"), "{close}");
    for (wrong, place) in [
        (outputs(&[1.0, -2.0, 0.5 + 1e-5]), "out[2]"),
        (outputs(&[f64::NAN, -2.0, 0.5]), "out[0] = NaN"),
        (outputs(&[1.0, -2.0]), "shape"),
        (Outputs::new(), "results"),
    ] {
        let message = compare(&truth, &naive, &wrong).expect_err("a wrong result");
        assert!(message.contains(place), "{message}");
    }
}
