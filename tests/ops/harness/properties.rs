//! Promises that hold for every operator: slots accumulate, samples do not see each other, threads do not change bits.

use super::SEED;
use super::case::Fill;
use super::compare::largest;
use super::run::{Op, Options, Outputs, execute};
use epi_engine::backend::Backend;

fn run<B: Backend>(b: &B, op: &impl Op, inputs: &[super::Input], slot_start: f64) -> Outputs {
    let options = Options { slot_start, ..Options::default() };
    execute(b, op, inputs, options).unwrap_or_else(|e| panic!("{op:?} on {}: {e}", b.name()))
}

/// Gradient slots take `+=`; everything else is `=`.
#[track_caller]
pub fn check_accumulation<B: Backend>(b: &B, op: &impl Op) {
    const START: f64 = 2.0;
    let inputs = op.inputs(Fill::Randn, SEED);
    let (zero, started) = (run(b, op, &inputs, 0.0), run(b, op, &inputs, START));
    for (name, zero) in &zero {
        let start = if zero.slot { START } else { 0.0 };
        let limit = if zero.slot { 1e-6 * (START + largest(&zero.values)) } else { 0.0 };
        for (n, (z, s)) in zero.values.iter().zip(&started[name].values).enumerate() {
            assert!(
                (s - z - start).abs() <= limit,
                "{op:?} on {}: {name}[{n}] = {s} from {start}, {z} from 0",
                b.name()
            );
        }
    }
}

/// The first sample's results: same bits beside other mates, and up to 1e-6 alone.
#[track_caller]
pub fn check_batch_mates<B: Backend>(b: &B, op: &impl Op) {
    let (inputs, mates) = (op.inputs(Fill::Randn, SEED), op.inputs(Fill::Randn, SEED + 1));
    let Some(batch) = inputs.iter().find(|input| input.per_sample).map(|input| input.shape[0]) else { return };
    let moved: Vec<_> = inputs
        .iter()
        .zip(&mates)
        .map(|(input, mate)| if input.per_sample { input.with_mates(mate) } else { input.clone() })
        .collect();
    let alone: Vec<_> =
        inputs.iter().map(|input| if input.per_sample { input.first_samples(1) } else { input.clone() }).collect();
    let (here, there, alone) = (run(b, op, &inputs, 0.0), run(b, op, &moved, 0.0), run(b, op, &alone, 0.0));
    let own = inputs.iter().filter(|input| input.per_sample).map(|input| format!("d{}", input.name));
    for name in own.chain(["out".to_string()]) {
        let Some(first) = here.get(&name) else { continue };
        let len = first.values.len() / batch;
        let limit = 1e-6 * largest(&first.values[..len]).max(1.0);
        for n in 0..len {
            let (x, y, z) = (first.values[n], there[&name].values[n], alone[&name].values[n]);
            assert_eq!(x.to_bits(), y.to_bits(), "{op:?} on {}: {name}[{n}] depends on batch mates", b.name());
            assert!((x - z).abs() <= limit, "{op:?} on {}: {name}[{n}] = {x}, alone {z}", b.name());
        }
    }
}

/// One, two and three threads: same bits everywhere.
#[track_caller]
pub fn check_threads<B: Backend>(b: &B, op: &impl Op) {
    let inputs = op.inputs(Fill::Randn, SEED);
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        pool.install(|| run(b, op, &inputs, 0.5))
    };
    let one = with(1);
    for threads in [2, 3] {
        for (name, other) in with(threads) {
            let same = one[&name].values.iter().zip(&other.values).all(|(x, y)| x.to_bits() == y.to_bits());
            assert!(same, "{op:?} on {}: {name} differs with {threads} threads", b.name());
        }
    }
}
