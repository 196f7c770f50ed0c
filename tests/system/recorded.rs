//! Recorded steps: training with a data set on the device and a graph a step gives the bits of training without them.

use epi_engine::backend::cuda::Cuda;
use epi_engine::backend::cuda::device::{EMULATOR, Flavour};
use epi_engine::backend::reference::Reference;
use epi_engine::backend::{Adam, Backend};
use epi_engine::config;
use epi_engine::data::{Dataset, EpochPlan, Sample};
use epi_engine::evaluate::score;
use epi_engine::models::{Model, Network};
use epi_engine::nn::{Optimizer, Parameters};
use epi_engine::train::{Learner, Step, together, training_plan};

use crate::support::{TINY, Tiny, read, tiny_contents, tiny_file, train_tiny};

/// Losses and parameters after one epoch of whole batches and a short one, with scoring in between.
fn learn<B: Backend>(b: &B, tiny: &Tiny, dataset: &Dataset, on_device: bool) -> (Vec<u32>, Vec<Vec<f32>>) {
    let settings: Vec<String> =
        tiny.settings.iter().chain(&["train.batch=8", "data.shift=5"]).map(|s| s.to_string()).collect();
    let config = config::load(tiny.preset, &settings).unwrap();
    let samples: Vec<Sample> = (0..dataset.len()).map(|row| dataset.table().sample(row)).collect();
    let plans = [training_plan(&config, config.data.balance, &samples)];
    let model = Network::new(&config.model);
    let specs = model.specs(dataset.enhancer_length(), dataset.promoter_length());
    let parameters = Parameters::new(b, specs, 1).unwrap();
    let adam = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, clip: Some(1.0) };
    let optimizer = Optimizer::new(&parameters, adam).unwrap();
    let mut learner = Learner::new(b, model, parameters, optimizer, 1).unwrap();
    if on_device {
        learner.place(dataset, &plans).unwrap();
        assert!(learner.placed());
    }
    let mut losses = Vec::new();
    for batch in 0..plans[0].batches() {
        let step = Step { dataset, plan: &plans[0], list: 0, epoch: 2, batch, lr: 1e-3 };
        assert_eq!(learner.step(&step).unwrap(), plans[0].size(batch));
        if batch == 2 {
            // Other work between two replays, with memory from the same pool.
            let plan = EpochPlan::evaluation(&samples, 8);
            score(b, &learner.model, &learner.parameters, dataset, &plan, Some(1), &mut |_| {}).unwrap();
        }
        if batch % 3 == 1 {
            losses.extend(learner.take_losses().unwrap());
        }
    }
    losses.extend(learner.take_losses().unwrap());
    (losses.into_iter().map(f32::to_bits).collect(), learner.parameters.to_host().unwrap())
}

#[test]
fn recorded_steps_give_the_bits_of_plain_ones() {
    let dataset = tiny_contents(38, 3).into_dataset().unwrap();
    for tiny in &TINY[..4] {
        let reference = Reference::<f32>::new();
        assert!(learn(&reference, tiny, &dataset, false) == learn(&reference, tiny, &dataset, true), "{}", tiny.preset);
    }
    if !EMULATOR {
        println!("needs the emulator (Linux x86-64 with GCC 12 or newer): recorded steps");
        return;
    }
    for (tiny, flavour) in TINY[..4].iter().map(|t| (t, Flavour::Fast)).chain([(&TINY[0], Flavour::Check)]) {
        let cuda = Cuda::emulator(flavour, 0).unwrap();
        let (plain, recorded) = (learn(&cuda, tiny, &dataset, false), learn(&cuda, tiny, &dataset, true));
        assert_eq!(plain.0, recorded.0, "losses of {} on {}", tiny.preset, cuda.name());
        assert!(plain.1 == recorded.1, "parameters of {} on {}", tiny.preset, cuda.name());
    }
}

#[test]
fn runs_with_and_without_recording_are_equal() {
    if !EMULATOR {
        println!("needs the emulator (Linux x86-64 with GCC 12 or newer): runs with and without recording");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 60);
    // Two phases, the second with frozen tensors and another list.
    for tiny in &TINY[..2] {
        let [with, without] = ["true", "false"].map(|graph| {
            let run = folder.path().join(format!("{}-{graph}", tiny.preset));
            let setting = format!("train.graph={graph}");
            let settings = ["train.device=emulator", "train.epochs=2", "train.batch=8", &setting];
            train_tiny(tiny, &data, &run, &settings).assert().success();
            run
        });
        for name in ["best.safetensors", "last.safetensors", "state.json", "predictions.tsv"] {
            assert!(read(&with, name) == read(&without, name), "{}: {name} differs", tiny.preset);
        }
    }
}

#[test]
fn models_that_train_at_the_same_time_on_one_device_give_the_bits_of_a_model_alone() {
    if !EMULATOR {
        println!("needs the emulator (Linux x86-64 with GCC 12 or newer): several models on one device");
        return;
    }
    let dataset = tiny_contents(38, 3).into_dataset().unwrap();
    for flavour in [Flavour::Fast, Flavour::Check] {
        let cuda = Cuda::emulator(flavour, 0).unwrap();
        let alone = learn(&cuda, &TINY[0], &dataset, true);
        let beside = |_| Ok(learn(&cuda.again()?.among(3), &TINY[0], &dataset, true));
        for one in together(3, 3, beside) {
            assert!(one.unwrap() == alone, "{} beside others differs from alone", cuda.name());
        }
    }
}
