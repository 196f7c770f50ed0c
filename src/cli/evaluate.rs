use std::path::PathBuf;
use std::process::ExitCode;

use super::Output;
use super::train::print_report;
use super::watch::Watch;
use crate::backend::{Device, device};
use crate::config;
use crate::on_device;
use crate::train::RunFolder;
use crate::train::session::{self, Part, Trained};

/// Score a part of a data set with a trained model, beside the baselines
#[derive(clap::Args)]
#[command(after_help = "Example: epi-engine evaluate runs/demo-1 --part validation --json")]
pub struct Args {
    /// Run folder made by `epi-engine train`
    run: PathBuf,
    /// Another data set, divided by the run's protocol
    #[arg(long, value_name = "X.epi")]
    data: Option<PathBuf>,
    /// Which pairs to score
    #[arg(long, value_enum, default_value = "test")]
    part: Part,
    /// auto, cpu, cuda[:N], emulator or reference
    #[arg(long, default_value = "auto")]
    device: String,
}

pub fn run(args: &Args, out: &Output) -> anyhow::Result<ExitCode> {
    let folder = RunFolder::open(&args.run)?;
    let mut config = config::load(&folder.file("config.toml").to_string_lossy(), &[])?;
    if let Some(data) = &args.data {
        config.data.path = Some(data.clone());
        (config.split.test, config.split.validation) = Default::default();
    }
    let (device, why) = Device::open(args.device.parse()?, device::precision(&config.train.precision)?, 0)?;
    let dataset = session::open_dataset(&config)?;
    let split = session::make_split(&config, &dataset)?;
    out.note(format!("device     {why}"));
    out.note(format!("split      {}", split.description));
    for warning in &split.warnings {
        out.note(format!("warning    {warning}"));
    }
    let mut watch = Watch::new(out, None);
    let fold = on_device!(&device, backend => {
        let trained = Trained::open(backend, &folder, config.clone())?;
        session::score_fold(
            backend, &config, &dataset, &trained.model, &trained.parameters, split, args.part, &mut watch,
        )?
    });
    watch.finish();
    let report = session::evaluate_folds(&config, &dataset, &[fold])?;
    print_report(&report, config.model.name(), out);
    Ok(ExitCode::SUCCESS)
}
