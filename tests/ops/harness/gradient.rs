//! Backward passes against central differences, in f64 on the oracle.

use super::SEED;
use super::case::{Fill, Input};
use super::compare::{coordinates, largest};
use super::run::{Op, Options, Outputs, cotangent, execute};
use epi_engine::backend::reference::Reference;
use epi_engine::rng::Stream;

/// Step of the differences: small enough to stay on one side of a kink.
const STEP: f64 = 1e-6;
/// Allowed deviation, relative to the largest element of the gradient and of all gradients of the case.
const OWN: f64 = 1e-6;
const SHARED: f64 = 1e-8;
/// Elements looked at in each input.
const SAMPLES: usize = 24;

/// `Σ cotangent · out`.
fn objective(op: &impl Op, inputs: &[Input]) -> f64 {
    let options = Options { backward: false, ..Options::default() };
    let outputs = execute(&Reference::<f64>::new(), op, inputs, options).expect("a valid case");
    let out = &outputs["out"].values;
    out.iter().zip(cotangent(out.len())).map(|(y, dy)| y * dy).sum()
}

/// Elements to look at: the largest, the first, the last, and random ones.
fn sample(gradient: &[f64]) -> Vec<usize> {
    if gradient.len() <= SAMPLES {
        return (0..gradient.len()).collect();
    }
    let top = largest(gradient);
    let mut rng = Stream::new(SEED, 0x5A3E, 0);
    let mut list = vec![0, gradient.len() - 1];
    list.extend(gradient.iter().position(|g| g.abs() == top));
    list.extend((3..SAMPLES).map(|_| rng.below(gradient.len() as u32) as usize));
    list
}

/// Holds every `d<input>` of `outputs` against differences of the objective.
pub fn verify_gradient(op: &impl Op, inputs: &[Input], outputs: &Outputs) -> Result<(), String> {
    let gradients = || inputs.iter().filter_map(|input| Some((input, outputs.get(&format!("d{}", input.name))?)));
    let shared = gradients().map(|(_, gradient)| largest(&gradient.values)).fold(0.0, f64::max);
    let mut inputs_moved = inputs.to_vec();
    for (input, gradient) in gradients() {
        let limit = OWN * largest(&gradient.values) + SHARED * shared.max(1.0);
        let at = inputs.iter().position(|i| i.name == input.name).expect("one of the inputs");
        for n in sample(&gradient.values) {
            let [above, below] = [STEP, -STEP].map(|step| {
                inputs_moved[at].float_mut()[n] = input.float()[n] + step;
                objective(op, &inputs_moved)
            });
            inputs_moved[at].float_mut()[n] = input.float()[n];
            let numeric = (above - below) / (2.0 * STEP);
            let error = (gradient.values[n] - numeric).abs();
            if error.is_nan() || error > limit {
                return Err(format!(
                    "d{}{:?} = {:e}, differences give {numeric:e}: off by {error:.2e}, limit {limit:.2e}",
                    input.name,
                    coordinates(n, &input.shape),
                    gradient.values[n],
                ));
            }
        }
    }
    Ok(())
}

fn analytic(op: &impl Op, inputs: &[Input]) -> Outputs {
    execute(&Reference::<f64>::new(), op, inputs, Options::default()).unwrap_or_else(|e| panic!("{op:?}: {e}"))
}

/// Asserts that the oracle's backward pass is the derivative of its forward pass.
#[track_caller]
pub fn check_gradient(op: &impl Op) {
    for fill in [Fill::Randn, Fill::Arange] {
        let inputs = op.inputs(fill, SEED);
        if let Err(message) = verify_gradient(op, &inputs, &analytic(op, &inputs)) {
            panic!("{op:?}, {fill:?}: {message}");
        }
    }
}

/// Asserts that the check notices one element off by a percent, a factor of 1.001 and a missing gradient. Returns how
/// many errors were planted.
#[track_caller]
pub fn check_planted_errors(op: &impl Op) -> usize {
    let mut planted = 0;
    let inputs = op.inputs(Fill::Randn, SEED);
    let right = analytic(op, &inputs);
    let shared =
        right.iter().filter(|(name, _)| name.starts_with('d')).map(|(_, g)| largest(&g.values)).fold(0.0, f64::max);
    for name in right.keys().filter(|name| name.starts_with('d')) {
        let top = largest(&right[name].values);
        if top <= 1e-3 * shared {
            continue; // Zero by symmetry: there is nothing to spoil.
        }
        let one_element = |values: &mut Vec<f64>| {
            let n = values.iter().position(|g| g.abs() == top).expect("a largest element");
            values[n] *= 1.01;
        };
        let factor = |values: &mut Vec<f64>| values.iter_mut().for_each(|g| *g *= 1.001);
        let missing = |values: &mut Vec<f64>| values.fill(0.0);
        for plant in [&one_element as &dyn Fn(&mut Vec<f64>), &factor, &missing] {
            let mut wrong = right.clone();
            plant(&mut wrong.get_mut(name).expect("a gradient").values);
            assert!(verify_gradient(op, &inputs, &wrong).is_err(), "{op:?}: a wrong {name} went unnoticed");
            planted += 1;
        }
    }
    planted
}
