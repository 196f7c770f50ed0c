use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use super::RunArgs;
use super::filters::{matches, read_filters};
use crate::cli::Output;
use crate::cli::watch::{Watch, catch_interrupts};
use crate::data::{Sample, meme};
use crate::error::Error;
use crate::explain::interactions::{self, Options};
use crate::explain::pairs::SIDES;
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
/// interactions.tsv and a drawing of the network.
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
    /// Share of a filter's highest activation from which on it is active
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
    let options = Options { share: args.share, least_active: args.least_active };
    let watch = Watch::new(out, None);
    let (found, names) = on_device!(&opened.device, backend => {
        let trained = Trained::open(backend, &opened.folder, opened.config.clone())?;
        let scorer = Scorer::new(backend, &trained.model, &trained.parameters, opened.batch)?;
        let sides = read_filters(&opened, &scorer, args.part, 2000, args.share, out)?;
        let names = sides.each_ref().map(|found| -> Vec<String> {
            let matched = match &database {
                Some(database) => matches(found, database, Measure::Pearson, args.seed),
                None => vec![None; found.len()],
            };
            let name = |(filter, matched): (&crate::explain::filters::Filter, &Option<_>)| {
                let known = matched.as_ref().filter(|m: &&crate::explain::similarity::Match| m.q < args.fdr);
                known.map_or(filter.name(), |m| format!("{} {}", filter.name(), m.motif))
            };
            found.iter().zip(&matched).map(name).collect()
        });
        let bar = out.progress(2 * (foreground.len() + background.len()) as u64, "passes");
        let mut tick = |done| {
            bar.set_position(done);
            if watch.interrupted() {
                return Err(Error::Interrupted("nothing was written".into()));
            }
            Ok(())
        };
        let found = interactions::interactions(&scorer, &foreground, &background, &options, &mut tick)?;
        bar.finish_and_clear();
        (found, names)
    });
    let side_of = |block: &str| interactions::BLOCKS.into_iter().find(|b| b.0 == block).expect("a block");
    let name = |side: usize, c: usize| names[side].get(c).cloned().unwrap_or_else(|| format!("{}_{c}", SIDES[side]));
    let mut text = String::from("block\tfirst\tsecond\tforeground\tbackground\tpairs\tdistance\tp\tq\n");
    let mut documents = Vec::new();
    for i in &found {
        let (block, a, b) = side_of(i.block);
        let (first, second) = (name(a, i.first), name(b, i.second));
        let distance = i.distance.map_or("NA".into(), |d| format!("{d:.0}"));
        text += &format!(
            "{block}\t{first}\t{second}\t{:e}\t{:e}\t{}\t{distance}\t{:.3e}\t{:.3e}\n",
            i.foreground, i.background, i.pairs, i.p, i.q
        );
        if documents.len() < 100 {
            documents.push(json!({
                "block": block, "first": first, "second": second, "foreground": i.foreground,
                "background": i.background, "pairs": i.pairs, "distance": i.distance, "p": i.p, "q": i.q,
            }));
        }
    }
    opened.out.write("interactions.tsv", text.as_bytes())?;
    opened.out.write("interactions.svg", interactions::draw(&found, &names, args.fdr).as_bytes())?;
    let significant = found.iter().filter(|i| i.q < args.fdr).count();
    out.line(format!(
        "{} interacting pairs against {}: {} pairs of filters tested, {significant} below a false discovery rate of {}",
        foreground.len(),
        background.len(),
        found.len(),
        args.fdr
    ));
    for d in documents.iter().take(significant.min(10)) {
        let text = |key: &str| d[key].as_str().unwrap_or_default().to_string();
        out.line(format!(
            "  {}: {} with {}, q {:.1e}",
            text("block"),
            text("first"),
            text("second"),
            d["q"].as_f64().unwrap_or(1.0)
        ));
    }
    out.document(&json!({
        "out": opened.out.path(), "foreground": foreground.len(), "background": background.len(),
        "tested": found.len(), "significant": significant, "interactions": documents,
    }));
    Ok(())
}
