use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use super::Output;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::{Cuda, Precision};
use crate::backend::{Backend, DType, Device, DeviceChoice, device};
use crate::bench::cases::Size;
use crate::bench::data::{self, DataBench};
use crate::bench::kernels::{self, KernelBench, Row};
use crate::bench::plan;
use crate::bench::step::{self, StepBench};
use crate::config::ModelConfig;
use crate::error::Error;
use crate::{config, on_device};

/// Time training steps, kernels or the data path
#[derive(clap::Args)]
#[command(after_help = "Example: epi-engine bench step --model epsat --device cpu --batch 64")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Single primitives at the shapes of EPSAT, SPEID and EPLAE: validated, then timed against this device's ceilings
    Kernels(KernelArgs),
    /// Whole training and evaluation steps on random DNA, dropout on
    Step(StepArgs),
    /// Opening a data set and filling batches
    Data(DataArgs),
}

/// Model, device and sizes of both kinds of compute benchmark.
#[derive(clap::Args)]
struct Compute {
    /// A preset or a TOML file
    #[arg(long, default_value = "epsat")]
    model: String,
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    #[arg(long, default_value = "f32")]
    precision: String,
    /// Samples per step
    #[arg(long, default_value_t = 64)]
    batch: usize,
    #[arg(long, default_value_t = 3000)]
    enhancer_length: usize,
    #[arg(long, default_value_t = 2000)]
    promoter_length: usize,
    /// Override a configuration value
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

impl Compute {
    fn model(&self) -> crate::Result<ModelConfig> {
        if self.batch == 0 {
            return Err(Error::config("--batch", "nothing to time in an empty batch: at least 1"));
        }
        Ok(config::load(&self.model, &self.settings)?.model)
    }
    fn open(&self) -> crate::Result<Device> {
        Ok(Device::open(self.device, device::precision(&self.precision)?, 0)?.0)
    }
}

#[derive(clap::Args)]
#[command(after_help = "Example: epi-engine bench kernels --device cuda --filter attention --compare earlier.json")]
struct KernelArgs {
    #[command(flatten)]
    compute: Compute,
    /// Only primitives whose name contains this
    #[arg(long, default_value = "")]
    filter: String,
    /// What an earlier `bench kernels --json` printed, or a file of benches/results: adds speed-ups over it
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Instead of timing, list what a card with N multiprocessors would be asked to do (for scripts/predict.py)
    #[arg(long, value_name = "N")]
    plan: Option<usize>,
    /// Seconds of executions per primitive (at least 5 executions, at most 100)
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  epi-engine bench step --device cpu --batch 64 --steps 5
  epi-engine bench step --device cuda --precision bf16 --models 6        aggregate throughput of six at once")]
struct StepArgs {
    #[command(flatten)]
    compute: Compute,
    /// Timed steps of each mode
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Models that are timed at the same time, each on a context of the device and with a share of the processor
    #[arg(long, value_name = "N", default_value_t = 1)]
    models: usize,
}

#[derive(clap::Args)]
#[command(after_help = "Example: epi-engine bench data --data pairs.epi")]
struct DataArgs {
    /// A data set; the bundled one without it
    #[arg(long, value_name = "X.epi")]
    data: Option<PathBuf>,
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Timed batches
    #[arg(long, default_value_t = 200)]
    batches: usize,
}

/// What `cargo bench` runs: `epi-engine bench WHAT` with the options after `--`.
pub fn door(what: &str) -> ExitCode {
    let options = std::env::args_os().skip(1).filter(|word| word != "--bench"); // cargo's own
    super::run(["epi-engine", "bench", what].map(OsString::from).into_iter().chain(options))
}

pub fn run(args: &Args, out: &Output) -> anyhow::Result<ExitCode> {
    match &args.what {
        What::Kernels(args) => kernels(args, out),
        What::Step(args) => step(args, out),
        What::Data(args) => data(args, out),
    }
}

fn kernels(args: &KernelArgs, out: &Output) -> anyhow::Result<ExitCode> {
    let compute = &args.compute;
    let earlier = args.compare.as_deref().map(kernels::read).transpose()?;
    kernels::chosen::<Cpu>(&args.filter)?; // before anything takes time
    let (mut epsat, mut speid, mut autoencoder) = Default::default();
    match compute.model()? {
        ModelConfig::Epsat(model) => epsat = model,
        ModelConfig::Speid(model) => speid = model,
        ModelConfig::Eplae(model) => autoencoder = model,
    }
    let size = Size {
        batch: compute.batch,
        enhancer_length: compute.enhancer_length,
        promoter_length: compute.promoter_length,
        model: epsat,
        speid,
        autoencoder,
    };
    if size.positions() == 0 {
        return Err(Error::config("--enhancer-length", "nothing to time: the windows are too short").into());
    }
    if let Some(multiprocessors) = args.plan {
        let bf16 = device::precision(&compute.precision)? == DType::BF16;
        let noting = Cuda::noting(multiprocessors)?.with_precision(if bf16 { Precision::Bf16 } else { Precision::F32 });
        let planned = plan::run(&noting, &size, &args.filter)?;
        for case in &planned {
            out.line(format!("{:<27} {} launches", case.name, case.launches.len()));
        }
        out.document(&planned);
        return Ok(ExitCode::SUCCESS);
    }
    let device = compute.open()?;
    let slack = if compute.precision == "bf16" { 1.0 / 32.0 } else { 16.0 * f64::from(f32::EPSILON) };
    let bench = KernelBench { size, filter: args.filter.clone(), seconds: args.seconds, slack };
    let rows = on_device!(&device, backend => {
        out.line(format!("{}, batch {}", backend.name(), compute.batch));
        let ceilings = backend.ceilings()?;
        if let Some(c) = &ceilings {
            out.line(format!("ceilings measured now: {:.0} GFLOP/s, {:.1} GB/s", c.flops / 1e9, c.bytes / 1e9));
        }
        out.line(format!("{:<27} {:>24} {:>19} {:>9} {:>8} {:>9}", "", "ms median (min to max)", "", "GFLOP/s", "GB/s", "roofline"));
        let show = |row: &Row| show(out, row, earlier.as_deref());
        kernels::run(backend, &bench, ceilings.as_ref(), show)
    });
    let mut rows = rows?;
    kernels::compare(&mut rows, earlier.as_deref().unwrap_or_default());
    out.document(&rows);
    Ok(ExitCode::SUCCESS)
}

fn show(out: &Output, row: &Row, earlier: Option<&[Row]>) {
    let mut row = [row.clone()];
    kernels::compare(&mut row, earlier.unwrap_or_default());
    let [row] = row;
    let t = &row.timing;
    let spread = format!("({:.3} to {:.3})", t.ms_min, t.ms_max);
    let share = row.roofline.map_or("-".into(), |share| format!("{:.0} %", 100.0 * share));
    let speedup = row.speedup.map_or(String::new(), |s| format!("   {s:.2}x"));
    let (name, median) = (&row.name, t.ms_median);
    out.line(format!(
        "{name:<27} {median:>24.3} {spread:>19} {:>9.1} {:>8.1} {share:>9}{speedup}",
        row.gflops, row.gbytes_s
    ));
}

fn step(args: &StepArgs, out: &Output) -> anyhow::Result<ExitCode> {
    let compute = &args.compute;
    let (model, device) = (compute.model()?, compute.open()?);
    if args.models == 0 {
        return Err(Error::config("--models", "no model to time: at least 1").into());
    }
    let bench = StepBench {
        precision: compute.precision.clone(),
        batch: compute.batch,
        enhancer_length: compute.enhancer_length,
        promoter_length: compute.promoter_length,
        train_steps: args.steps,
        evaluate_steps: args.steps,
    };
    let report = step::run(&device, &model, &bench, args.models)?;
    out.line(format!("{} on {}, {} threads, batch {}", report.model, report.device, report.threads, report.batch));
    for (name, t) in [("training", &report.train), ("evaluation", &report.evaluate)] {
        out.line(format!(
            "  {name:<11} {:>8.1} samples/s   median {:.1} ms ({:.1} to {:.1})",
            t.samples_per_s, t.timing.ms_median, t.timing.ms_min, t.timing.ms_max
        ));
    }
    if let Some(both) = &report.together {
        let (models, train, evaluate) = (report.models, both.train, both.evaluate);
        out.line(format!("  {models} models together: training {train:.1} samples/s, evaluation {evaluate:.1}"));
    }
    if let Some(mib) = report.peak_memory_mib {
        out.line(format!("  peak memory {mib:.0} MiB"));
    }
    out.document(&report);
    Ok(ExitCode::SUCCESS)
}

fn data(args: &DataArgs, out: &Output) -> anyhow::Result<ExitCode> {
    let report = data::run(args.data.as_deref(), &DataBench { batch: args.batch, batches: args.batches })?;
    let [open, fill] = [&report.open, &report.fill];
    out.line(format!(
        "{}: {} pairs of {} + {} bases",
        report.data, report.pairs, report.enhancer_length, report.promoter_length
    ));
    out.line(format!("  opened in   {:.3} ms ({:.3} to {:.3})", open.ms_median, open.ms_min, open.ms_max));
    out.line(format!(
        "  batches     {:.0}/s of {}, {:.0} samples/s on one thread   median {:.3} ms ({:.3} to {:.3})",
        report.batches_per_s, report.batch, report.samples_per_s, fill.ms_median, fill.ms_min, fill.ms_max
    ));
    out.document(&report);
    Ok(ExitCode::SUCCESS)
}
