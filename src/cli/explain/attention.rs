use anyhow::Result;
use serde_json::json;

use super::{PairArgs, RunArgs};
use crate::cli::Output;
use crate::explain::attention::{self, Heads};
use crate::explain::pairs::SIDES;
use crate::explain::{Npz, Scorer, Windows};
use crate::on_device;
use crate::train::session::Trained;

/// Attention maps of single pairs
///
/// Writes attention.npz (heads × positions × positions, tile by tile), attention.tsv (what each position receives) and one
/// drawing a pair.
#[derive(clap::Args)]
#[command(after_help = "Example: epi-engine explain attention runs/fold0 --rows 12")]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    pairs: PairArgs,
}

pub fn run(args: &Args, out: &Output) -> Result<()> {
    let opened = args.run.open(out)?;
    let mut npz = Npz::create(&opened.out.file("attention.npz"))?;
    let mut text =
        String::from("row\tposition\tside\tstart\tend\tcontig\tgenome_start\treceived\tfrom_other_element\n");
    let mut documents = Vec::new();
    on_device!(&opened.device, backend => {
        let trained = Trained::open(backend, &opened.folder, opened.config.clone())?;
        let scorer = Scorer::new(backend, &trained.model, &trained.parameters, opened.batch)?;
        let places = opened.pairs(&args.pairs, &trained, backend, out)?;
        let bar = out.progress(places.len() as u64, "pairs");
        for place in places {
            let heads = Heads::of(&scorer, &Windows::of(&opened.dataset, &place.sample))?;
            let summary = attention::write_maps(&mut npz, &place, &heads)?;
            let drawing = attention::draw(&place, &heads, &summary);
            opened.out.write(&format!("attention-row{}.svg", place.row), drawing.as_bytes())?;
            for t in 0..heads.time {
                let (side, start) = heads.place(t);
                text += &format!(
                    "{}\t{t}\t{}\t{start}\t{}\t{}\t{:e}\t{:e}\n",
                    place.row,
                    SIDES[side],
                    start + heads.seen,
                    place.base(side, start),
                    summary.received[t],
                    summary.from_other[t]
                );
            }
            let between: f64 = summary.from_other.iter().sum();
            out.line(format!(
                "row {}: {} heads over {} positions; {:.1} % of the attention goes from one element to the other",
                place.row, heads.heads, heads.time, 100.0 * between
            ));
            documents.push(json!({
                "row": place.row, "heads": heads.heads, "positions": heads.time, "between_elements": between,
            }));
            bar.inc(1);
        }
        bar.finish_and_clear();
    });
    npz.finish()?;
    opened.out.write("attention.tsv", text.as_bytes())?;
    out.document(&json!({ "out": opened.out.path(), "pairs": documents }));
    Ok(())
}
