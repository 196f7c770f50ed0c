use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use super::filters::read_filters;
use super::{RunArgs, digest, stopped};
use crate::backend::Backend;
use crate::cli::Output;
use crate::cli::watch::{Watch, catch_interrupts};
use crate::data::{Sample, meme};
use crate::error::Error;
use crate::explain::filters::{Filter, matches, readings};
use crate::explain::interactions::{self, Interaction, Options, Units, single};
use crate::explain::partial::numbers;
use crate::explain::shuffle::dinucleotides;
use crate::explain::similarity::Measure;
use crate::explain::{Place, Scorer, Windows};
use crate::on_device;
use crate::rng::{Stream, stream};
use crate::train::Observer;
use crate::train::session::{Part, Trained};

/// What interactions are held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Background {
    /// Pairs that do not interact.
    Negatives,
    /// The interacting pairs with their dinucleotides shuffled.
    Shuffle,
}

/// Filters that attend to each other in interacting pairs more than in a background
///
/// For every two filters the highest attention between places where they are active, in each pair; interacting pairs
/// against the background by a Mann–Whitney test, with a false discovery rate over everything that was tested. Writes
/// interactions.tsv and a drawing of the network. With --motifs, filters that read the same known motif are tested once more
/// as one: interactions-motifs.tsv, and its drawing.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  epi-engine explain interactions runs/fold0 --motifs JASPAR.meme
  epi-engine explain interactions runs/fold0 --background shuffle --limit 500")]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Pairs that are read
    #[arg(long, value_enum, default_value = "test")]
    part: Part,
    /// Interacting pairs, and pairs of the background, that are read at most
    #[arg(long, value_name = "N", default_value_t = 200)]
    limit: usize,
    #[arg(long, value_enum, default_value = "negatives")]
    background: Background,
    /// A filter is active where it exceeds what it reaches in this share of the positions of shuffled windows
    #[arg(long, value_name = "SHARE", default_value_t = 1e-3)]
    rate: f64,
    /// Share of a filter's highest activation that makes a hit of its motif
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    share: f32,
    /// Leave out filters that are active in a smaller share of the interacting pairs
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    least_active: f64,
    /// Known motifs (MEME) to name filters by
    #[arg(long, value_name = "DB.meme")]
    motifs: Option<PathBuf>,
    /// False discovery rate
    #[arg(long, default_value_t = 0.05)]
    fdr: f64,
    /// Seed of shuffles
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn run(args: &Args, out: &Output) -> Result<()> {
    if !(0.0..1.0).contains(&args.rate) {
        return Err(Error::config("--rate", format!("{} is no share below 1", args.rate)).into());
    }
    let opened = args.run.open(out)?;
    catch_interrupts();
    let database = args.motifs.as_ref().map(|path| meme::read(path)).transpose()?;
    let samples = opened.part(args.part)?;
    let chosen = |label: u8| -> crate::Result<Vec<(Place, Windows)>> {
        let of: Vec<&Sample> = samples.iter().filter(|s| s.label == label).collect();
        let n = of.len().min(args.limit);
        let pick = |i: usize| {
            let sample = of[i * of.len() / n];
            Ok((Place::of(&opened.dataset, sample.row)?, Windows::of(&opened.dataset, sample)))
        };
        (0..n).map(pick).collect()
    };
    let foreground = chosen(1)?;
    let background = match args.background {
        Background::Negatives => chosen(0)?,
        Background::Shuffle => {
            let mut shuffled = foreground.clone();
            for (number, (_, windows)) in shuffled.iter_mut().enumerate() {
                let mut random = Stream::new(args.seed, stream::EXPLAIN, number as u32);
                windows.codes.iter_mut().for_each(|codes| *codes = dinucleotides(codes, &mut random));
            }
            shuffled
        }
    };
    let options = Options { rate: args.rate, least_active: args.least_active, seed: args.seed };
    let watch = Watch::new(out, None);
    let (levels, names, partial, resumed) = on_device!(&opened.device, backend => {
        let trained = Trained::open(backend, &opened.folder, opened.config.clone())?;
        let scorer = Scorer::new(backend, &trained.model, &trained.parameters, opened.batch)?;
        let sides = read_filters(&opened, &scorer, args.part, 2000, args.share, out)?;
        let mut names = vec![sides.each_ref().map(|found| found.iter().map(Filter::name).collect::<Vec<_>>())];
        let mut units = vec![single(sides.each_ref().map(Vec::len))];
        if let Some(database) = &database {
            let mut motifs: [Vec<String>; 2] = Default::default();
            let mut together = Units::default();
            for (side, found) in sides.iter().enumerate() {
                let matched = matches(found, database, Measure::Pearson, args.seed);
                for read in readings(found, &matched, args.fdr) {
                    for &c in &read.filters {
                        names[0][side][c] += &format!(" {}", read.motif);
                    }
                    motifs[side].push(read.motif);
                    together[side].push(read.filters);
                }
            }
            names.push(motifs);
            units.push(together);
        }
        let rows: Vec<u32> = foreground.iter().chain(&background).map(|(place, _)| place.row).collect();
        let what = json!({
            "rows": rows, "shuffled": args.background == Background::Shuffle, "seed": args.seed,
            "options": format!("{options:?}"), "units": units,
        });
        let key = opened.key(&backend.name(), digest(&what).into())?;
        let (mut partial, mut known) = opened.partial("interactions", &key, 1, numbers)?;
        known.truncate(rows.len());
        let (total, resumed) = (rows.len(), known.len());
        let bar = out.progress(3 * total as u64, "passes");
        let mut tick = |done: u64| {
            bar.set_position(done);
            match watch.interrupted() {
                true => Err(stopped(done.saturating_sub(2 * total as u64), total, "pairs")),
                false => Ok(()),
            }
        };
        let kept = Some((&mut partial, known));
        let found = interactions::interactions(&scorer, &foreground, &background, &units, &options, kept, &mut tick)?;
        bar.finish_and_clear();
        (found, names, partial, resumed)
    });
    let mut documents: Vec<Vec<serde_json::Value>> = Vec::new();
    for (n, (found, file)) in levels.iter().zip(["interactions", "interactions-motifs"]).enumerate() {
        opened.out.write(&format!("{file}.tsv"), table(found, &names[n]).as_bytes())?;
        opened.out.write(&format!("{file}.svg"), interactions::draw(found, &names[n], args.fdr).as_bytes())?;
        documents.push(found.iter().take(100).map(|i| document(i, &names[n])).collect());
    }
    partial.remove()?;
    let below = |found: &[Interaction]| found.iter().filter(|i| i.q < args.fdr).count();
    out.line(format!("{} interacting pairs against {}", foreground.len(), background.len()));
    for ((found, documents), what) in levels.iter().zip(&documents).zip(["filters", "known motifs"]) {
        let (tested, significant, fdr) = (found.len(), below(found), args.fdr);
        out.line(format!("{tested} pairs of {what} tested, {significant} below a false discovery rate of {fdr}"));
        for d in documents.iter().take(significant.min(10)) {
            let text = |key: &str| d[key].as_str().unwrap_or_default();
            let q = d["q"].as_f64().unwrap_or(1.0);
            out.line(format!("  {}: {} with {}, q {q:.1e}", text("block"), text("first"), text("second")));
        }
    }
    out.document(&json!({
        "out": opened.out.path(), "foreground": foreground.len(), "background": background.len(),
        "tested": levels[0].len(), "significant": below(&levels[0]), "interactions": documents[0],
        "motifs": documents.get(1), "resumed": resumed,
    }));
    Ok(())
}

/// Names of both units of an interaction.
fn named<'a>(i: &Interaction, names: &'a [Vec<String>; 2]) -> [&'a str; 2] {
    let (_, a, b) = interactions::BLOCKS.into_iter().find(|b| b.0 == i.block).expect("a block");
    [&names[a][i.first], &names[b][i.second]]
}

fn document(i: &Interaction, names: &[Vec<String>; 2]) -> serde_json::Value {
    let [first, second] = named(i, names);
    json!({
        "block": i.block, "first": first, "second": second, "foreground": i.foreground,
        "background": i.background, "pairs": i.pairs, "distance": i.distance, "p": i.p, "q": i.q,
    })
}

fn table(found: &[Interaction], names: &[Vec<String>; 2]) -> String {
    let mut text = String::from("block\tfirst\tsecond\tforeground\tbackground\tpairs\tdistance\tp\tq\n");
    for i in found {
        let ([first, second], block) = (named(i, names), i.block);
        let distance = i.distance.map_or("NA".into(), |d| format!("{d:.0}"));
        text += &format!(
            "{block}\t{first}\t{second}\t{:e}\t{:e}\t{}\t{distance}\t{:.3e}\t{:.3e}\n",
            i.foreground, i.background, i.pairs, i.p, i.q
        );
    }
    text
}
