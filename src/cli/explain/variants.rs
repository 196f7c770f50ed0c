use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{RunArgs, digest};
use crate::backend::Backend;
use crate::cli::Output;
use crate::cli::watch::{Watch, catch_interrupts};
use crate::data::Genome;
use crate::error::Error;
use crate::explain::Scorer;
use crate::explain::variants::{Sources, score_variants};
use crate::explain::vcf::Vcf;
use crate::on_device;
use crate::train::Observer;
use crate::train::session::{Part, Trained};

/// Score every variant of a VCF in each pair whose windows hold it
///
/// Writes variants.tsv (a line an allele and pair: both scores and their difference) and variants.vcf, the file with
/// EPI_PAIRS, EPI_CHANGE and EPI_ROW in INFO. Each variant is put into the reference sequence alone.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  epi-engine explain variants runs/fold0 --vcf my.vcf.gz
  epi-engine explain variants runs/fold0 --vcf my.vcf.gz --genome hg19.2bit --part all")]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Variants: VCF, plain, gzip or bgzip
    #[arg(long, value_name = "V.vcf[.gz]")]
    vcf: PathBuf,
    /// Genome (.2bit or FASTA) to check reference alleles against and to fill up windows behind deletions; without it the
    /// stored windows and their flanks do
    #[arg(long, value_name = "FILE")]
    genome: Option<PathBuf>,
    /// Pairs to look at
    #[arg(long, value_enum, default_value = "all")]
    part: Part,
}

/// Digest of a file's bytes.
fn contents(path: &Path) -> crate::Result<String> {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 18]);
    let mut file = File::open(path).map_err(Error::io(path))?;
    loop {
        let n = file.read(&mut buffer).map_err(Error::io(path))?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
    }
    Ok(hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect())
}

pub fn run(args: &Args, out: &Output) -> Result<()> {
    let opened = args.run.open(out)?;
    catch_interrupts();
    let mut vcf = Vcf::open(&args.vcf)?;
    let table = opened.dataset.table();
    let wanted: HashSet<String> = table.contigs.iter().cloned().collect();
    let genome = args.genome.as_ref().map(|path| Genome::open(path, Some(&wanted))).transpose()?;
    let rows: Vec<u32> = opened.part(args.part)?.iter().map(|s| s.row).collect();
    let sources = Sources { dataset: &opened.dataset, rows: &rows, genome: genome.as_ref() };
    let files = [opened.out.file("variants.tsv"), opened.out.file("variants.vcf")];
    let watch = Watch::new(out, None);
    let bar = out.progress(0, "records");
    if !bar.is_hidden() {
        bar.set_length(Vcf::count(&args.vcf)?);
    }
    let (counts, resumed) = on_device!(&opened.device, backend => {
        let trained = Trained::open(backend, &opened.folder, opened.config.clone())?;
        let scorer = Scorer::new(backend, &trained.model, &trained.parameters, opened.batch)?;
        let what = json!({
            "vcf": contents(&args.vcf)?, "genome": args.genome, "rows": digest(&json!(rows)),
        });
        let key = opened.key(&backend.name(), what)?;
        let journal = (opened.out.file(".variants.partial"), key);
        score_variants(&scorer, &sources, &mut vcf, (&files[0], &files[1]), (&journal.0, &journal.1), &mut |done| {
            bar.set_position(done);
            match watch.interrupted() {
                true => Err(Error::Interrupted(format!("{done} records are kept; start again to go on"))),
                false => Ok(()),
            }
        })?
    });
    bar.finish_and_clear();
    out.line(format!(
        "{} records: {} outside of all windows, {} with another reference allele, {} symbolic alleles, {} that overlap the \
         record before (each scored alone)",
        counts.records, counts.outside, counts.reference_differs, counts.symbolic, counts.overlapping
    ));
    out.line(format!("{} alleles scored, {} scores in {}", counts.alleles, counts.scored, files[0].display()));
    if counts.reference_differs > 0 {
        out.warn("records with another reference allele were not scored");
    }
    out.document(&json!({ "table": files[0], "vcf": files[1], "counts": counts, "resumed": resumed }));
    Ok(())
}
