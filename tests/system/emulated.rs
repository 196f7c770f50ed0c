//! Training through the CUDA kernels, on the emulator: it follows the CPU, repeats itself and resumes. With
//! `EPI_TEST_DEVICE=cuda` the same tests run on a GPU.

use epi_engine::backend::cuda::device::EMULATOR;

use crate::support::{TINY, Tiny, metrics, program, read, tiny_file, train, train_tiny};

/// The device that runs the kernels; `None` where there is none, which is said.
fn device() -> Option<String> {
    let named = std::env::var("EPI_TEST_DEVICE").ok();
    let found = named.or_else(|| EMULATOR.then(|| "emulator".to_string()));
    if found.is_none() {
        println!("needs the emulator (Linux x86-64 with GCC 12 or newer) or EPI_TEST_DEVICE=cuda");
    }
    found
}

fn losses(run: &std::path::Path) -> Vec<f64> {
    metrics(run).iter().map(|line| line["loss"].as_f64().unwrap()).collect()
}

#[test]
fn tiny_networks_follow_the_cpu_step_by_step() {
    let Some(device) = device() else { return };
    follows_the_cpu(&TINY[0], &device, &[]);
    // The biases before SPEID's batch norms have gradients of nothing but rounding noise, which Adam makes as large as the
    // rate: running means lag behind them, so scores on validation agree only as far as the rate is small.
    follows_the_cpu(&TINY[1], &device, &["train.lr=0.00001"]);
    TINY[2..].iter().for_each(|eplae| follows_the_cpu(eplae, &device, &[]));
}

fn follows_the_cpu(tiny: &Tiny, device: &str, own: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 80);
    let settings = ["train.epochs=2", "train.log_every=1", "train.batch=8", "train.clip=1.0"];
    let on = |name: &str, device: &str, more: &[&str]| {
        let run = folder.path().join(name);
        let mut all = [&settings[..], own].concat();
        let device = format!("train.device={device}");
        all.push(&device);
        all.extend(more);
        train_tiny(tiny, &data, &run, &all).assert().success();
        losses(&run)
    };
    let (cpu, cuda) = (on("cpu", "cpu", &[]), on("cuda", device, &[]));
    assert_eq!(cpu.len(), cuda.len());
    for (step, (a, b)) in cpu.iter().zip(&cuda).enumerate() {
        assert!((a - b).abs() <= 1e-5, "line {step}: {a} on the cpu, {b} on {device}");
    }
    // bf16 rounds the inputs of products: the same course, less exactly.
    let bf16 = on("bf16", device, &["train.precision=bf16"]);
    for (step, (a, b)) in cpu.iter().zip(&bf16).enumerate() {
        assert!((a - b).abs() <= 2e-2, "line {step}: {a} in f32, {b} in bf16");
    }
}

#[test]
fn same_seed_same_bits_and_resume_through_the_kernels() {
    let Some(device) = device() else { return };
    let folder = tempfile::tempdir().unwrap();
    let data = tiny_file(folder.path(), 60);
    let device = format!("train.device={device}");
    let settings = ["train.epochs=2", "train.batch=8", "train.checkpoint_every=2", &device];
    let [a, b, short] = ["a", "b", "short"].map(|n| folder.path().join(n));
    train(&data, &a, &settings).assert().success();
    train(&data, &b, &settings).assert().success();
    assert_eq!(read(&a, "last.safetensors"), read(&b, "last.safetensors"));

    // Stopped by a step limit that is lifted for the rest.
    train(&data, &short, &[&settings[..], &["train.max_steps=3"]].concat()).assert().success();
    let config = String::from_utf8(read(&short, "config.toml")).unwrap().replace("max_steps = 3", "max_steps = 0");
    std::fs::write(short.join("config.toml"), config).unwrap();
    let state =
        String::from_utf8(read(&short, "state.json")).unwrap().replace("\"finished\": true", "\"finished\": false");
    std::fs::write(short.join("state.json"), state).unwrap();
    program(&["train", "--resume", short.to_str().unwrap()]).assert().success();
    assert_eq!(read(&a, "last.safetensors"), read(&short, "last.safetensors"));
}
