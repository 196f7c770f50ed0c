use anyhow::Result;
use serde_json::json;

use super::{PairArgs, RunArgs, stopped};
use crate::backend::Backend;
use crate::cli::Output;
use crate::cli::watch::{Watch, catch_interrupts};
use crate::data::Side;
use crate::explain::attribution::{self, Attribution, Baseline, Method, Options};
use crate::explain::{Npz, Scorer, Windows};
use crate::on_device;
use crate::train::Observer;
use crate::train::session::Trained;

/// Contribution of every base to the log odds of interaction
///
/// Writes attributions.tsv, attributions.npz and one drawing a pair. Integrated gradients come with their completeness
/// check: contributions add up to the difference between the pair's score and the baseline's.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  epi-engine explain attributions runs/fold0 --rows 12,57
  epi-engine explain attributions runs/fold0 --top 5 --baseline shuffle --shuffles 20 --steps 50")]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    pairs: PairArgs,
    #[arg(long, value_enum, default_value = "integrated")]
    method: Method,
    /// Where integrated gradients begin
    #[arg(long, value_enum, default_value = "zeros")]
    baseline: Baseline,
    /// Points of the integral
    #[arg(long, value_name = "N", default_value_t = 64)]
    steps: usize,
    /// Shuffles to average with --baseline shuffle
    #[arg(long, value_name = "N", default_value_t = 10)]
    shuffles: usize,
    /// Seed of the shuffles
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Share of the difference by which the contributions may miss it before a warning
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    tolerance: f64,
}

pub fn run(args: &Args, out: &Output) -> Result<()> {
    let opened = args.run.open(out)?;
    catch_interrupts();
    let options = Options {
        method: args.method,
        baseline: args.baseline,
        steps: args.steps.max(1),
        shuffles: args.shuffles.max(1),
        seed: args.seed,
    };
    let (found, partial, resumed) = on_device!(&opened.device, backend => {
        let trained = Trained::open(backend, &opened.folder, opened.config.clone())?;
        // Backward passes hold every activation; a quarter of the copies fills as much memory.
        let batch = opened.batch.div_ceil(4);
        let scorer = Scorer::new(backend, &trained.model, &trained.parameters, batch)?;
        let places = opened.pairs(&args.pairs, &trained, backend, out)?;
        let rows: Vec<u32> = places.iter().map(|p| p.row).collect();
        let key = opened.key(&backend.name(), json!({"rows": rows, "options": format!("{options:?}")}))?;
        let lengths = [Side::Enhancer, Side::Promoter].map(|s| opened.dataset.table().length(s));
        let read = |line: &str| Attribution::read(line, lengths);
        let (mut partial, mut known) = opened.partial("attributions", &key, 1, read)?;
        known.truncate(places.len());
        let (total, resumed, watch) = (places.len(), known.len(), Watch::new(out, None));
        let bar = out.progress(total as u64, "pairs");
        let (mut known, mut found) = (known.into_iter(), Vec::new());
        for place in places {
            bar.set_message(format!("row {}", place.row));
            let windows = Windows::of(&opened.dataset, &place.sample);
            let attribution = match known.next() {
                Some(known) => known,
                None if watch.interrupted() => return Err(stopped(found.len() as u64, total, "pairs").into()),
                None => {
                    let new = attribution::attribute(&scorer, &windows, &options, &mut |_| bar.tick())?;
                    partial.append([new.line()])?;
                    new
                }
            };
            bar.inc(1);
            found.push((place, windows, attribution));
        }
        bar.finish_and_clear();
        (found, partial, resumed)
    });
    let mut npz = Npz::create(&opened.out.file("attributions.npz"))?;
    let mut documents = Vec::new();
    for (place, windows, attribution) in &found {
        attribution::write_arrays(&mut npz, place, attribution)?;
        let drawing = attribution::draw(place, windows, attribution);
        opened.out.write(&format!("attributions-row{}.svg", place.row), drawing.as_bytes())?;
        let (sum, miss) = (attribution.sum(), attribution.incompleteness());
        let difference = attribution.baseline.map(|b| attribution.log_odds - b);
        match (miss, difference) {
            (Some(miss), Some(difference)) => {
                out.line(format!(
                    "row {}: log odds {:.4}, baseline {:.4}, difference {difference:.4}; contributions add up to {sum:.4} \
                     (off by {miss:.2e})",
                    place.row,
                    attribution.log_odds,
                    attribution.log_odds - difference
                ));
                if miss > args.tolerance * difference.abs() {
                    out.warn(format!("row {}: not complete; more --steps come closer", place.row));
                }
            }
            _ => {
                out.line(format!("row {}: log odds {:.4}, gradient × input {sum:.4}", place.row, attribution.log_odds))
            }
        }
        documents.push(json!({
            "row": place.row, "log_odds": attribution.log_odds, "baseline": attribution.baseline,
            "sum": sum, "difference": difference, "incompleteness": miss,
        }));
    }
    npz.finish()?;
    attribution::write_table(&opened.out.file("attributions.tsv"), &found)?;
    partial.remove()?;
    out.document(&json!({ "out": opened.out.path(), "pairs": documents, "resumed": resumed }));
    Ok(())
}
