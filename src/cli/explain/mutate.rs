use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Opened, PairArgs, RunArgs, digest, stopped};
use crate::backend::Backend;
use crate::cli::Output;
use crate::cli::watch::{Watch, catch_interrupts};
use crate::data::meme;
use crate::error::Error;
use crate::explain::knockout::{Knockout, aupr, knock_out};
use crate::explain::mutate::{self, Plan, choose_reuse};
use crate::explain::partial::line;
use crate::explain::{Npz, Place, Reuse, Score, Scorer, Windows};
use crate::on_device;
use crate::train::Observer;
use crate::train::session::{Part, Trained};

/// What changing the sequence of a pair does to its score
///
/// Writes one table and one drawing a pair, and mutate.npz. Stopped by Ctrl-C or killed, it goes on where it was when it is
/// started again. With --knockouts it works on all pairs of a part instead: every hit of each motif is replaced by
/// background, and knockouts.tsv tells what that does to the scores and to AUPR.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  epi-engine explain mutate runs/fold0 --rows 12
  epi-engine explain mutate runs/fold0 --top 3 --no-bases --windows 20 --step 10 --deletions 1,5
  epi-engine explain mutate runs/fold0 --knockouts JASPAR.meme --part test")]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    pairs: PairArgs,
    /// Leave out the change of every base into the three others
    #[arg(long)]
    no_bases: bool,
    /// Replace stretches of so many bases by background
    #[arg(long, value_name = "BASES")]
    windows: Option<usize>,
    /// Bases from one stretch to the next
    #[arg(long, value_name = "BASES", default_value_t = 10)]
    step: usize,
    /// Delete so many bases, one after the other
    #[arg(long, value_name = "BASES,…", value_delimiter = ',')]
    deletions: Vec<usize>,
    /// Only one side
    #[arg(long, value_parser = ["enhancer", "promoter"])]
    side: Option<String>,
    /// Run everything behind the convolution in full for every copy
    #[arg(long)]
    exact: bool,
    /// Error that reuse may make, as a share of the largest change
    #[arg(long, value_name = "SHARE", default_value_t = 1e-3)]
    tolerance: f32,
    /// Take the motifs of a MEME file out of every pair of --part
    #[arg(long, value_name = "M.meme")]
    knockouts: Option<PathBuf>,
    /// A hit has at most this probability a place and strand
    #[arg(long, value_name = "P", default_value_t = 1e-4)]
    hit_p: f64,
    /// Seed of background bases
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn run(args: &Args, out: &Output) -> Result<()> {
    if args.windows.is_some_and(|w| w < 2) {
        return Err(Error::config("--windows", "at least two bases; single ones are changed without it").into());
    }
    if args.step == 0 || args.deletions.contains(&0) {
        return Err(Error::config("--step, --deletions", "at least one base").into());
    }
    let opened = args.run.open(out)?;
    catch_interrupts();
    on_device!(&opened.device, backend => {
        let trained = Trained::open(backend, &opened.folder, opened.config.clone())?;
        let scorer = Scorer::new(backend, &trained.model, &trained.parameters, opened.batch)?;
        match &args.knockouts {
            Some(path) => knockouts(args, &opened, &scorer, path, out),
            None => mutagenesis(args, &opened, &scorer, &trained, out),
        }
    })
}

fn mutagenesis<B: Backend>(
    args: &Args,
    opened: &Opened,
    scorer: &Scorer<'_, B>,
    trained: &Trained<B>,
    out: &Output,
) -> Result<()> {
    let plan = Plan {
        bases: !args.no_bases,
        windows: args.windows.map(|w| (w, args.step)),
        deletions: args.deletions.clone(),
        sides: (0..2).filter(|&s| args.side.as_deref().is_none_or(|n| n == crate::explain::pairs::SIDES[s])).collect(),
        seed: args.seed,
    };
    let places = opened.pairs(&args.pairs, trained, scorer.backend, out)?;
    let (mut documents, mut arrays) = (Vec::new(), Vec::new());
    for place in places {
        let started = Instant::now();
        let base = scorer.base(Windows::of(&opened.dataset, &place.sample))?;
        let edits = plan.edits(&base.windows);
        if edits.is_empty() {
            return Err(Error::config("--no-bases", "nothing is left to change: add --windows or --deletions").into());
        }
        let tolerance = if args.exact { 0.0 } else { args.tolerance };
        let (reuse, check) = choose_reuse(scorer, &base, &edits, tolerance)?;
        let what = json!({"row": place.row, "plan": format!("{plan:?}"), "reuse": format!("{reuse:?}")});
        let key = opened.key(&scorer.backend.name(), what)?;
        let name = format!("mutate-row{}", place.row);
        let (mut partial, mut done) = opened.partial(&name, &key, scorer.batch(), Score::read)?;
        done.truncate(edits.len());
        let (resumed, watch) = (done.len(), Watch::new(out, None));
        let bar = out.progress(edits.len() as u64, "copies");
        bar.set_message(format!("row {}", place.row));
        let scores = mutate::run(scorer, &base, &edits, reuse, (&mut partial, done), &mut |n| {
            bar.set_position(n);
            if watch.interrupted() {
                return Err(stopped(n, edits.len(), "copies"));
            }
            Ok(())
        })?;
        bar.finish_and_clear();
        mutate::write_table(&opened.out.file(&format!("{name}.tsv")), &place, &base, &edits, &scores)?;
        let changes = mutate::base_changes(&base, &edits, &scores);
        if plan.bases {
            opened.out.write(&format!("{name}.svg"), mutate::draw_bases(&place, &base, &changes).as_bytes())?;
        }
        let seconds = started.elapsed().as_secs_f64();
        let largest = scores
            .iter()
            .map(|s| s.log_odds - base.score.log_odds)
            .fold(0.0f32, |m, c| if c.abs() > m.abs() { c } else { m });
        out.line(format!(
            "row {}: log odds {:.4}; {} copies in {seconds:.1} s ({:.0}/s), largest change {largest:.1e}; {}",
            place.row,
            base.score.log_odds,
            edits.len(),
            (edits.len() - resumed.min(edits.len())) as f64 / seconds,
            how(reuse, check.deviation, check.checked),
        ));
        documents.push(json!({
            "row": place.row, "log_odds": base.score.log_odds, "probability": base.score.probability,
            "copies": edits.len(), "seconds": seconds, "largest_change": largest, "resumed": resumed,
            "reuse": check, "table": format!("{name}.tsv"),
        }));
        partial.remove()?;
        arrays.push((place, base, changes));
    }
    if plan.bases {
        let mut npz = Npz::create(&opened.out.file("mutate.npz"))?;
        for (place, base, changes) in &arrays {
            mutate::write_arrays(&mut npz, place, base, changes)?;
        }
        npz.finish()?;
    }
    out.document(&json!({ "out": opened.out.path(), "pairs": documents }));
    Ok(())
}

fn how(reuse: Reuse, deviation: f32, checked: usize) -> String {
    match reuse {
        Reuse::Exact => "every copy in full behind the convolution".into(),
        Reuse::Margin(margin) => format!(
            "LSTM rerun over ±{margin} positions a layer, off by at most {deviation:.1e} log odds on {checked} copies scored in full"
        ),
    }
}

fn knockouts<B: Backend>(
    args: &Args,
    opened: &Opened,
    scorer: &Scorer<'_, B>,
    path: &std::path::Path,
    out: &Output,
) -> Result<()> {
    let motifs = meme::read(path)?;
    let samples = match args.pairs.rows.as_slice() {
        [] => opened.part(args.pairs.part)?,
        rows => rows.iter().map(|&r| Ok(Place::of(&opened.dataset, r)?.sample)).collect::<crate::Result<_>>()?,
    };
    let pairs: Vec<Windows> = samples.iter().map(|s| Windows::of(&opened.dataset, s)).collect();
    let labels: Vec<u8> = samples.iter().map(|s| s.label).collect();
    let borrowed: Vec<[&[u8]; 2]> = pairs.iter().map(|w| [w.codes[0].as_slice(), w.codes[1].as_slice()]).collect();
    let watch = Watch::new(out, None);
    let rows: Vec<u32> = samples.iter().map(|s| s.row).collect();
    let what = json!({"rows": rows, "motifs": format!("{motifs:?}"), "hit_p": args.hit_p, "seed": args.seed});
    let key = opened.key(&scorer.backend.name(), digest(&what).into())?;
    let (mut scored, mut before) = opened.partial("knockouts-before", &key, scorer.batch(), Score::read)?;
    let (mut partial, mut found) = opened.partial("knockouts", &key, 1, Knockout::read)?;
    found.truncate(motifs.len());
    let resumed = found.len();
    let bar = out.progress(borrowed.len() as u64, "pairs");
    bar.set_message("unchanged");
    for chunk in borrowed[before.len().min(borrowed.len())..].chunks(scorer.batch()) {
        let new = scorer.score(chunk)?;
        scored.append(new.iter().map(|s| line([s.log_odds, s.probability])))?;
        before.extend(new);
        bar.set_position(before.len() as u64);
        if watch.interrupted() {
            return Err(stopped(before.len() as u64, borrowed.len(), "scores of unchanged pairs").into());
        }
    }
    bar.finish_and_clear();
    let bar = out.progress(motifs.len() as u64, "motifs");
    bar.set_position(resumed as u64);
    for motif in &motifs[resumed..] {
        let knockout = knock_out(scorer, motif, &pairs, &labels, &before, (args.hit_p, args.seed))?;
        partial.append([knockout.line()])?;
        found.push(knockout);
        bar.inc(1);
        if watch.interrupted() {
            return Err(stopped(found.len() as u64, motifs.len(), "motifs").into());
        }
    }
    bar.finish_and_clear();
    found.sort_by(|a, b| a.aupr_change.unwrap_or(0.0).total_cmp(&b.aupr_change.unwrap_or(0.0)));
    let cell = |v: Option<f64>| v.map_or("NA".into(), |v| format!("{v:.6}"));
    let mut text = String::from("motif\tpairs\thits\tchange_positives\tchange_negatives\taupr\taupr_change\n");
    for k in &found {
        let cells = [k.change_positives, k.change_negatives, k.aupr, k.aupr_change].map(cell).join("\t");
        text += &format!("{}\t{}\t{}\t{cells}\n", k.motif, k.pairs, k.hits);
    }
    opened.out.write("knockouts.tsv", text.as_bytes())?;
    scored.remove()?;
    partial.remove()?;
    let whole = aupr(&labels, &before);
    let part = if args.pairs.rows.is_empty() && args.pairs.part != Part::All { "part" } else { "rows" };
    out.line(format!("{} pairs ({part}), AUPR {}; {} motifs", pairs.len(), cell(whole), motifs.len()));
    for k in found.iter().take(10) {
        out.line(format!("  {}: {} pairs, {} hits, AUPR {}", k.motif, k.pairs, k.hits, cell(k.aupr_change)));
    }
    let document: Value = json!({ "out": opened.out.path(), "pairs": pairs.len(), "aupr": whole, "knockouts": found, "resumed": resumed });
    out.document(&document);
    Ok(())
}
