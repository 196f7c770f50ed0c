use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use super::{Opened, RunArgs};
use crate::backend::Backend;
use crate::cli::Output;
use crate::data::Side;
use crate::data::meme;
use crate::error::Error;
use crate::explain::Scorer;
use crate::explain::filters::{self, Filter, Reading, matches, readings};
use crate::explain::pairs::SIDES;
use crate::explain::similarity::{Match, Measure};
use crate::on_device;
use crate::train::session::{Part, Trained};

/// Convolution filters as motifs
///
/// A filter's motif is made of the stretches that activate it to at least --share of its maximum over the windows. Writes
/// filters.tsv, one MEME file and one page of logos a side; the MEME files are what Tomtom takes. With --motifs also
/// motifs.tsv: the known motifs that filters resemble, those that most filters read first.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  epi-engine explain filters runs/fold0
  epi-engine explain filters runs/fold0 --motifs JASPAR.meme --limit 5000")]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Pairs whose windows are read
    #[arg(long, value_enum, default_value = "test")]
    part: Part,
    /// Windows of each side that are read
    #[arg(long, value_name = "N", default_value_t = 2000)]
    limit: usize,
    /// Share of a filter's highest activation that makes a hit
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    share: f32,
    /// Known motifs to compare with (MEME)
    #[arg(long, value_name = "DB.meme")]
    motifs: Option<PathBuf>,
    /// How columns are compared
    #[arg(long, value_enum, default_value = "pearson")]
    measure: Measure,
    /// False discovery rate below which a match is called
    #[arg(long, default_value_t = 0.05)]
    fdr: f64,
    /// Seed of the shuffled motifs
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// The filters of both sides over at most `limit` windows each.
pub fn read_filters<B: Backend>(
    opened: &Opened,
    scorer: &Scorer<'_, B>,
    part: Part,
    limit: usize,
    share: f32,
    out: &Output,
) -> Result<[Vec<Filter>; 2]> {
    if !(0.0..=1.0).contains(&share) || share == 0.0 {
        return Err(Error::config("--share", format!("{share} is no share between 0 and 1")).into());
    }
    let samples = opened.part(part)?;
    let mut sides = Vec::new();
    for (side, s) in [Side::Enhancer, Side::Promoter].into_iter().enumerate() {
        let mut elements: Vec<u32> = samples.iter().map(|x| x.element(s)).collect();
        elements.sort_unstable();
        elements.dedup();
        // Evenly over the part, not the first ones.
        let n = elements.len().min(limit.max(1));
        let elements: Vec<u32> = (0..n).map(|i| elements[i * elements.len() / n]).collect();
        let bar = out.progress(2 * elements.len() as u64, "windows");
        bar.set_message(SIDES[side]);
        let mut tick = |done| bar.set_position(done);
        sides.push(filters::filters(scorer, &opened.dataset, side, &elements, share, &mut tick)?);
        bar.finish_and_clear();
    }
    let [promoter, enhancer] = [sides.pop(), sides.pop()].map(|s| s.expect("two sides"));
    Ok([enhancer, promoter])
}

pub fn run(args: &Args, out: &Output) -> Result<()> {
    let opened = args.run.open(out)?;
    let database = args.motifs.as_ref().map(|path| meme::read(path)).transpose()?;
    let sides = on_device!(&opened.device, backend => {
        let trained = Trained::open(backend, &opened.folder, opened.config.clone())?;
        let scorer = Scorer::of_windows(backend, &trained.model, &trained.parameters, opened.batch)?;
        read_filters(&opened, &scorer, args.part, args.limit, args.share, out)?
    });
    let mut text = String::from(
        "filter\tmaximum\thits\twindows\tinformation\tconsensus\tmotif\tscore\toffset\toverlap\treverse\tp\tq\n",
    );
    let (mut documents, mut known) = (Vec::new(), Vec::new());
    for (side, found) in sides.iter().enumerate() {
        let matched = match &database {
            Some(database) => matches(found, database, args.measure, args.seed),
            None => vec![None; found.len()],
        };
        let called = |m: &Option<Match>| m.as_ref().filter(|m| m.q < args.fdr).map(|m| m.motif.clone());
        for (filter, matched) in found.iter().zip(&matched) {
            let bits: f64 = if filter.hits > 0 { filter.information().iter().sum() } else { 0.0 };
            let consensus = crate::explain::pairs::letters(&filter.motif().consensus());
            let best = matched.as_ref().map_or("\t\t\t\t\t\t".into(), |m| {
                format!(
                    "{}\t{:.4}\t{}\t{}\t{}\t{:.3e}\t{:.3e}",
                    m.motif, m.score, m.offset, m.overlap, m.reverse, m.p, m.q
                )
            });
            let (name, hits, windows) = (filter.name(), filter.hits, filter.windows);
            text += &format!("{name}\t{}\t{hits}\t{windows}\t{bits:.3}\t{consensus}\t{best}\n", filter.maximum);
            documents.push(json!({
                "filter": name, "maximum": filter.maximum, "hits": hits, "windows": windows, "information": bits,
                "consensus": consensus, "match": matched,
            }));
        }
        opened.out.write(&format!("filters-{}.meme", SIDES[side]), filters::meme(found).as_bytes())?;
        let labels: Vec<String> = matched.iter().map(|m| called(m).unwrap_or_default()).collect();
        opened.out.write(&format!("filters-{}.svg", SIDES[side]), filters::draw(found, &labels).as_bytes())?;
        let speaking = found.iter().filter(|f| f.hits > 0).count();
        let resembling = labels.iter().filter(|l| !l.is_empty()).count();
        let note = if database.is_some() { format!(", {resembling} resemble a known motif") } else { String::new() };
        out.line(format!("{}: {} filters, {speaking} with hits{note}", SIDES[side], found.len()));
        let read = readings(found, &matched, args.fdr);
        for r in read.iter().take(5) {
            let (motif, filters, best) = (&r.motif, r.filters.len(), found[r.filters[0]].name());
            out.line(format!("  {motif}: {filters} filters, first {best}, q {:.1e}", r.q));
        }
        known.extend(read);
    }
    opened.out.write("filters.tsv", text.as_bytes())?;
    if database.is_some() {
        opened.out.write("motifs.tsv", table(&known).as_bytes())?;
    }
    out.document(&json!({ "out": opened.out.path(), "filters": documents, "motifs": known }));
    Ok(())
}

/// Known motifs, a line each.
fn table(known: &[Reading]) -> String {
    let mut text = String::from("side\tmotif\tfilters\thits\tq\tfilter_numbers\n");
    for r in known {
        let numbers: Vec<String> = r.filters.iter().map(usize::to_string).collect();
        let (side, motif, n, numbers) = (SIDES[r.side], &r.motif, r.filters.len(), numbers.join(","));
        text += &format!("{side}\t{motif}\t{n}\t{}\t{:.3e}\t{numbers}\n", r.hits, r.q);
    }
    text
}
