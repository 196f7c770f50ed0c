//! The data commands as a user meets them: keys of `--json`, exit codes, and nothing half-written.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::data_inputs::{as_fasta, contigs};

const TABLE: &str = "chrom\tenh_start\tenh_end\tprom_start\tprom_end\tlabel\tcell\tfold\n\
    chr1\t1100\t1200\t2000\t2100\t1\tA\tx\n\
    chr1\t1100\t1200\t3000\t3101\t0\tA\ty\n\
    chr1\t1100\t1200\t3000\t3101\t0\tA\ty\n\
    chr2\t20\t30\t600\t700\t0\tB\tx\n";

fn engine(folder: &Path, line: &str) -> Output {
    let command = assert_cmd::cargo::cargo_bin("epi-engine");
    Command::new(command).args(line.split_whitespace()).current_dir(folder).output().unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A folder with `g.fa` and `p.tsv`.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("g.fa"), as_fasta(&contigs(), 60, "\n")).unwrap();
    std::fs::write(folder.path().join("p.tsv"), TABLE).unwrap();
    folder
}

const PREPARE: &str = "prepare --genome g.fa --pairs p.tsv --out x.epi --enhancer-length 300 --promoter-length 200";

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn inspect_has_its_promised_keys() {
    let folder = folder();
    let prepared = json(&engine(folder.path(), &format!("{PREPARE} --json")));
    assert_eq!((prepared["pairs"].as_u64(), prepared["positives"].as_u64()), (Some(3), Some(1)));
    let warnings: Vec<&str> =
        prepared["warnings"].as_array().unwrap().iter().map(|w| w["what"].as_str().unwrap()).collect();
    assert_eq!(warnings, ["duplicate row, kept once", "window that leaves its contig, padded with N"]);
    let inspected = json(&engine(folder.path(), "inspect x.epi --verify --json"));
    assert_eq!(inspected["pairs"], 3);
    assert_eq!(inspected["positives"], 1);
    assert_eq!(inspected["cell_lines"]["A"], serde_json::json!({"pairs": 2, "positives": 1, "negatives": 1}));
    assert_eq!(inspected["chromosomes"]["chr2"]["negatives"], 1);
    assert_eq!((inspected["enhancer_length"].as_u64(), inspected["promoter_length"].as_u64()), (Some(300), Some(200)));
    assert_eq!(inspected["source"]["inputs"]["pairs"]["file"], "p.tsv");
    let text = engine(folder.path(), "inspect x.epi");
    assert!(String::from_utf8_lossy(&text.stdout).contains("3 pairs, 1 positive"));
}

#[test]
fn failures_exit_with_their_code_and_leave_nothing() {
    let folder = folder();
    let before = files(folder.path());
    for (line, code, says) in [
        (PREPARE.replace("g.fa", "none.fa"), 1, "none.fa"),
        (PREPARE.replace("x.epi", "no/such/folder/x.epi"), 1, "no/such/folder"),
        (format!("{PREPARE} --only-contigs chr2"), 1, "one class"),
        (format!("{PREPARE} --only-contigs chr9"), 1, "no pair is left"),
        (format!("{PREPARE} --enhancer-length 0"), 2, "--enhancer-length"),
        (format!("{PREPARE} --columns a"), 2, "field=column"),
        (format!("{PREPARE} --nonsense"), 2, "--nonsense"),
        ("prepare --out x.epi".into(), 2, "--genome and --pairs"),
        ("inspect p.tsv".into(), 1, "not an .epi"),
        ("inspect .".into(), 1, "not a file"),
        ("synth --out x.epi --enhancer-length 20".into(), 2, "copies"),
        ("synth --out x.epi --enhancer-motifs nobody,MA0138.2".into(), 2, "nobody"),
    ] {
        let line =
            line.replace("--enhancer-length 300 --promoter-length 200 --enhancer-length 0", "--enhancer-length 0");
        let output = engine(folder.path(), &line);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{line}: {message}");
        assert!(message.contains(says), "{line}: {message}");
        assert_eq!(files(folder.path()), before, "{line} left something");
    }
}

#[test]
#[cfg(unix)]
fn a_full_disk_leaves_the_old_file() {
    let folder = folder();
    json(&engine(folder.path(), &format!("{PREPARE} --json")));
    let old = std::fs::read(folder.path().join("x.epi")).unwrap();
    let engine = assert_cmd::cargo::cargo_bin("epi-engine");
    // A limit on the size of files fails a write as a full disk does, once its signal is ignored.
    let script = format!("trap '' XFSZ; ulimit -f 8; exec {} synth --out x.epi", engine.display());
    let output = Command::new("bash").args(["-c", &script]).current_dir(folder.path()).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("x.epi"), "{message}");
    assert_eq!(std::fs::read(folder.path().join("x.epi")).unwrap(), old);
    assert_eq!(files(folder.path()), ["g.fa", "p.tsv", "x.epi"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_result_that_does_not_reach_a_full_disk_is_a_failure() {
    let folder = folder();
    json(&engine(folder.path(), &format!("{PREPARE} --json")));
    let program = assert_cmd::cargo::cargo_bin("epi-engine");
    for line in ["inspect x.epi", "inspect x.epi --json", "summary epsat"] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(&program);
        command.args(line.split_whitespace()).current_dir(folder.path()).stdout(full);
        let output = command.output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{line}: {message}");
        assert!(message.contains("standard output"), "{line}: {message}");
    }
}

#[test]
#[cfg(unix)]
fn a_device_or_pipe_is_not_replaced_by_a_file() {
    let folder = folder();
    let pipe = folder.path().join("x.epi");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let output = engine(folder.path(), PREPARE);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("x.epi") && message.contains("another name"), "{message}");
    assert!(!std::fs::metadata(&pipe).unwrap().is_file());
}

#[test]
fn export_is_the_way_back() {
    let folder = folder();
    json(&engine(folder.path(), &format!("{PREPARE} --flank 0 --json")));
    json(&engine(folder.path(), "export x.epi --out text --json"));
    let again =
        "prepare --enhancers text/enhancers.fa --promoters text/promoters.fa --pairs text/pairs.tsv --out y.epi --json";
    assert_eq!(json(&engine(folder.path(), again))["pairs"], 3);
    let [x, y] = ["x", "y"].map(|name| json(&engine(folder.path(), &format!("inspect {name}.epi --json"))));
    for key in ["pairs", "positives", "cell_lines", "chromosomes", "enhancers", "promoters", "windows", "columns"] {
        assert_eq!(x[key], y[key], "{key}");
    }
}

#[test]
fn the_bundled_set_is_what_its_readme_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let inspected = json(&engine(root, "inspect examples/data/bengi-demo.epi --verify --json"));
    assert_eq!((inspected["pairs"].as_u64(), inspected["positives"].as_u64()), (Some(2522), Some(775)));
    for (contig, pairs, positives) in [("chr20", 1859, 623), ("chr1", 519, 123), ("chr22", 144, 29)] {
        assert_eq!(inspected["chromosomes"][contig]["pairs"], pairs);
        assert_eq!(inspected["chromosomes"][contig]["positives"], positives);
    }
    assert_eq!(inspected["columns"], serde_json::json!({"dataset": 1, "fold": 4}));
}
