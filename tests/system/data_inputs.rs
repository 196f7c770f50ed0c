//! Genomes and pair tables: every form gives the same windows, and everything that is wrong is named with its place.

use std::io::Write;
use std::path::{Path, PathBuf};

use epi_engine::data::pairs::{self, PairsOptions};
use epi_engine::data::prepare::{self, PrepareOptions};
use epi_engine::data::{Contents, Dataset, Genome, Side, fasta, negatives};
use epi_engine::rng::Stream;
use flate2::Compression;
use flate2::write::GzEncoder;

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Blocks as bgzip writes them, with or without the closing empty one.
pub fn bgzip(bytes: &[u8], end: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for block in bytes.chunks(1000).chain(end.then_some(&[][..])) {
        let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), Compression::fast());
        deflate.write_all(block).unwrap();
        let deflated = if block.is_empty() { vec![3, 0] } else { deflate.finish().unwrap() };
        let size = (deflated.len() + 25) as u16;
        out.extend([0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 6, 0, b'B', b'C', 2, 0]);
        out.extend(size.to_le_bytes());
        out.extend(deflated);
        let mut crc = flate2::Crc::new();
        crc.update(block);
        out.extend(crc.sum().to_le_bytes());
        out.extend((block.len() as u32).to_le_bytes());
    }
    out
}

/// Contigs `chr1` (5,000 bases, N at both ends, an R, lower case) and `chr2` (777 bases).
pub fn contigs() -> Vec<(String, String)> {
    let mut random = Stream::new(3, 3, 3);
    let mut bases = |n: usize| {
        (0..n).map(|_| ['A', 'C', 'G', 'T', 'a', 'c', 'g', 't'][random.below(8) as usize]).collect::<String>()
    };
    let chr1 = format!("{}{}R{}{}", "N".repeat(50), bases(2000), bases(2909), "n".repeat(40));
    vec![("chr1".into(), chr1), ("chr2".into(), bases(777))]
}

pub fn as_fasta(contigs: &[(String, String)], width: usize, end: &str) -> String {
    let mut text = String::new();
    for (name, bases) in contigs {
        text += &format!(">{name} a description{end}");
        for line in bases.as_bytes().chunks(width) {
            text += std::str::from_utf8(line).unwrap();
            text += end;
        }
    }
    text
}

/// UCSC .2bit, in either byte order.
pub fn as_two_bit(contigs: &[(String, String)], swap: bool) -> Vec<u8> {
    let word = |n: usize| if swap { (n as u32).to_be_bytes() } else { (n as u32).to_le_bytes() };
    let mut out = Vec::new();
    [0x1A41_2743, 0, contigs.len(), 0].iter().for_each(|n| out.extend(word(*n)));
    let mut at = 16 + contigs.iter().map(|(name, _)| name.len() + 5).sum::<usize>();
    let mut records = Vec::new();
    for (name, bases) in contigs {
        let (mut record, mut blocks) = (Vec::new(), Vec::<(usize, usize)>::new());
        for (i, base) in bases.bytes().enumerate() {
            if fasta::code(base) == Some(4) {
                match blocks.last_mut() {
                    Some((start, length)) if *start + *length == i => *length += 1,
                    _ => blocks.push((i, 1)),
                }
            }
        }
        record.extend(word(bases.len()));
        record.extend(word(blocks.len()));
        blocks.iter().for_each(|(start, _)| record.extend(word(*start)));
        blocks.iter().for_each(|(_, length)| record.extend(word(*length)));
        [1, 10, 20, 0].iter().for_each(|n| record.extend(word(*n))); // one mask block, to be ignored
        for four in bases.as_bytes().chunks(4) {
            let code = |i: usize| match four.get(i).map(u8::to_ascii_uppercase) {
                Some(b'C') => 1,
                Some(b'A') => 2,
                Some(b'G') => 3,
                _ => 0,
            };
            record.push(code(0) << 6 | code(1) << 4 | code(2) << 2 | code(3));
        }
        out.push(name.len() as u8);
        out.extend(name.bytes());
        out.extend(word(at));
        at += record.len();
        records.extend(record);
    }
    out.extend(records);
    out
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

const TABLE: &str = "chrom\tenh_start\tenh_end\tprom_start\tprom_end\tlabel\tcell\tfold\n\
    chr1\t100\t200\t1000\t1100\t1\tA\tx\n\
    chr1\t100\t200\t3000\t3101\t0\tA\ty\n\
    chr2\t20\t30\t600\t700\t0\tB\tx\n";

fn options() -> PrepareOptions {
    PrepareOptions { enhancer_length: 300, promoter_length: 201, flank: 10, max_unknown: 0.9, lenient: false }
}

fn prepare(genome: &Path, pairs: &Path) -> epi_engine::Result<Contents> {
    let pairs = pairs::read(pairs, &PairsOptions::default())?;
    let genome = Genome::open(genome, None)?;
    Ok(prepare::from_genome(pairs, &genome, &options())?.0)
}

#[test]
fn every_form_of_a_genome_gives_the_same_windows() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = write(folder.path(), "pairs.tsv", TABLE);
    let contigs = contigs();
    let short: Vec<_> = contigs.iter().map(|(n, b)| (n.trim_start_matches("chr").to_string(), b.clone())).collect();
    let fasta = as_fasta(&contigs, 60, "\n").into_bytes();
    let forms: Vec<(&str, Vec<u8>)> = vec![
        ("g.fa", fasta.clone()),
        ("crlf.fa", as_fasta(&contigs, 61, "\r\n").into_bytes()),
        ("one-line.fa", as_fasta(&contigs, 100_000, "\n").into_bytes()),
        ("upper.fa", as_fasta(&contigs, 60, "\n").to_uppercase().replace(">CHR", ">chr").into_bytes()),
        ("g.fa.gz", gzip(&fasta)),
        ("g.fa.bgz", bgzip(&fasta, true)),
        ("g.2bit", as_two_bit(&contigs, false)),
        ("swapped.2bit", as_two_bit(&contigs, true)),
        ("g.2bit.gz", gzip(&as_two_bit(&contigs, false))),
    ];
    let mut first: Option<Dataset> = None;
    for (name, bytes) in &forms {
        let dataset = prepare(&write(folder.path(), name, bytes), &pairs).unwrap().into_dataset().unwrap();
        let reference = first.get_or_insert_with(|| dataset.clone());
        assert_eq!(reference.fingerprint(), dataset.fingerprint(), "{name}");
    }
    // Base for base against the text, padding and unknown letters included.
    let dataset = first.unwrap();
    for side in [Side::Enhancer, Side::Promoter] {
        for (i, element) in dataset.table().elements(side).iter().enumerate() {
            let text = contigs[element.contig.unwrap() as usize].1.as_bytes();
            let length = dataset.table().length(side);
            let base =
                |i: i64| usize::try_from(i).ok().and_then(|i| text.get(i)).map_or(4, |b| fasta::code(*b).unwrap());
            let start = element.window_start(length);
            let want: Vec<u8> = (start..start + length as i64).map(base).collect();
            assert_eq!(dataset.codes(side, i as u32), want, "{side:?} {i}");
        }
    }
    // The other naming convention is understood; the data set takes the genome's.
    let path = write(folder.path(), "short.fa", as_fasta(&short, 60, "\n"));
    let other = prepare(&path, &pairs).unwrap();
    assert_eq!(other.pairs.contigs, ["1", "2"]);
}

#[test]
fn every_form_of_a_table_gives_the_same_pairs() {
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str, bytes: &[u8], options: &PairsOptions| {
        let mut table = pairs::read(write(folder.path(), name, bytes), options).unwrap().table;
        table.columns.clear();
        table
    };
    let plain = PairsOptions::default();
    let first = read("a.tsv", TABLE.as_bytes(), &plain);
    assert_eq!(first.rows.len(), 3);
    assert_eq!((first.enhancers.len(), first.promoters.len(), first.cell_lines.len()), (2, 3, 2));
    assert_eq!(first, read("crlf.tsv", TABLE.replace('\n', "\r\n").as_bytes(), &plain));
    assert_eq!(first, read("a.tsv.gz", &gzip(TABLE.as_bytes()), &plain));
    assert_eq!(
        first,
        read(
            "bom.tsv",
            format!("\u{feff}# comment\n{TABLE}").replace("\u{feff}# comment\n", "\u{feff}").as_bytes(),
            &plain
        )
    );
    assert_eq!(first, read("no-end.tsv", TABLE.trim_end().as_bytes(), &plain));
    let targetfinder = "bin,enhancer_chrom,enhancer_distance_to_promoter,enhancer_end,enhancer_name,enhancer_start,label,promoter_chrom,promoter_end,promoter_name,promoter_start,CTCF (enhancer)\n\
        \"(1, 2]\",chr1,800,200,A|chr1:100-200,100,1,chr1,1100,A|chr1:1000-1100,1000,0.5\n\
        \"(1, \"\"2]\",chr1,800,200,A|chr1:100-200,100,0,chr1,3101,A|chr1:3000-3101,3000,0.25\n\
        x,chr2,570,30,B|chr2:20-30,20,0,chr2,700,B|chr2:600-700,600,0\n";
    assert_eq!(first, read("tf.csv", targetfinder.as_bytes(), &plain));
    let bedpe = "chr1\t100\t200\tchr1\t1000\t1100\tA\t1\nchr1\t100\t200\tchr1\t3000\t3101\tA\t0\nchr2\t20\t30\tchr2\t600\t700\tB\t0\n";
    let named = PairsOptions { columns: "cell_line=7".parse().unwrap(), ..plain.clone() };
    assert_eq!(first, read("a.bedpe", bedpe.as_bytes(), &named));
    let header = format!("#chrom1\tstart1\tend1\tchrom2\tstart2\tend2\tcell\tlabel\n{bedpe}");
    assert_eq!(first, read("h.bedpe", header.as_bytes(), &plain));
    let swapped = "chr1\t1000\t1100\tchr1\t100\t200\tA\t1\nchr1\t3000\t3101\tchr1\t100\t200\tA\t0\nchr2\t600\t700\tchr2\t20\t30\tB\t0\n";
    assert_eq!(first, read("s.bedpe", swapped.as_bytes(), &PairsOptions { promoter_first: true, ..named.clone() }));
    let odd = TABLE.replace("chrom\tenh_start", "where\tes").replace("label\tcell", "y\tline");
    let naming = "enhancer_chrom=where,promoter_chrom=where,enhancer_start=es,label=y,cell_line=line".parse().unwrap();
    assert_eq!(first, read("odd.tsv", odd.as_bytes(), &PairsOptions { columns: naming, ..plain.clone() }));
    let numbers = "enhancer_chrom=1,enhancer_start=2,enhancer_end=3,promoter_chrom=1,promoter_start=4,promoter_end=5,label=6,cell_line=7";
    let headless: String = TABLE.split_inclusive('\n').skip(1).collect();
    let numbered = PairsOptions { columns: numbers.parse().unwrap(), ..plain };
    assert_eq!(first, read("headless.txt", headless.as_bytes(), &numbered));
}

#[test]
fn further_columns_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let table = pairs::read(write(folder.path(), "a.tsv", TABLE), &PairsOptions::default()).unwrap().table;
    let fold = &table.columns["fold"];
    assert_eq!((fold.values.clone(), fold.codes.clone()), (vec!["x".to_string(), "y".to_string()], vec![0, 1, 0]));
}

/// Reads a table that must fail; the message.
fn refused(name: &str, bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), name, bytes);
    let message = pairs::read(&path, &PairsOptions::default()).unwrap_err().to_string();
    assert!(message.contains(name), "no file in: {message}");
    message.replace(&folder.path().display().to_string(), "")
}

#[test]
fn bad_tables_are_named_with_file_and_line() {
    let line = |from: &str, to: &str| refused("bad.tsv", TABLE.replacen(from, to, 1).as_bytes());
    for (message, place, says) in [
        (line("3000\t3101", "3101\t3000"), ":3:", "no interval"),
        (line("\t20\t30", "\t-20\t30"), ":4:", "no interval"),
        (line("\t20\t30", "\tx\t30"), ":4:", "not a position"),
        (line("\t20\t30", "\t99999999999999999999\t30"), ":4:", "not a position"),
        (line("1100\t1\tA", "1100\t2\tA"), ":2:", "must be 0 or 1"),
        (line("1100\t1\tA", "1100\t\tA"), ":2:", "must be 0 or 1"),
        (line("\ty\n", "\ty\textra\n"), ":3:", "9 columns"),
        (line("\tlabel", "\tlable"), ":1:", "label"),
        (line("enh_start", "start_of_it"), ":1:", "enhancer_start"),
        (line("3000\t3101", "1000\t1100"), ":3:", "contradicts line 2"),
        (line("chr2\t", "\t"), ":4:", "no chromosome"),
        (refused("empty.tsv", b""), "", "empty"),
        (refused("only-header.tsv", TABLE.lines().next().unwrap().as_bytes()), "", "no pair is left"),
        (refused("cut.tsv.gz", &gzip(TABLE.as_bytes())[..60]), ":", "ends too early"),
        (refused("binary.tsv", &[0xff; 100]), ":1:", "not text"),
        (refused("long.tsv", &[b'a'; 3 << 20]), ":1:", "not a table"),
        (refused("quote.csv", b"label,chrom\n\"1,chr1\n"), ":1:", "enhancer_start"),
    ] {
        assert!(message.contains(place) && message.contains(says), "{message}");
    }
}

#[test]
fn duplicates_are_dropped_and_counted_contradictions_only_if_asked() {
    let folder = tempfile::tempdir().unwrap();
    let doubled = format!("{TABLE}{}", TABLE.lines().nth(1).unwrap());
    let pairs = pairs::read(write(folder.path(), "d.tsv", doubled), &PairsOptions::default()).unwrap();
    assert_eq!((pairs.table.rows.len(), pairs.notes.count("duplicate row, kept once")), (3, 1));
    let contradictory = TABLE.replacen("3000\t3101", "1000\t1100", 1);
    let lenient = PairsOptions { lenient: true, ..PairsOptions::default() };
    let pairs = pairs::read(write(folder.path(), "c.tsv", contradictory), &lenient).unwrap();
    assert_eq!((pairs.table.rows.len(), pairs.table.enhancers.len(), pairs.table.contigs.len()), (1, 1, 1));
}

#[test]
fn bad_genomes_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = write(folder.path(), "pairs.tsv", TABLE);
    let fasta = as_fasta(&contigs(), 60, "\n");
    let two_bit = as_two_bit(&contigs(), false);
    let refused = |name: &str, bytes: &[u8], says: &str| {
        let message = prepare(&write(folder.path(), name, bytes), &pairs).unwrap_err().to_string();
        assert!(message.contains(says), "{name}: {message}");
        message
    };
    refused("empty.fa", b"", "empty");
    refused("bases.fa", b"ACGT\n", "neither .2bit nor FASTA");
    refused("protein.fa", fasta.replacen("\n", "\nMEEP*", 1).as_bytes(), "IUPAC");
    assert!(
        refused("digit.fa", fasta.replacen("ption\n", "ption\nACGT\nAC7\n", 1).as_bytes(), "`7`")
            .contains("digit.fa:3")
    );
    refused("twice.fa", format!("{fasta}>chr1\nA\n").as_bytes(), "second record");
    refused("nameless.fa", b">\nACGT\n", "without a name");
    refused("cut.fa.gz", &gzip(fasta.as_bytes())[..500], "ends too early");
    refused("cut.bgz", &bgzip(fasta.as_bytes(), false), "end block");
    refused("cut.2bit", &two_bit[..two_bit.len() - 1], "ends too early");
    refused("version.2bit", &[&two_bit[..4], &[9], &two_bit[5..]].concat(), "version");
    let mut absurd = two_bit.clone();
    absurd[8..12].fill(0xff);
    refused("absurd.2bit", &absurd, ".2bit");
    refused("other.fa", b">chr7\nACGT\n", "no contig `chr1`");
    let message = refused(
        "short.fa",
        as_fasta(&[("chr1".into(), "ACGT".repeat(200)), contigs()[1].clone()], 60, "\n").as_bytes(),
        "right assembly",
    );
    assert!(message.contains("pairs.tsv:2"), "{message}");
    let all_n = [("chr1".to_string(), "N".repeat(5000)), ("chr2".to_string(), "N".repeat(777))];
    refused("unknown.fa", as_fasta(&all_n, 60, "\n").as_bytes(), "mostly N");
    let both = TABLE.replacen("chr1\t100", "1\t100", 1);
    let path = write(folder.path(), "both.tsv", both);
    let error = prepare(&write(folder.path(), "g.fa", &fasta), &path).unwrap_err().to_string();
    assert!(error.contains("both `1` and `chr1`"), "{error}");
}

#[test]
fn an_assembly_is_checked_against_known_windows() {
    let folder = tempfile::tempdir().unwrap();
    let contigs = contigs();
    let genome = Genome::open(write(folder.path(), "g.fa", as_fasta(&contigs, 60, "\n")), None).unwrap();
    let window = |name: &str, from: usize| (name.to_string(), contigs[0].1[from..from + 60].to_string());
    let good = [window("chr1:100-160", 100), window("chr1:20-80", 20)];
    let path = write(folder.path(), "good.fa", as_fasta(&good, 30, "\n"));
    assert_eq!(prepare::check_assembly(&genome, &path).unwrap(), 2);
    let bad = [window("chr1:100-160", 100), window("chr1:101-161", 100)];
    let path = write(folder.path(), "bad.fa", as_fasta(&bad, 30, "\n"));
    let error = prepare::check_assembly(&genome, &path).unwrap_err().to_string();
    assert!(error.contains("bad.fa:4") && error.contains("1 of 2"), "{error}");
}

#[test]
fn negatives_match_distance_and_keep_away_from_positives() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Stream::new(1, 1, 1);
    let mut text = String::new();
    for _ in 0..300 {
        let (e, d) = (random.below(5_000_000) + 200_000, random.below(100_000) + 10_000);
        let p = if random.below(2) == 0 { e + d } else { e - d };
        text += &format!("chr1\t{e}\t{}\tchr1\t{p}\t{}\n", e + 500, p + 400);
    }
    let path = write(folder.path(), "loops.bedpe", text);
    let options = PairsOptions { label: Some(1), cell_line: Some("A".into()), ..PairsOptions::default() };
    let make = |seed| {
        let mut pairs = pairs::read(&path, &options).unwrap();
        negatives::distance_matched(&mut pairs, 3, 3000, seed).unwrap();
        pairs
    };
    let pairs = make(1);
    let table = &pairs.table;
    assert_eq!(table, &make(1).table);
    assert_ne!(table, &make(2).table);
    let (mut positive, mut negative) = (Vec::new(), Vec::new());
    (0..table.rows.len()).for_each(|r| if table.rows[r].label == 1 { &mut positive } else { &mut negative }.push(r));
    assert!(negative.len() > 2 * positive.len(), "{} of 900", negative.len());
    let mean = |rows: &[usize]| {
        rows.iter().map(|&r| (table.distance(r).unwrap() as f64).ln()).sum::<f64>() / rows.len() as f64
    };
    assert!((mean(&positive) - mean(&negative)).abs() < 0.05);
    for &n in &negative {
        let away = |p: &usize| {
            [Side::Enhancer, Side::Promoter]
                .iter()
                .any(|&s| (table.element(s, n).start - table.element(s, *p).start).abs() >= 3000 - 1)
        };
        assert!(positive.iter().all(away), "row {n} repeats a positive");
    }
}

/// The shared data collection, or `None` (said aloud) where it is not at hand.
pub fn shared(test: &str) -> Option<PathBuf> {
    let root = std::env::var_os("EPI_SHARED").map(PathBuf::from);
    let root = root.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    let found = root.join("data/README.md").exists().then(|| root.join("data"));
    if found.is_none() {
        eprintln!("needs shared data: {test}");
    }
    found
}

#[test]
fn shared_pairs_and_genome_give_the_published_windows() {
    let Some(data) = shared("shared_pairs_and_genome_give_the_published_windows") else { return };
    let mut genome = None;
    for (file, rows) in [("targetfinder_windows.tsv.gz", 10_322), ("bengi_windows.tsv.gz", 12_801)] {
        let path = data.join("pairs").join(file);
        let options = PairsOptions { by_id: true, ..PairsOptions::default() };
        let pairs = pairs::read(&path, &options).unwrap();
        assert_eq!(pairs.table.rows.len(), rows);
        let genome =
            genome.get_or_insert_with(|| Genome::open(data.join("genome/GRCh37_pieces.2bit.gz"), None).unwrap());
        let ids = pairs.ids.clone();
        let (contents, _) = prepare::from_genome(pairs, genome, &PrepareOptions::default()).unwrap();
        let dataset = contents.into_dataset().unwrap();
        for (side, windows) in [(Side::Enhancer, "enhancer_windows_3000"), (Side::Promoter, "promoter_windows_2000")] {
            let mut sequences = std::collections::HashMap::new();
            let mut reader = fasta::Fasta::open(&data.join(format!("seq/{windows}.fa.gz"))).unwrap();
            while let Some((name, _)) = reader.header().unwrap() {
                let mut codes = Vec::new();
                reader.sequence(|piece| codes.extend_from_slice(piece)).unwrap();
                sequences.insert(name, codes);
            }
            let table = dataset.table();
            for (i, element) in table.elements(side).iter().enumerate() {
                let (length, contig) = (table.length(side), &table.contigs[element.contig.unwrap() as usize]);
                let start = element.window_start(length);
                let name = format!("{contig}:{start}-{}", start + length as i64);
                assert_eq!(ids[usize::from(side == Side::Promoter)][i].as_ref(), Some(&name));
                assert_eq!(dataset.codes(side, i as u32), sequences[&name], "{name}");
            }
        }
    }
}
