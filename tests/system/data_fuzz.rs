//! Every parser on damaged, random and absurd input: an error that names the file, or a result; never a panic, and memory
//! within the size of the input.

use std::path::Path;

use epi_engine::data::cut::CutOptions;
use epi_engine::data::format::crc32;
use epi_engine::data::import_hdf5::{Channels, import};
use epi_engine::data::pairs::{self, PairsOptions};
use epi_engine::data::prepare::{self, PrepareOptions};
use epi_engine::data::{Dataset, Genome, Side, meme};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::data_dataset::sample;
use crate::data_inputs::{as_fasta, as_two_bit, bgzip, contigs, gzip};

/// A few cases by default; `PROPTEST_CASES` asks for more.
fn cases(n: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    ProptestConfig { cases: asked.unwrap_or(n), failure_persistence: None, ..ProptestConfig::default() }
}

/// Damage: bytes overwritten, a stretch removed, a stretch doubled.
#[derive(Clone, Debug)]
struct Damage {
    bytes: Vec<(Index, u8)>,
    cut: Option<(Index, u8)>,
    doubled: Option<(Index, u8)>,
}

fn damage() -> impl Strategy<Value = Damage> {
    let place = || proptest::option::of((any::<Index>(), any::<u8>()));
    (proptest::collection::vec((any::<Index>(), any::<u8>()), 0..6), place(), place())
        .prop_map(|(bytes, cut, doubled)| Damage { bytes, cut, doubled })
}

impl Damage {
    fn apply(&self, good: &[u8]) -> Vec<u8> {
        let mut bad = good.to_vec();
        for (at, byte) in self.bytes.iter().filter(|_| !good.is_empty()) {
            bad[at.index(good.len())] = *byte;
        }
        for (place, removes) in [(&self.cut, true), (&self.doubled, false)] {
            let Some((at, n)) = place else { continue };
            let from = at.index(bad.len() + 1);
            let to = (from + usize::from(*n)).min(bad.len());
            if removes {
                bad.drain(from..to);
            } else {
                bad.splice(from..from, bad[from..to].to_vec());
            }
        }
        bad
    }
}

/// Runs `read` on a file of these bytes; an error must name that file.
fn on_file<T>(name: &str, bytes: &[u8], read: impl FnOnce(&Path) -> epi_engine::Result<T>) -> Option<T> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    match read(&path) {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(error.to_string().contains(name), "{error}");
            None
        }
    }
}

/// Reads everything that a data set claims to hold.
fn use_up(dataset: &Dataset) {
    for side in [Side::Enhancer, Side::Promoter] {
        (0..dataset.table().elements(side).len()).for_each(|e| drop(dataset.stored_codes(side, e as u32)));
    }
    (0..dataset.len()).for_each(|row| {
        let _ = (dataset.table().contig(row), dataset.table().distance(row));
    });
}

fn read_pairs(path: &Path, by_id: bool) -> epi_engine::Result<pairs::Pairs> {
    pairs::read(path, &PairsOptions { lenient: true, by_id, ..PairsOptions::default() })
}

const TABLE: &str = "dataset\tlabel\tenh_chrom\tenh_start\tenh_end\tprom_chrom\tprom_start\tprom_end\tenh_win\tprom_win\tfold\n\
    A\t1\tchr1\t100\t200\tchr1\t1000\t1100\tchr1:1-9\tchr1:2-8\tx\nB\t0\tchr2\t20\t30\tchr1\t3000\t3100\tchr2:1-9\tchr1:4-8\ty\n";
const CSV: &str = "bin,enhancer_chrom,enhancer_end,enhancer_name,enhancer_start,label,promoter_chrom,promoter_end,promoter_start\n\
    \"(1, 2]\",chr1,200,A|chr1:100-200,100,1,chr1,1100,1000\n\"a \"\"b\"\"\",chr2,30,B|chr2:20-30,20,0,chr2,700,600\n";
const BEDPE: &str =
    "#comment\nchr1\t100\t200\tchr1\t1000\t1100\tn\t1\t+\t-\nchr2\t20\t30\tchr2\t600\t700\tn\t0\t.\t.\n";

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn damaged_tables(damage in damage(), form in 0..3usize, compressed: bool, by_id: bool) {
        let (name, good) = [("t.tsv", TABLE), ("t.csv", CSV), ("t.bedpe", BEDPE)][form];
        let bytes = if compressed { damage.apply(&gzip(good.as_bytes())) } else { damage.apply(good.as_bytes()) };
        if let Some(pairs) = on_file(name, &bytes, |path| read_pairs(path, by_id)) {
            prop_assert!(epi_engine::data::format::check(&pairs.table).is_ok());
            prop_assert_eq!(pairs.lines.len(), pairs.table.rows.len());
        }
    }

    #[test]
    fn tables_of_random_text(text in "[\t,\n\r\"#|:a-z0-9 .chr-]{0,200}", by_id: bool) {
        on_file("t.tsv", text.as_bytes(), |path| read_pairs(path, by_id));
        on_file("t.bedpe", text.as_bytes(), |path| read_pairs(path, by_id));
    }

    #[test]
    fn damaged_genomes(damage in damage(), form in 0..5usize) {
        let fasta = as_fasta(&contigs(), 60, "\n").into_bytes();
        let two_bit = as_two_bit(&contigs(), false);
        let good = [fasta.clone(), gzip(&fasta), bgzip(&fasta, true), two_bit.clone(), gzip(&two_bit)][form].clone();
        let genome = on_file("g.any", &damage.apply(&good), |path| {
            let genome = Genome::open(path, None)?;
            let pairs = path.with_file_name("pairs.tsv");
            std::fs::write(&pairs, TABLE).unwrap();
            let options = PrepareOptions { lenient: true, enhancer_length: 300, promoter_length: 200, ..PrepareOptions::default() };
            // Rows that a damaged genome does not hold are an error of the table; that is fine here.
            let _ = prepare::from_genome(read_pairs(&pairs, false)?, &genome, &options);
            Ok(genome)
        });
        if let Some(genome) = genome {
            let mut codes = [0; 64];
            genome.fetch(0, -10, &mut codes);
            genome.fetch(0, genome.length(0) as i64 - 10, &mut codes);
            genome.fetch(0, i64::MAX - 3, &mut codes);
        }
    }

    #[test]
    fn absurd_two_bit_headers(words in proptest::collection::vec(any::<u32>(), 3), at in any::<Index>()) {
        let mut bytes = as_two_bit(&contigs(), false);
        for (i, word) in words.iter().enumerate() {
            let at = (at.index(60) + 4 * i).max(4).min(bytes.len() - 4);
            bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        on_file("g.2bit", &bytes, |path| Genome::open(path, None));
    }

    #[test]
    fn damaged_data_sets(damage in damage()) {
        let mut good = Vec::new();
        on_file("x.epi", b"", |path| {
            sample(5, 3).0.write(path)?;
            good = std::fs::read(path).unwrap();
            Ok(())
        });
        on_file("x.epi", &damage.apply(&good), |path| Dataset::open(path).map(|d| { let _ = d.verify(); use_up(&d) }));
    }

    /// Checksums are made right again, so that what lies behind them is reached.
    #[test]
    fn data_sets_that_lie(damage in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..5), header: bool, count in any::<u64>()) {
        let mut bytes = Vec::new();
        on_file("x.epi", b"", |path| {
            sample(5, 3).0.write(path)?;
            bytes = std::fs::read(path).unwrap();
            Ok(())
        });
        let tables = u64::from_le_bytes(bytes[120..128].try_into().unwrap()) as usize;
        if header {
            let field = 24 + 8 * damage[0].0.index(15);
            bytes[field..field + 8].copy_from_slice(&count.to_le_bytes());
        } else {
            damage.iter().for_each(|(at, byte)| bytes[256 + at.index(tables)] = *byte);
            let crc = crc32(&bytes[256..256 + tables]);
            bytes[36..40].copy_from_slice(&crc.to_le_bytes());
        }
        let crc = crc32(&bytes[16..256]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        on_file("x.epi", &bytes, |path| Dataset::open(path).map(|d| use_up(&d)));
    }

    #[test]
    fn damaged_motifs(damage in damage(), text in "[A-Za-z0-9=. \n-]{0,80}") {
        let good = include_str!("../../examples/data/motifs.meme");
        on_file("m.meme", &damage.apply(good.as_bytes()), meme::read);
        on_file("m.meme", format!("MOTIF x\nletter-probability matrix: {text}").as_bytes(), meme::read);
    }

    #[test]
    fn damaged_hdf5(damage in damage(), form in 0..3usize) {
        let name = ["chunked-gzip-f8", "latest-gzip-u1", "bool"][form];
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        let good = std::fs::read(folder.join(format!("speid-{name}.h5"))).unwrap();
        on_file("x.h5", &damage.apply(&good), |path| {
            let (contents, _) = import(path, "K562", None, Channels::default(), CutOptions::default(), |_, _| {})?;
            contents.into_dataset().map(|d| use_up(&d))
        });
    }
}
