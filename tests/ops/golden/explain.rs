//! Attributions and mutagenesis held against PyTorch, on every backend.

use super::Fixture;
use epi_engine::backend::Backend;
use epi_engine::config::{EplaeConfig, EpsatConfig, ModelConfig};
use epi_engine::explain::attribution::{Baseline, Method, Options, attribute};
use epi_engine::explain::latent;
use epi_engine::explain::mutate::Plan;
use epi_engine::explain::{Reuse, Scorer, Windows};
use epi_engine::models::{Model, Network};
use epi_engine::nn::Parameters;

const SIDES: [&str; 2] = ["enhancer", "promoter"];

fn fixture(model: &str) -> Option<Fixture> {
    let name = &format!("explain/{model}_tiny");
    let found = super::fixture::folder().join(format!("{name}.safetensors")).is_file();
    if !found {
        assert!(std::env::var_os("EPI_ORACLE").is_some(), "tests/golden has lost {name}");
        crate::harness::note(format!("golden: {} has no {name}", super::fixture::folder().display()));
    }
    found.then(|| Fixture::open(name))
}

fn network<B: Backend>(b: &B, fixture: &Fixture) -> (Network, Parameters<B>) {
    let size = |key: &str| fixture.meta("sizes")[key].as_u64().expect("a size") as usize;
    let network = Network::new(&ModelConfig::Epsat(EpsatConfig {
        kernels: size("kernels"),
        kernel_size: size("kernel_size"),
        pool: size("pool"),
        hidden: size("hidden"),
        layers: size("layers"),
        heads: size("heads"),
        head_size: size("head_size"),
        readout: size("readout"),
        ..EpsatConfig::default()
    }));
    let parameters = Parameters::new(b, network.specs(37, 29), 0).unwrap();
    for spec in network.specs(37, 29) {
        parameters.set(&spec.name, &fixture.get(&format!("w.{}", spec.name)).f32()).unwrap();
    }
    (network, parameters)
}

fn windows(fixture: &Fixture) -> Windows {
    Windows { codes: SIDES.map(|s| fixture.get(&format!("in.{s}")).codes()), beyond: Default::default() }
}

/// Largest deviation allowed: tight in f64, that of a few layers of rounding in f32.
fn limit<B: Backend>(b: &B) -> f64 {
    if b.dtype() == epi_engine::backend::DType::F64 { 1e-9 } else { 2e-5 }
}

#[test]
fn golden_attributions() {
    let Some(fixture) = fixture("epsat") else { return };
    let steps = fixture.meta("steps").as_u64().expect("a number") as usize;
    super::for_each_golden_backend!(|b| {
        let (network, parameters) = network(&b, &fixture);
        let scorer = Scorer::new(&b, &network, &parameters, 7).unwrap();
        for (prefix, method, baseline) in [
            ("gradient_input", Method::GradientInput, Baseline::Zeros),
            ("integrated_zeros", Method::Integrated, Baseline::Zeros),
            ("integrated_uniform", Method::Integrated, Baseline::Uniform),
        ] {
            let options = Options { method, baseline, steps, shuffles: 1, seed: 0 };
            let found = attribute(&scorer, &windows(&fixture), &options, &mut |_| {}).unwrap();
            assert!((found.log_odds - fixture.get("log_odds").values[0]).abs() < limit(&b), "{}", b.name());
            if let (Some(at), Some((_, name))) = (found.baseline, prefix.split_once('_')) {
                assert!((at - fixture.get(&format!("baseline.{name}")).values[0]).abs() < limit(&b), "{}", b.name());
            }
            for (side, name) in SIDES.iter().enumerate() {
                let expected = &fixture.get(&format!("{prefix}.{name}")).values;
                for (i, (got, expected)) in found.values[side].iter().zip(expected).enumerate() {
                    let off = (got - expected).abs();
                    assert!(off < limit(&b), "{}: {prefix} {name}[{i}] {got}, expected {expected}", b.name());
                }
            }
        }
    });
}

#[test]
fn golden_mutagenesis_exact_and_with_reuse() {
    let Some(fixture) = fixture("epsat") else { return };
    let plan = Plan { bases: true, windows: None, deletions: vec![], sides: vec![0, 1], seed: 0 };
    super::for_each_golden_backend!(|b| {
        let (network, parameters) = network(&b, &fixture);
        let scorer = Scorer::new(&b, &network, &parameters, 10).unwrap();
        let base = scorer.base(windows(&fixture)).unwrap();
        let edits = plan.edits(&base.windows);
        assert_eq!(edits.len(), 3 * (37 + 29 - 1), "an N has no other bases");
        // A margin that covers all positions is exact too.
        for reuse in [Reuse::Exact, Reuse::Margin(100)] {
            let scores = scorer.edited(&base, &edits, reuse).unwrap();
            for (edit, score) in edits.iter().zip(scores) {
                let expected = &fixture.get(&format!("change.{}", SIDES[edit.side])).values;
                let expected = expected[4 * edit.start + usize::from(edit.inserted[0])];
                let got = f64::from(score.log_odds - base.score.log_odds);
                assert!((got - expected).abs() < 2e-5, "{} {reuse:?}: {edit:?} {got}, expected {expected}", b.name());
            }
        }
    });
}

#[test]
fn golden_latent_space() {
    let Some(fixture) = fixture("eplae") else { return };
    let size = |key: &str| fixture.meta("sizes")[key].as_u64().expect("a size") as usize;
    let spread = fixture.meta("spread").as_f64().expect("a number");
    super::for_each_golden_backend!(|b| {
        let network = Network::new(&ModelConfig::Eplae(EplaeConfig {
            filters: size("filters"),
            kernel_size: size("kernel_size"),
            units: size("units"),
            latent: size("latent"),
            ..EplaeConfig::default()
        }));
        let parameters = Parameters::new(&b, network.specs(37, 29), 0).unwrap();
        for spec in network.specs(37, 29) {
            parameters.set(&spec.name, &fixture.get(&format!("w.{}", spec.name)).f32()).unwrap();
        }
        let scorer = Scorer::new(&b, &network, &parameters, 8).unwrap();
        let windows = windows(&fixture);
        let close = |what: &str, got: &[f64], key: &str| {
            for (i, (got, expected)) in got.iter().zip(&fixture.get(key).values).enumerate() {
                assert!((got - expected).abs() < limit(&b), "{}: {what}[{i}] {got}, expected {expected}", b.name());
            }
        };
        let codes = latent::codes(&scorer, std::slice::from_ref(&windows), None, &mut |_| Ok(())).unwrap();
        close("code", &codes.codes[0], "z");
        let (axis, _) = latent::direction(&scorer).unwrap();
        close("axis", &axis, "axis");
        let found = latent::project(&scorer, &windows, &codes.codes[0], (&axis, spread), (50, 0)).unwrap();
        close("walk", &found.steps.iter().map(|s| s.log_odds).collect::<Vec<_>>(), "walk.log_odds");
        for (side, name) in SIDES.iter().enumerate() {
            close("drivers", &found.drivers[side], &format!("drivers.{name}"));
            close("reconstruction", &found.reconstruction[side], &format!("reconstruction.{name}"));
        }
    });
}
