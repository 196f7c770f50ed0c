use anyhow::Result;
use serde_json::json;

use super::{RunArgs, digest, stopped};
use crate::backend::Backend;
use crate::cli::Output;
use crate::cli::watch::{Watch, catch_interrupts};
use crate::data::Side;
use crate::error::Error;
use crate::explain::latent::{self, Projection};
use crate::explain::pairs::{SIDES, letter};
use crate::explain::partial::numbers;
use crate::explain::{Partial, Place, Scorer, Windows};
use crate::on_device;
use crate::train::Observer;
use crate::train::session::{Part, Trained};

/// The latent space of an autoencoder
///
/// Writes latent.tsv (principal components of input and code, activations of the logistic layer) and latent.svg for pairs of a
/// part; and for the pairs of --rows a walk along the direction of interaction (latent-traversal.tsv), what it changes in the
/// reconstruction and which input bases drive it (latent-back-projection.tsv), with the agreement with mutagenesis.
#[derive(clap::Args)]
#[command(after_help = "Example: epi-engine explain latent runs/eplae --part test --rows 12,57")]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Pairs that are mapped
    #[arg(long, value_enum, default_value = "test")]
    part: Part,
    /// At most so many of them
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
    /// Rows to walk from and to project back (default: the pair of --part with the highest score)
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    rows: Vec<u32>,
    /// Single-base changes that derivatives are held against
    #[arg(long, value_name = "N", default_value_t = 200)]
    copies: usize,
    /// Seed of these
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn run(args: &Args, out: &Output) -> Result<()> {
    let opened = args.run.open(out)?;
    catch_interrupts();
    let samples = opened.part(args.part)?;
    let n = samples.len().min(args.limit);
    if n < 3 {
        return Err(Error::config("--part", format!("{n} pairs; a map needs at least 3")).into());
    }
    let chosen: Vec<_> = (0..n).map(|i| samples[i * samples.len() / n]).collect();
    let windows: Vec<Windows> = chosen.iter().map(|s| Windows::of(&opened.dataset, s)).collect();
    let watch = Watch::new(out, None);
    let (codes, projections, spread, kept, resumed) = on_device!(&opened.device, backend => {
        let trained = Trained::open(backend, &opened.folder, opened.config.clone())?;
        let scorer = Scorer::new(backend, &trained.model, &trained.parameters, opened.batch)?;
        let bar = out.progress(n as u64, "pairs");
        let rows: Vec<u32> = chosen.iter().map(|s| s.row).collect();
        let key = opened.key(&backend.name(), digest(&json!(rows)).into())?;
        let code = |line: &str| numbers::<f64>(line).filter(|n| n.len() > 2);
        let (mut kept_codes, mut known) = opened.partial("latent-codes", &key, scorer.batch(), code)?;
        known.truncate(n);
        let mut resumed = known.len();
        let codes = latent::codes(&scorer, &windows, Some((&mut kept_codes, known)), &mut |done| {
            bar.set_position(done);
            if watch.interrupted() { Err(stopped(done, n, "codes")) } else { Ok(()) }
        })?;
        bar.finish_and_clear();
        let (axis, _) = latent::direction(&scorer)?;
        let along: Vec<f64> = codes.codes.iter().map(|c| c.iter().zip(&axis).map(|(c, a)| c * a).sum()).collect();
        let mean = along.iter().sum::<f64>() / n as f64;
        let spread = (along.iter().map(|a| (a - mean).powi(2)).sum::<f64>() / (n - 1) as f64).sqrt();
        let mut rows = args.rows.clone();
        if rows.is_empty() {
            let top = (0..n).max_by(|&a, &b| along[a].total_cmp(&along[b])).expect("at least 3");
            rows.push(chosen[top].row);
        }
        let what = json!({"axis": digest(&json!(axis)), "spread": spread, "rows": rows, "copies": args.copies,
            "seed": args.seed});
        let lengths = [Side::Enhancer, Side::Promoter].map(|s| opened.dataset.table().length(s));
        let read = |line: &str| Projection::read(line, lengths);
        let (mut kept, mut known) = opened.partial("latent", &opened.key(&backend.name(), what)?, 1, read)?;
        known.truncate(rows.len());
        resumed += known.len();
        let bar = out.progress(rows.len() as u64, "projections");
        let (total, mut known) = (rows.len(), known.into_iter());
        let mut projections: Vec<(Place, Windows, Projection)> = Vec::new();
        for row in rows {
            bar.set_position(projections.len() as u64);
            if watch.interrupted() {
                return Err(stopped(projections.len() as u64, total, "projections").into());
            }
            let place = Place::of(&opened.dataset, row)?;
            let windows = Windows::of(&opened.dataset, &place.sample);
            let found = match known.next() {
                Some(known) => known,
                None => {
                    let one = std::slice::from_ref(&windows);
                    let code = latent::codes(&scorer, one, None, &mut |_| Ok(()))?.codes.remove(0);
                    let new = latent::project(&scorer, &windows, &code, (&axis, spread), (args.copies, args.seed))?;
                    kept.append([new.line()])?;
                    new
                }
            };
            projections.push((place, windows, found));
        }
        bar.finish_and_clear();
        (codes, projections, spread, [kept_codes, kept], resumed)
    });
    let labels: Vec<u8> = chosen.iter().map(|s| s.label).collect();
    let input = latent::principal_components(n, |i, j| latent::agreeing_bases(&windows[i], &windows[j]));
    let inner = |i: usize, j: usize| codes.codes[i].iter().zip(&codes.codes[j]).map(|(a, b)| a * b).sum();
    let code = latent::principal_components(n, inner);
    let mut text =
        String::from("row\tcell_line\tlabel\tinput_1\tinput_2\tcode_1\tcode_2\tlogit_0\tlogit_1\tlog_odds\n");
    for (i, sample) in chosen.iter().enumerate() {
        let (x, z, [a, b]) = (input.points[i], code.points[i], codes.logits[i]);
        let line = &Place::of(&opened.dataset, sample.row)?.cell_line;
        let (row, label) = (sample.row, sample.label);
        text += &format!("{row}\t{line}\t{label}\t{}\t{}\t{}\t{}\t{a}\t{b}\t{}\n", x[0], x[1], z[0], z[1], b - a);
    }
    opened.out.write("latent.tsv", text.as_bytes())?;
    opened.out.write("latent.svg", latent::draw(&input, &code, &codes, &labels).as_bytes())?;
    let mut walk = String::from("row\tstep\tlog_odds\tenhancer_bases_changed\tpromoter_bases_changed\n");
    let mut back = String::from(
        "row\tside\tindex\tcontig\tposition\tbase\tdriver\treconstruction_A\treconstruction_C\treconstruction_G\treconstruction_T\n",
    );
    let mut documents = Vec::new();
    for (place, windows, found) in &projections {
        for s in &found.steps {
            walk += &format!("{}\t{}\t{}\t{}\t{}\n", place.row, s.step, s.log_odds, s.changed[0], s.changed[1]);
        }
        for (side, codes) in windows.codes.iter().enumerate() {
            for (i, &base) in codes.iter().enumerate() {
                let driver = if base < 4 { found.drivers[side][4 * i + usize::from(base)] } else { 0.0 };
                let change: Vec<String> =
                    found.reconstruction[side][4 * i..4 * i + 4].iter().map(|v| format!("{v:e}")).collect();
                let (at, name) = (place.base(side, i), SIDES[side]);
                back +=
                    &format!("{}\t{name}\t{i}\t{at}\t{}\t{driver:e}\t{}\n", place.row, letter(base), change.join("\t"));
            }
        }
        out.line(format!(
            "row {}: one standard deviation ({spread:.4}) along the direction of interaction; derivatives against {} \
             single-base changes: correlation {}",
            place.row,
            found.copies,
            found.agreement.map_or("NA".into(), |a| format!("{a:.3}"))
        ));
        documents.push(json!({ "row": place.row, "agreement": found.agreement, "copies": found.copies }));
    }
    opened.out.write("latent-traversal.tsv", walk.as_bytes())?;
    opened.out.write("latent-back-projection.tsv", back.as_bytes())?;
    kept.into_iter().try_for_each(Partial::remove)?;
    out.line(format!(
        "{n} pairs: {:.1} % of the input's and {:.1} % of the code's variance along two components",
        100.0 * input.shares.iter().sum::<f64>(),
        100.0 * code.shares.iter().sum::<f64>()
    ));
    out.document(&json!({
        "out": opened.out.path(), "mapped": n, "input_variance": input.shares, "latent_variance": code.shares,
        "standard_deviation": spread, "pairs": documents, "resumed": resumed,
    }));
    Ok(())
}
