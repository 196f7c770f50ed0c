use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use super::Output;
use super::prepare::TableArgs;
use super::trees;
use super::watch::Watch;
use crate::backend::{Device, device};
use crate::data::control::controlled;
use crate::data::{EpochPlan, Notes, PairTable, Sample, Side};
use crate::evaluate::{predict, score};
use crate::train::session::{self, Trained};
use crate::train::{Observer, RunFolder};
use crate::{config, on_device};

/// Score pairs of your own with a trained model
#[derive(clap::Args)]
#[command(after_help = "Examples:
  epi-engine predict runs/fold0 --pairs my_pairs.tsv --genome hg19.2bit --out scores.tsv
  epi-engine predict runs/fold0 --pairs my_pairs.tsv            windows from the run's own data set
  epi-engine predict runs/target-finder-1 --pairs training.csv  pairs with the features that the trees know")]
pub struct Args {
    /// Run folder made by `epi-engine train`
    pub(super) run: PathBuf,
    /// Pairs: TargetFinder CSV, BEDPE, or a table with a header; labels may be missing
    #[arg(long, value_name = "FILE")]
    pub(super) pairs: PathBuf,
    /// Genome (.2bit or FASTA); without it the windows must be in the run's data set
    #[arg(long, value_name = "FILE")]
    pub(super) genome: Option<PathBuf>,
    /// Where to write the scores (default: stdout)
    #[arg(long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
    #[command(flatten)]
    pub(super) table: TableArgs,
    /// auto, cpu, cuda[:N], emulator or reference
    #[arg(long, default_value = "auto")]
    pub(super) device: String,
}

pub fn run(args: &Args, out: &Output) -> anyhow::Result<ExitCode> {
    let folder = RunFolder::open(&args.run)?;
    if trees::is_run(Some(&args.run), "")? {
        return trees::predict(args, out);
    }
    let config = config::load(&folder.file("config.toml").to_string_lossy(), &[])?;
    let (device, why) = Device::open(args.device.parse()?, device::precision(&config.train.precision)?, 0)?;
    out.note(format!("device     {why}"));
    let pairs = predict::read_pairs(&args.pairs, args.table.options())?;
    let (dataset, notes) = match &args.genome {
        Some(genome) => {
            let lengths = [config.data.enhancer_length, config.data.promoter_length];
            let (dataset, notes) = predict::from_genome(pairs, genome, lengths)?;
            // A model of a control experiment sees new pairs as it saw those that it learned from.
            (controlled(dataset, config.data.control)?, notes)
        }
        None => (predict::from_dataset(&pairs, &session::open_dataset(&config)?)?, pairs.notes),
    };
    notes.iter().for_each(|note| out.warn(note.to_string()));
    let samples: Vec<Sample> = (0..dataset.len()).map(|row| dataset.table().sample(row)).collect();
    let plan = EpochPlan::evaluation(&samples, config.train.batch);
    let mut watch = Watch::new(out, None);
    let scores = on_device!(&device, backend => {
        let trained = Trained::open(backend, &folder, config.clone())?;
        let mut tick = |done| watch.scoring("pairs", done, samples.len() as u64);
        score(backend, &trained.model, &trained.parameters, &dataset, &plan, None, &mut tick)?
    });
    watch.finish();
    write_scores(dataset.table(), &scores.probabilities, args.out.as_deref(), &notes, out)?;
    Ok(ExitCode::SUCCESS)
}

/// Scores of the rows of `pairs`, into a file or onto stdout.
pub(super) fn write_scores(
    pairs: &PairTable,
    scores: &[f32],
    to: Option<&Path>,
    notes: &Notes,
    out: &Output,
) -> crate::Result<()> {
    let text = table(pairs, scores);
    match to {
        Some(path) => {
            let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(".".as_ref());
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            RunFolder::at(folder).write(&name, text.as_bytes())?;
            out.line(format!("{}: {} pairs scored", path.display(), scores.len()));
        }
        None => out.line(text.trim_end()),
    }
    out.document(&json!({ "pairs": scores.len(), "out": to, "scores": scores, "warnings": notes.to_json() }));
    Ok(())
}

/// One line a pair, in the order of the table.
fn table(t: &PairTable, scores: &[f32]) -> String {
    let mut text = String::from("enh_chrom\tenh_start\tenh_end\tprom_chrom\tprom_start\tprom_end\tcell_line\tscore\n");
    for (row, score) in scores.iter().enumerate() {
        for side in [Side::Enhancer, Side::Promoter] {
            let element = t.element(side, row);
            let contig = element.contig.map_or(".", |c| t.contigs[c as usize].as_str());
            let _ = write!(text, "{contig}\t{}\t{}\t", element.start, element.end);
        }
        let line = &t.cell_lines[t.rows[row].cell_line as usize];
        let _ = writeln!(text, "{line}\t{score:.6}");
    }
    text
}
