use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::Output;
use crate::config;
use crate::models::{LayerSummary, Model, Network};
use crate::nn::Spec;
use crate::train::RunFolder;

/// Layers and parameters of a model
#[derive(clap::Args)]
#[command(after_help = "Example: epi-engine summary epsat")]
pub struct Args {
    /// A preset, a TOML file, or a run folder
    model: String,
    /// Override a configuration value, e.g. --set model.hidden=50
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Enhancer window in bases (default: the run's, or 3000)
    #[arg(long)]
    enhancer_length: Option<usize>,
    /// Promoter window in bases (default: the run's, or 2000)
    #[arg(long)]
    promoter_length: Option<usize>,
}

#[derive(Serialize)]
struct Summary {
    model: &'static str,
    parameters: usize,
    parameters_total: usize,
    parameters_by_part: BTreeMap<String, usize>,
    flops_forward: f64,
    layers: Vec<LayerSummary>,
}

pub fn run(args: &Args, out: &Output) -> anyhow::Result<ExitCode> {
    let path = Path::new(&args.model);
    let config = if path.is_dir() {
        let file = RunFolder::open(path)?.file("config.toml");
        config::load(&file.to_string_lossy(), &args.settings)?
    } else {
        config::load(&args.model, &args.settings)?
    };
    let length = |asked: Option<usize>, of_run: usize, usual| asked.unwrap_or(if of_run > 0 { of_run } else { usual });
    let enhancer = length(args.enhancer_length, config.data.enhancer_length, 3000);
    let promoter = length(args.promoter_length, config.data.promoter_length, 2000);
    let network = Network::new(&config.model);
    network.check_lengths(enhancer, promoter)?;
    let specs = network.specs(enhancer, promoter);
    let count = |trainable_only: bool| specs.iter().filter(|s| s.trainable || !trainable_only).map(Spec::len).sum();
    let mut by_part = BTreeMap::new();
    for spec in specs.iter().filter(|s| s.trainable) {
        *by_part.entry(network.part(&spec.name).to_string()).or_insert(0) += spec.len();
    }
    let summary = Summary {
        model: network.name(),
        parameters: count(true),
        parameters_total: count(false),
        parameters_by_part: by_part,
        flops_forward: network.flops_forward(enhancer, promoter),
        layers: network.layers(enhancer, promoter),
    };
    out.line(format!("{} for windows of {enhancer} and {promoter} bp", summary.model));
    out.line(format!("  {:<46} {:>14} {:>12}", "layer", "output", "parameters"));
    for layer in &summary.layers {
        let shape: Vec<_> = layer.shape.iter().map(usize::to_string).collect();
        out.line(format!("  {:<46} {:>14} {:>12}", layer.name, shape.join(" x "), thousands(layer.parameters)));
    }
    out.line(format!("  {:<46} {:>14} {:>12}", "total, learned", "", thousands(summary.parameters)));
    for (part, n) in &summary.parameters_by_part {
        out.line(format!("    {part:<44} {:>14} {:>12}", "", thousands(*n)));
    }
    out.line(format!("  {:<46} {:>14} {:>12}", "with statistics", "", thousands(summary.parameters_total)));
    out.line(format!("  forward pass: {:.2} GFLOP a sample", summary.flops_forward / 1e9));
    out.document(&summary);
    Ok(ExitCode::SUCCESS)
}

fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(|c| std::str::from_utf8(c).expect("digits")).collect();
    groups.join(",")
}
