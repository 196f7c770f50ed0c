//! Windows as floats: equal to the DNA path at exact one-hot input, and differentiable with respect to the input.

use epi_engine::Result;
use epi_engine::autograd::{Tape, Var};
use epi_engine::backend::reference::Reference;
use epi_engine::backend::{Backend, DnaBatch};
use epi_engine::config::{EplaeConfig, EpsatConfig, ModelConfig, SpeidConfig};
use epi_engine::models::{DeviceBatch, Model, Network};
use epi_engine::nn::Parameters;
use epi_engine::rng::Stream;

const BATCH: usize = 3;
const LENGTHS: [usize; 2] = [61, 47];

fn configs() -> [ModelConfig; 3] {
    let epsat = EpsatConfig {
        kernels: 6,
        kernel_size: 5,
        pool: 4,
        hidden: 3,
        layers: 2,
        heads: 2,
        head_size: 3,
        readout: 5,
        ..EpsatConfig::default()
    };
    let speid = SpeidConfig { kernels: 6, kernel_size: 5, pool: 4, hidden: 3, dense: 5, ..SpeidConfig::default() };
    let eplae = EplaeConfig { filters: 5, kernel_size: 5, units: 7, latent: 4, ..EplaeConfig::default() };
    [ModelConfig::Epsat(epsat), ModelConfig::Speid(speid), ModelConfig::Eplae(eplae)]
}

/// A network whose batch norm and convolution are far from their initial values.
fn tiny<B: Backend>(b: &B, config: &ModelConfig) -> (Network, Parameters<B>) {
    let network = Network::new(config);
    let parameters = Parameters::new(b, network.specs(LENGTHS[0], LENGTHS[1]), 11).unwrap();
    let mut random = Stream::new(5, 1, 0);
    for spec in parameters.specs().to_vec() {
        if ["conv", "bn_"].iter().any(|part| spec.name.contains(part)) {
            let near = if spec.name.ends_with("var") { 1.0 } else { 0.1 };
            let values: Vec<f32> = (0..spec.len()).map(|_| near + random.uniform()).collect();
            parameters.set(&spec.name, &values).unwrap();
        }
    }
    (network, parameters)
}

/// Codes with an N here and there, of both sides.
fn codes() -> [Vec<u8>; 2] {
    let mut random = Stream::new(9, 1, 0);
    LENGTHS.map(|length| (0..BATCH * length).map(|_| (random.below(21) / 5) as u8).collect())
}

fn one_hot(codes: &[u8]) -> Vec<f64> {
    codes.iter().flat_map(|&code| (0..4).map(move |a| f64::from(u8::from(a == code)))).collect()
}

/// Logits of soft windows, and the gradients of `Σ seed · logits` with respect to both.
fn soft<B: Backend>(
    b: &B,
    network: &Network,
    parameters: &Parameters<B>,
    windows: &[Vec<f64>; 2],
    seed: &[f64],
) -> Result<(Vec<f64>, [Vec<f64>; 2])> {
    let mut tape = Tape::evaluation_with_gradients(b, &b.new_step()?);
    let mut leaf =
        |side: usize| -> Result<Var<B>> { Ok(tape.leaf(b.from_f64(&windows[side], &[BATCH, LENGTHS[side], 4])?)) };
    let leaves = [leaf(0)?, leaf(1)?];
    let batch = DeviceBatch::soft(b, leaves.clone())?;
    let output = network.forward(&mut tape, &parameters.constants(), &batch)?;
    let logits = b.to_f64(output.logits.value())?;
    let gradients = tape.backward(&output.logits, b.from_f64(&seed[..logits.len()], output.logits.shape())?)?;
    let of = |side: usize| b.to_f64(gradients.of(&leaves[side]).expect("the output depends on the windows"));
    Ok((logits, [of(0)?, of(1)?]))
}

const SEED: [f64; 6] = [-1.0, 1.0, 0.3, 0.7, -0.2, 0.4];

#[test]
fn exact_one_hot_input_gives_what_dna_gives() {
    let [enhancer, promoter] = codes();
    let windows = [one_hot(&enhancer), one_hot(&promoter)];
    for config in configs() {
        let oracle = Reference::<f64>::new();
        let (network, parameters) = tiny(&oracle, &config);
        let (expected, expected_gradients) = soft(&oracle, &network, &parameters, &windows, &SEED).unwrap();
        for_each_backend!(|b| {
            let (network, parameters) = tiny(&b, &config);
            let dna = |codes: &[u8], side: usize| DnaBatch::from_codes(codes, BATCH, LENGTHS[side]);
            let (e, p) = (dna(&enhancer, 0), dna(&promoter, 1));
            let batch = DeviceBatch::upload(&b, &e, &p, &[0.0; BATCH], &[1.0; BATCH]).unwrap();
            let mut tape = Tape::evaluation(&b, &b.new_step().unwrap());
            let hard = network.forward(&mut tape, &parameters.constants(), &batch).unwrap();
            let hard = b.to_f64(hard.logits.value()).unwrap();
            let (got, gradients) = soft(&b, &network, &parameters, &windows, &SEED).unwrap();
            for ((hard, soft), expected) in hard.iter().zip(&got).zip(&expected) {
                let limit = 1e-5 * expected.abs().max(1.0);
                let close = (hard - soft).abs() < limit && (soft - expected).abs() < limit;
                assert!(close, "{}: {hard} {soft}, expected {expected}", b.name());
            }
            let largest = expected_gradients.iter().flatten().fold(1.0f64, |m, g| m.max(g.abs()));
            for (got, expected) in gradients.iter().flatten().zip(expected_gradients.iter().flatten()) {
                assert!((got - expected).abs() < 1e-5 * largest, "{}: gradient {got}, expected {expected}", b.name());
            }
        });
    }
}

#[test]
fn gradients_of_the_whole_network_with_respect_to_its_input_are_those_of_differences() {
    let b = Reference::<f64>::new();
    for config in configs() {
        let (network, parameters) = tiny(&b, &config);
        let mut random = Stream::new(2, 1, 0);
        let mut windows = LENGTHS.map(|l| (0..BATCH * l * 4).map(|_| random.uniform_f64()).collect::<Vec<f64>>());
        let (_, gradients) = soft(&b, &network, &parameters, &windows, &SEED).unwrap();
        let largest = gradients.iter().flatten().fold(0.0f64, |m, g| m.max(g.abs()));
        assert!(largest > 1e-3, "a network that reads nothing: {largest}");
        const STEP: f64 = 1e-6;
        for side in 0..2 {
            for n in (0..windows[side].len()).step_by(37) {
                let start = windows[side][n];
                let mut objective = |x: f64| {
                    windows[side][n] = x;
                    let (logits, _) = soft(&b, &network, &parameters, &windows, &SEED).unwrap();
                    logits.iter().zip(SEED).map(|(y, s)| y * s).sum::<f64>()
                };
                let numeric = (objective(start + STEP) - objective(start - STEP)) / (2.0 * STEP);
                windows[side][n] = start;
                let got = gradients[side][n];
                assert!((got - numeric).abs() < 1e-6 * largest.max(1.0), "side {side}, element {n}: {got}, {numeric}");
            }
        }
    }
}

#[test]
fn soft_windows_in_training_mode_are_refused() {
    let b = Reference::<f32>::new();
    let (network, parameters) = tiny(&b, &configs()[0]);
    let mut tape = Tape::training(&b, &b.new_step().unwrap(), 1);
    let windows = LENGTHS.map(|l| Var::constant(b.zeros(&[BATCH, l, 4]).unwrap()));
    let batch = DeviceBatch::soft(&b, windows).unwrap();
    let error = network.forward(&mut tape, &parameters.constants(), &batch).err().expect("refused").to_string();
    assert!(error.contains("evaluation mode"), "{error}");
}
