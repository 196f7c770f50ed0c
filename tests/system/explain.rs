//! `explain`: what the commands write, that they resume, and what they refuse.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use epi_engine::backend::cpu::Cpu;
use epi_engine::data::meme;
use epi_engine::explain::npz::Npz;
use epi_engine::rng::Stream;
use predicates::prelude::*;
use predicates::str::contains;

use crate::support::{LENGTHS, TINY, program, tiny_file, train, train_tiny};

/// A run of a tiny model, trained for a moment.
struct Run {
    _folder: tempfile::TempDir,
    path: PathBuf,
    data: PathBuf,
}

fn run_with(settings: &[&str]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let (data, path) = (tiny_file(folder.path(), 160), folder.path().join("run"));
    train(&data, &path, &[&["train.epochs=1"], settings].concat()).assert().success();
    Run { _folder: folder, path, data }
}

fn explain(run: &Run, command: &str, args: &[&str]) -> serde_json::Value {
    let path = run.path.to_str().unwrap();
    let args = [&["explain", command, path, "--device", "cpu", "--json"], args].concat();
    let out = program(&args).assert().success().get_output().stdout.clone();
    serde_json::from_slice(&out).unwrap()
}

fn text(run: &Run, name: &str) -> String {
    let path = run.path.join("explain").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Rows of a table as fields, without its head.
fn rows(table: &str) -> Vec<Vec<&str>> {
    table.lines().skip(1).map(|l| l.split('\t').collect()).collect()
}

#[test]
fn attributions_are_complete_and_written_three_ways() {
    let run = run_with(&[]);
    for extra in
        [&["--baseline", "zeros"][..], &["--baseline", "uniform"], &["--baseline", "shuffle", "--shuffles", "3"]]
    {
        let found = explain(&run, "attributions", &[&["--rows", "3,8", "--steps", "400"], extra].concat());
        for pair in found["pairs"].as_array().unwrap() {
            let (sum, difference) = (pair["sum"].as_f64().unwrap(), pair["difference"].as_f64().unwrap());
            assert!((sum - difference).abs() < 0.02 * difference.abs() + 1e-3, "{pair}");
        }
    }
    let table = text(&run, "attributions.tsv");
    assert_eq!(rows(&table).len(), 2 * (LENGTHS[0] + LENGTHS[1]));
    let sum: f64 = rows(&table).iter().filter(|r| r[0] == "3").map(|r| r[6].parse::<f64>().unwrap()).sum();
    assert!(sum.is_finite() && table.contains("enhancer\t0\tchr"), "{sum}");
    for row in [3, 8] {
        assert!(text(&run, &format!("attributions-row{row}.svg")).ends_with("</svg>\n"));
    }
    let names = archive(&run.path.join("explain/attributions.npz"));
    assert_eq!(names[0], ("row3_enhancer.npy".to_string(), 4 * 4 * LENGTHS[0]));
    assert_eq!(names.len(), 4);
}

/// Names and sizes of the arrays of an archive, headers checked.
fn archive(path: &Path) -> Vec<(String, usize)> {
    let mut zip = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
    let count = zip.len();
    let one = |i: usize| {
        let mut file = zip.by_index(i).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes[..6], *b"\x93NUMPY");
        let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        assert_eq!((10 + header) % 64, 0);
        (file.name().unwrap().to_string(), bytes.len() - 10 - header)
    };
    (0..count).map(one).collect()
}

#[test]
fn an_archive_appears_only_when_it_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npz");
    let mut npz = Npz::create(&path).unwrap();
    npz.add("x", &[2, 3], &[1.0; 6]).unwrap();
    drop(npz);
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "an abandoned archive leaves nothing");
    let mut npz = Npz::create(&path).unwrap();
    npz.add_bytes("codes", &[3], &[0, 1, 2]).unwrap();
    npz.finish().unwrap();
    assert_eq!(archive(&path), [("codes.npy".to_string(), 3)]);
}

#[test]
fn mutagenesis_covers_everything_agrees_with_the_slow_way_and_resumes() {
    let run = run_with(&[]);
    let args = ["--rows", "5", "--windows", "10", "--step", "20", "--deletions", "2", "--batch", "16"];
    let found = explain(&run, "mutate", &args);
    let whole = text(&run, "mutate-row5.tsv");
    let (all, copies) = (rows(&whole), found["pairs"][0]["copies"].as_u64().unwrap() as usize);
    assert_eq!(all.len(), copies);
    let of = |kind: &str| all.iter().filter(|r| r[1] == kind).count();
    assert_eq!((of("base"), of("window"), of("deletion")), (3 * 160, 5 + 4, 45 + 35));
    // Every copy in full, one at a time.
    explain(&run, "mutate", &[&args[..8], &["--exact", "--batch", "1"]].concat());
    let exact = text(&run, "mutate-row5.tsv");
    for (a, b) in all.iter().zip(rows(&exact)) {
        let [x, y] = [a[9], b[9]].map(|v| v.parse::<f64>().unwrap());
        assert!(a[..9] == b[..9] && (x - y).abs() < 1e-4, "{a:?} {b:?}");
    }
    assert!(text(&run, "mutate-row5.svg").contains("<path"));
    assert_eq!(archive(&run.path.join("explain/mutate.npz"))[0], ("row5_enhancer_change.npy".into(), 16 * LENGTHS[0]));
    // Goes on behind what a stopped run has left, and begins anew when that belongs to something else.
    let partial = run.path.join("explain/.mutate-row5.partial");
    assert!(!partial.exists(), "the scores under way are removed at the end");
    for (key, resumed) in [(true, 32), (false, 0)] {
        let key = if key { key_of(&run, &args) } else { "something else".into() };
        let lines: String = all.iter().take(32).map(|r| format!("{}\t{}\n", r[9], r[10])).collect();
        std::fs::write(&partial, format!("{key}\n{lines}0.5\t0.")).unwrap();
        let found = explain(&run, "mutate", &args);
        assert_eq!(found["pairs"][0]["resumed"], resumed);
        assert_eq!(text(&run, "mutate-row5.tsv"), whole, "a resumed run writes what an unbroken one does");
    }
}

/// The first line of the scores under way: what a run that cannot write its table leaves behind.
fn key_of(run: &Run, args: &[&str]) -> String {
    let folder = run.path.join("explain");
    let table = folder.join("mutate-row5.tsv");
    std::fs::remove_file(&table).unwrap();
    std::fs::create_dir(&table).unwrap();
    std::fs::write(table.join("in the way"), "").unwrap();
    let path = run.path.to_str().unwrap();
    program(&["explain", "mutate", path, "--device", "cpu"]).args(args).assert().failure();
    std::fs::remove_dir_all(&table).unwrap();
    let left = std::fs::read_to_string(folder.join(".mutate-row5.partial")).unwrap();
    left.lines().next().unwrap().to_string()
}

#[test]
fn knocking_a_motif_out_is_reported_for_the_part() {
    let run = run_with(&[]);
    let motifs = run.path.join("m.meme");
    let mut out = std::fs::File::create(&motifs).unwrap();
    let mut random = Stream::new(1, 1, 0);
    writeln!(out, "MEME version 4\n\nMOTIF planted\nletter-probability matrix: alength= 4 w= 12").unwrap();
    for code in [0, 2, 2, 1, 3, 0, 3, 1, 2, 0, 1, 1] {
        let row = (0..4).map(|a| if a == code { "0.97" } else { "0.01" });
        writeln!(out, "{}", row.collect::<Vec<_>>().join(" ")).unwrap();
    }
    writeln!(out, "MOTIF absent\nletter-probability matrix: alength= 4 w= 30").unwrap();
    for _ in 0..30 {
        let code = random.below(4);
        let row = (0..4).map(|a| if a == code { "0.97" } else { "0.01" });
        writeln!(out, "{}", row.collect::<Vec<_>>().join(" ")).unwrap();
    }
    drop(out);
    let args = ["--knockouts", motifs.to_str().unwrap(), "--part", "all", "--hit-p", "1e-6"];
    let found = explain(&run, "mutate", &args);
    let of = |name: &str| found["knockouts"].as_array().unwrap().iter().find(|k| k["motif"] == name).unwrap().clone();
    let positives = 56;
    assert_eq!(of("planted")["pairs"], positives, "{found}");
    assert_eq!(of("absent")["hits"], 0);
    assert_eq!(of("absent")["aupr_change"], 0.0);
    assert!(text(&run, "knockouts.tsv").lines().count() == 3);
}

#[test]
fn variants_are_placed_checked_scored_and_written_back() {
    let run = run_with(&[]);
    let dataset = epi_engine::data::Dataset::open(&run.data).unwrap();
    let table = dataset.table();
    // Row 0 lies on chr1; its enhancer window begins here.
    let start = table.enhancers[0].window_start(LENGTHS[0]);
    let codes = dataset.codes(epi_engine::data::Side::Enhancer, 0);
    let base = |i: usize| b"ACGT"[usize::from(codes[i])] as char;
    let other = |i: usize| b"ACGT"[usize::from((codes[i] + 1) % 4)] as char;
    let third = |i: usize| b"ACGT"[usize::from((codes[i] + 2) % 4)] as char;
    let position = |i: usize| start + i as i64 + 1;
    let path = run.path.join("v.vcf");
    let two: String = [base(30), base(31)].iter().collect();
    let text_in = format!(
        "##fileformat=VCFv4.2\n##contig=<ID=chr1>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n\
         chr1\t{}\tsnv\t{}\t{}\t.\t.\tDP=3\n\
         1\t{}\tmulti\t{}\t{},{},<DEL>\t.\t.\t.\n\
         chr1\t{}\tdeletion\t{two}\t{}\t.\t.\t.\n\
         chr1\t{}\twrong\t{}\t{}\t.\t.\t.\n\
         chr1\t{}\tinsertion\t{}\t{}ACGTA\t.\t.\t.\n\
         chr9\t5\toutside\tA\tC\t.\t.\t.\n",
        position(10),
        base(10),
        other(10),
        position(20),
        base(20),
        other(20),
        third(20),
        position(30),
        base(30),
        position(31),
        other(31),
        third(31),
        position(50),
        base(50),
        base(50),
    );
    std::fs::write(&path, &text_in).unwrap();
    let found = explain(&run, "variants", &["--vcf", path.to_str().unwrap()]);
    // Compressed in blocks, as bgzip does: the same.
    let (plain, packed) = (text(&run, "variants.tsv"), run.path.join("v.vcf.bgz"));
    std::fs::write(&packed, bgzip(text_in.as_bytes())).unwrap();
    explain(&run, "variants", &["--vcf", packed.to_str().unwrap()]);
    assert_eq!(text(&run, "variants.tsv"), plain);
    let counts = &found["counts"];
    for (key, expected) in
        [("records", 6), ("outside", 1), ("reference_differs", 1), ("symbolic", 1), ("overlapping", 1), ("alleles", 5)]
    {
        assert_eq!(counts[key], expected, "{key}: {counts}");
    }
    // Enhancer and promoter windows of a row lie over each other in this set: both hold the variants.
    let out = text(&run, "variants.tsv");
    let scored = rows(&out);
    assert_eq!(scored.len() as u64, counts["scored"].as_u64().unwrap());
    assert!(scored.iter().all(|r| r[5] == "0"), "{out}");
    // A single-base variant is what mutagenesis makes of that base.
    explain(&run, "mutate", &["--rows", "0", "--exact"]);
    let mutated = text(&run, "mutate-row0.tsv");
    let same = rows(&mutated);
    let change = |r: &[&str], i: usize| r[i].parse::<f64>().unwrap();
    let snv = scored.iter().find(|r| r[2] == "snv" && r[8] == "enhancer").unwrap();
    let twin = same.iter().find(|r| r[1] == "base" && r[2] == "enhancer" && r[3] == "10" && r[8] == snv[4]).unwrap();
    assert!((change(snv, 14) - change(twin, 11)).abs() < 1e-4, "{snv:?} {twin:?}");
    let annotated = text(&run, "variants.vcf");
    let line = |id: &str| annotated.lines().find(|l| l.contains(&format!("\t{id}\t"))).unwrap().to_string();
    assert!(line("snv").contains("DP=3;EPI_PAIRS=1;EPI_CHANGE="), "{annotated}");
    let multi = line("multi");
    let changes = multi.split("EPI_CHANGE=").nth(1).unwrap().split(';').next().unwrap();
    assert!(changes.split(',').count() == 3 && changes.ends_with(",."), "{multi}");
    assert!(line("outside").ends_with("\t.") && line("wrong").ends_with("\t."));
    assert!(annotated.contains("##INFO=<ID=EPI_CHANGE,Number=A"));
}

/// Blocks of 100 bytes and the empty one that ends a bgzip file.
fn bgzip(bytes: &[u8]) -> Vec<u8> {
    let block = |part: &[u8]| {
        let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        deflate.write_all(part).unwrap();
        let (data, mut sum) = (deflate.finish().unwrap(), flate2::Crc::new());
        sum.update(part);
        let size = (data.len() + 26 - 1) as u16;
        let mut out = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 6, 0, b'B', b'C', 2, 0];
        out.extend(size.to_le_bytes());
        out.extend(data);
        out.extend(sum.sum().to_le_bytes());
        out.extend((part.len() as u32).to_le_bytes());
        out
    };
    bytes.chunks(100).chain([&[][..]]).flat_map(block).collect()
}

/// Runs a command to its end, then again as if it had been killed after `keep` kept results: it goes on there, says so, and
/// writes the same bytes. `outputs[0]` is written last but for other tables; `partials` are its hidden files.
fn goes_on(run: &Run, args: &[&str], outputs: &[&str], partials: &[(&str, usize)], resumed: usize) {
    let folder = run.path.join("explain");
    let read = |name: &&str| std::fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let (command, rest) = args.split_first().unwrap();
    assert_eq!(explain(run, command, rest)["resumed"], 0);
    let whole: Vec<Vec<u8>> = outputs.iter().map(read).collect();
    // A folder in the place of a result makes a run fail at its very end, with everything kept.
    let table = folder.join(outputs[0]);
    std::fs::remove_file(&table).unwrap();
    std::fs::create_dir(&table).unwrap();
    std::fs::write(table.join("in the way"), "").unwrap();
    let path = run.path.to_str().unwrap();
    program(&[&["explain", command, path, "--device", "cpu"], rest].concat()).assert().failure();
    std::fs::remove_dir_all(&table).unwrap();
    for (name, keep) in partials {
        let path = folder.join(format!(".{name}.partial"));
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() > keep + 1, "{name} keeps {} results", lines.len() - 1);
        lines.truncate(keep + 1);
        std::fs::write(&path, lines.join("\n") + "\n0.25\t0.").unwrap();
    }
    assert_eq!(explain(run, command, rest)["resumed"], resumed, "{command}");
    for (name, before) in outputs.iter().zip(&whole) {
        assert!(read(name) == *before, "{name}: a resumed run writes what an unbroken one does");
    }
    let hidden = |e: &std::fs::DirEntry| e.file_name().to_string_lossy().starts_with('.');
    let left: Vec<_> = folder.read_dir().unwrap().map(Result::unwrap).filter(hidden).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn whatever_takes_long_goes_on_where_it_was_stopped() {
    let run = run_with(&[]);
    let args = ["attributions", "--rows", "3,8,5", "--steps", "20", "--baseline", "shuffle", "--shuffles", "2"];
    goes_on(&run, &args, &["attributions.tsv", "attributions.npz"], &[("attributions", 2)], 2);
    let motifs = run.path.join("m.meme");
    std::fs::write(&motifs, include_str!("../../examples/data/motifs.meme")).unwrap();
    let motifs = motifs.to_str().unwrap();
    let args = ["interactions", "--part", "all", "--limit", "30", "--rate", "0.1", "--motifs", motifs, "--fdr", "1.1"];
    goes_on(&run, &args, &["interactions.tsv", "interactions-motifs.tsv"], &[("interactions", 41)], 41);
    let args = ["mutate", "--knockouts", motifs, "--part", "all", "--hit-p", "1e-2"];
    goes_on(&run, &args, &["knockouts.tsv"], &[("knockouts-before", 100), ("knockouts", 3)], 3);
    let dataset = epi_engine::data::Dataset::open(&run.data).unwrap();
    let mut text = String::from("##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n");
    for i in 0..600u32 {
        // Rows 0, 8, 16, … lie on chr1, 5000 bases apart.
        let row = 8 * (i / 60);
        let start = dataset.table().enhancers[row as usize].window_start(LENGTHS[0]);
        let code = dataset.codes(epi_engine::data::Side::Enhancer, row)[i as usize % 60];
        let letter = |add: u8| b"ACGT"[usize::from((code + add) % 4)] as char;
        text += &format!("chr1\t{}\tv{i}\t{}\t{}\t.\t.\t.\n", start + i64::from(i % 60) + 1, letter(0), letter(1));
    }
    let vcf = run.path.join("v.vcf");
    std::fs::write(&vcf, text).unwrap();
    let args = ["variants", "--vcf", vcf.to_str().unwrap()];
    goes_on(&run, &args, &["variants.tsv", "variants.vcf"], &[("variants", 1)], 256);
    let tiny = TINY.iter().find(|t| t.preset == "eplae").unwrap();
    let path = run.path.with_file_name("eplae");
    train_tiny(tiny, &run.data, &path, &[]).assert().success();
    let eplae = Run { path, data: run.data.clone(), ..run };
    let args = ["latent", "--part", "all", "--rows", "1,2", "--copies", "20", "--batch", "50"];
    let outputs = ["latent.tsv", "latent-traversal.tsv", "latent-back-projection.tsv"];
    goes_on(&eplae, &args, &outputs, &[("latent-codes", 120), ("latent", 1)], 100 + 1);
}

#[test]
fn every_command_says_the_same_on_every_device() {
    let run = run_with(&[]);
    let path = run.path.to_str().unwrap();
    let dataset = epi_engine::data::Dataset::open(&run.data).unwrap();
    let start = dataset.table().enhancers[0].window_start(LENGTHS[0]);
    let base = |i: usize| b"ACGT"[usize::from(dataset.codes(epi_engine::data::Side::Enhancer, 0)[i])] as char;
    let vcf = run.path.join("v.vcf");
    let records = format!("chr1\t{}\ta\t{}\t{}TG\t.\t.\t.\n", start + 21, base(20), base(20));
    let head = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n";
    std::fs::write(&vcf, format!("{head}{records}")).unwrap();
    // Commands with their tables, the column that names a line and those that are numbers.
    let commands: [(&[&str], &str, &[usize]); 6] = [
        (&["attributions", "--rows", "3", "--steps", "8"], "attributions.tsv", &[6]),
        (&["mutate", "--rows", "3", "--no-bases", "--windows", "9", "--step", "8"], "mutate-row3.tsv", &[9, 11]),
        (&["variants", "--vcf", vcf.to_str().unwrap()], "variants.tsv", &[12, 13, 14]),
        (&["filters", "--part", "test"], "filters.tsv", &[1, 2, 3]),
        (&["attention", "--rows", "3"], "attention.tsv", &[7, 8]),
        (&["interactions", "--part", "all", "--limit", "8", "--rate", "0.2"], "interactions.tsv", &[]),
    ];
    let mut devices = vec!["reference"];
    devices.extend(epi_engine::backend::cuda::device::EMULATOR.then_some("emulator"));
    for (args, table, numbers) in commands {
        let on = |device: &str| {
            let out = run.path.join(device);
            let args = [&["explain", args[0], path], &args[1..], &["--out", out.to_str().unwrap()]].concat();
            program(&[&args[..], &["--device", device]].concat()).assert().success();
            std::fs::read_to_string(out.join(table)).unwrap()
        };
        let expected = on("cpu");
        for device in &devices {
            let found = on(device);
            assert_eq!(rows(&found).len(), rows(&expected).len(), "{table} on {device}");
            for (a, b) in rows(&expected).iter().zip(rows(&found)) {
                for &column in numbers {
                    let [x, y] = [a[column], b[column]].map(|v| v.parse::<f64>().unwrap());
                    assert!((x - y).abs() < 2e-5 * x.abs().max(1.0), "{table} on {device}: {a:?} {b:?}");
                }
            }
        }
    }
}

#[test]
fn another_assembly_and_broken_files_are_refused_by_line() {
    let run = run_with(&[]);
    let path = run.path.join("v.vcf");
    let dataset = epi_engine::data::Dataset::open(&run.data).unwrap();
    let start = dataset.table().enhancers[0].window_start(LENGTHS[0]);
    let codes = dataset.codes(epi_engine::data::Side::Enhancer, 0);
    let head = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n";
    let wrong = (0..40).map(|i| {
        let letter = |add: u8| b"ACGT"[usize::from((codes[i] + add) % 4)] as char;
        format!("chr1\t{}\t.\t{}\t{}\t.\t.\t.\n", start + i as i64 + 1, letter(1), letter(2))
    });
    for (content, words) in [
        (format!("{head}{}", wrong.collect::<String>()), vec!["another assembly", "v.vcf"]),
        (format!("{head}chr1\tten\t.\tA\tC\t.\t.\t.\n"), vec!["v.vcf:3", "POS"]),
        (format!("{head}chr1\t10\t.\tA\n"), vec!["v.vcf:3", "columns"]),
        ("chr1\t10\t.\tA\tC\n".into(), vec!["fileformat"]),
        (format!("{head}chr1\t10\t.\t<X>\tC\t.\t.\t.\n"), vec!["v.vcf:3", "REF"]),
    ] {
        std::fs::write(&path, content).unwrap();
        let args =
            ["explain", "variants", run.path.to_str().unwrap(), "--vcf", path.to_str().unwrap(), "--device", "cpu"];
        let out = program(&args).assert().code(1).get_output().clone();
        let said = String::from_utf8_lossy(&out.stderr).to_string();
        assert!(words.iter().all(|w| said.contains(w)), "{said}");
        let left: Vec<_> = run.path.join("explain").read_dir().unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn filters_become_motifs_that_come_back_as_they_were_written() {
    let run = run_with(&[]);
    let found = explain(&run, "filters", &["--part", "all"]);
    let speaking = found["filters"].as_array().unwrap().iter().filter(|f| f["hits"].as_u64() > Some(0)).count();
    let read = ["enhancer", "promoter"].map(|side| {
        let path = run.path.join(format!("explain/filters-{side}.meme"));
        meme::read(&path).unwrap()
    });
    assert_eq!(read[0].len() + read[1].len(), speaking);
    assert!(read.iter().flatten().all(|m| m.width() == 7 && m.id.contains('_')));
    assert!(text(&run, "filters-enhancer.svg").contains("<path"));
    assert_eq!(text(&run, "filters.tsv").lines().count(), 1 + 16);
}

#[test]
fn attention_adds_up_and_interactions_are_tested() {
    let run = run_with(&[]);
    explain(&run, "attention", &["--rows", "2"]);
    let table = text(&run, "attention.tsv");
    let received: f64 = rows(&table).iter().map(|r| r[7].parse::<f64>().unwrap()).sum();
    assert!((received - 1.0).abs() < 1e-5, "{received}");
    let positions = (90 - 6) / 6 + (70 - 6) / 6;
    assert_eq!(
        archive(&run.path.join("explain/attention.npz")),
        [("row2_attention.npy".into(), 2 * positions * positions * 4)]
    );
    for background in ["negatives", "shuffle"] {
        let found = explain(
            &run,
            "interactions",
            &["--part", "all", "--background", background, "--limit", "30", "--rate", "0.1"],
        );
        assert!(found["tested"].as_u64().unwrap() > 0, "{found}");
        assert!(text(&run, "interactions.svg").ends_with("</svg>\n"));
    }
    assert!(text(&run, "interactions.tsv").contains("enhancer-promoter"));
}

#[test]
fn a_network_that_mixes_its_batch_has_nothing_to_explain_about_a_pair_but_its_filters() {
    let run = run_with(&["model.lstm_axis=batch"]);
    let path = run.path.to_str().unwrap();
    for command in ["attributions", "mutate", "attention", "interactions"] {
        program(&["explain", command, path, "--device", "cpu"])
            .assert()
            .code(2)
            .stderr(contains("batch mates").and(contains("epsat")));
    }
    explain(&run, "filters", &[]);
}

#[test]
fn usage_errors_and_help() {
    let run = run_with(&[]);
    let path = run.path.to_str().unwrap();
    for command in ["attributions", "mutate", "variants", "filters", "attention", "interactions", "latent"] {
        program(&["explain", command, "--help"]).assert().success().stdout(contains("Example"));
    }
    for (args, word) in [
        (&["mutate", path, "--rows", "9999"][..], "rows 0 to"),
        (&["mutate", path, "--no-bases"], "--windows"),
        (&["mutate", path, "--windows", "1"], "at least two"),
        (&["filters", path, "--share", "2"], "--share"),
        (&["interactions", path, "--rate", "1"], "--rate"),
        (&["attributions", path, "--batch", "0"], "--batch"),
    ] {
        let args = [&["explain"], args, &["--device", "cpu"]].concat();
        program(&args).assert().code(2).stderr(contains(word));
    }
}

#[test]
fn reuse_within_its_margin_is_close_and_exact_beyond() {
    use epi_engine::data::{Dataset, Side};
    use epi_engine::explain::mutate::Plan;
    use epi_engine::explain::{Reuse, Scorer, Windows};
    let run = run_with(&[]);
    let folder = epi_engine::train::RunFolder::open(&run.path).unwrap();
    let config = epi_engine::config::load(&folder.file("config.toml").to_string_lossy(), &[]).unwrap();
    let cpu = Cpu::new();
    let trained = epi_engine::train::session::Trained::open(&cpu, &folder, config).unwrap();
    let scorer = Scorer::new(&cpu, &trained.model, &trained.parameters, 9).unwrap();
    let dataset = Dataset::open(&run.data).unwrap();
    let windows = Windows::of(&dataset, &dataset.table().sample(1));
    assert_eq!(windows.beyond[0].len(), dataset.flank());
    assert_eq!(windows.codes[0], dataset.codes(Side::Enhancer, 1));
    let base = scorer.base(windows).unwrap();
    let plan = Plan { bases: true, windows: Some((7, 9)), deletions: vec![], sides: vec![0, 1], seed: 3 };
    let edits = plan.edits(&base.windows);
    let score = |reuse| scorer.edited(&base, &edits, reuse).unwrap();
    let exact = score(Reuse::Exact);
    let off = |margin| {
        let pairs = score(Reuse::Margin(margin)).into_iter().zip(&exact).map(|(a, b)| (a.log_odds - b.log_odds).abs());
        pairs.fold(0.0f32, f32::max)
    };
    let changes = exact.iter().map(|s| (s.log_odds - base.score.log_odds).abs()).fold(0.0f32, f32::max);
    assert!(off(100) < 2e-5, "{}", off(100));
    assert!(off(4) < off(0).max(1e-4) && off(4) < 0.5 * changes, "{} {} of {changes}", off(0), off(4));
}

#[test]
fn every_network_takes_part_in_what_it_can() {
    for tiny in &TINY {
        let folder = tempfile::tempdir().unwrap();
        let (data, path) = (tiny_file(folder.path(), 160), folder.path().join("run"));
        train_tiny(tiny, &data, &path, &[]).assert().success();
        let run = Run { _folder: folder, path, data };
        let found = explain(&run, "attributions", &["--rows", "4", "--steps", "200"]);
        let pair = &found["pairs"][0];
        let [sum, difference] = ["sum", "difference"].map(|k| pair[k].as_f64().unwrap());
        assert!((sum - difference).abs() < 0.05 * difference.abs() + 1e-3, "{}: {pair}", tiny.preset);
        explain(&run, "mutate", &["--rows", "4", "--side", "promoter"]);
        assert_eq!(text(&run, "mutate-row4.tsv").lines().count(), 1 + 3 * LENGTHS[1], "{}", tiny.preset);
        let path = run.path.to_str().unwrap();
        let refused = |args: &[&str], words: &str| {
            let args = [&["explain", args[0], path, "--device", "cpu"], &args[1..]].concat();
            program(&args).assert().code(1).stderr(contains(words));
        };
        if tiny.preset == "epsat" {
            refused(&["latent"], "has no code");
        } else {
            refused(&["attention", "--rows", "4"], "no attention layer");
        }
        if tiny.preset.starts_with("eplae") {
            refused(&["filters"], "does not begin with a convolution");
        } else {
            explain(&run, "filters", &["--part", "all"]);
        }
    }
}

#[test]
fn the_latent_space_is_mapped_walked_and_projected_back() {
    let tiny = TINY.iter().find(|t| t.preset == "eplae").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (data, path) = (tiny_file(folder.path(), 160), folder.path().join("run"));
    train_tiny(tiny, &data, &path, &[]).assert().success();
    let run = Run { _folder: folder, path, data };
    let found = explain(&run, "latent", &["--part", "all", "--rows", "1,2", "--copies", "60"]);
    let samples = text(&run, "latent.tsv");
    assert_eq!(rows(&samples).len(), 160);
    for r in rows(&samples) {
        let [first, second, odds] = [7, 8, 9].map(|i| r[i].parse::<f64>().unwrap());
        assert!((second - first - odds).abs() < 1e-4, "{r:?}");
    }
    for key in ["input_variance", "latent_variance"] {
        let shares: Vec<f64> = found[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        assert!(shares[0] >= shares[1] && shares.iter().sum::<f64>() <= 1.0 + 1e-6, "{key}: {shares:?}");
    }
    let walk = text(&run, "latent-traversal.tsv");
    let odds: Vec<f64> = rows(&walk).iter().filter(|r| r[0] == "1").map(|r| r[2].parse().unwrap()).collect();
    assert!(odds.len() == 7 && odds.windows(2).all(|w| w[1] > w[0]), "the direction is that of interaction: {odds:?}");
    for pair in found["pairs"].as_array().unwrap() {
        assert!(pair["agreement"].as_f64().unwrap() > 0.5, "derivatives and mutagenesis disagree: {pair}");
    }
    assert_eq!(rows(&text(&run, "latent-back-projection.tsv")).len(), 2 * (LENGTHS[0] + LENGTHS[1]));
    assert!(text(&run, "latent.svg").ends_with("</svg>\n"));
}
