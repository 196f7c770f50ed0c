//! Compiles the kernels to fat binaries and writes `images.rs`, which embeds them.

use crate::Layout;
use crate::jobs::{self, Job};
use crate::sources::{self, Source};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Machine code for these, and PTX of the last for newer cards.
const ARCHITECTURES: &str = "80,86,89,90";
/// Shared memory of a block that every supported card offers, in bytes.
const SHARED_LIMIT: u64 = 99 << 10;

/// Compiles everything, or notes why there are no images.
pub fn build(layout: &Layout, sources: &[Source]) -> Result<(), String> {
    let (nvcc, version) = match find(&layout.root) {
        Ok(found) => found,
        Err(why) => return write_images(layout, &[], &[], "", &why, "[]"),
    };
    println!("cargo::rerun-if-changed={}", nvcc.display());
    let wanted = std::env::var("EPI_CUDA_ARCHS").unwrap_or_else(|_| ARCHITECTURES.into());
    let architectures: Vec<&str> =
        wanted.split([',', ';', ' ']).map(|a| a.trim_start_matches("sm_")).filter(|a| !a.is_empty()).collect();
    let Some(newest) =
        architectures.iter().max_by_key(|a| a.trim_end_matches(char::is_alphabetic).parse::<u32>().unwrap_or(0))
    else {
        return Err("EPI_CUDA_ARCHS is empty; give compute capabilities such as 80,86,90".into());
    };
    let headers = sources::headers(layout)?;
    let folder = layout.out.join("cuda");
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let (mut compile, mut modules) = (Vec::new(), Vec::new());
    for source in sources.iter().filter(|s| !s.emulator_only) {
        let output = folder.join(&source.module).with_extension("fatbin");
        let mut command = Command::new(&nvcc);
        command.current_dir(&layout.root).args([
            "-std=c++17",
            "-O3",
            "-lineinfo",
            "-fatbin",
            "-Xfatbin=-compress-all",
            "-Xptxas",
            "-v",
        ]);
        command.args(["-Ikernels/include", "-Wno-deprecated-gpu-targets"]);
        for arch in &architectures {
            command.arg(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
        }
        command.arg(format!("-gencode=arch=compute_{newest},code=compute_{newest}"));
        command.arg(&source.path).arg("-o").arg(&output);
        let mut inputs = vec![source.path.clone(), nvcc.clone()];
        inputs.extend(headers.iter().cloned());
        modules.push((source.module.as_str(), output.clone()));
        compile.push(Job { command, inputs, output, finish: None });
    }
    jobs::run(compile)?;
    let mut report = Vec::new();
    for (module, output) in &modules {
        jobs::warn(output, |line| line.contains("warning"));
        report.extend(usage(module, output));
    }
    for row in &report {
        let spilled = row.number("spill_stores") + row.number("spill_loads");
        let (kernel, arch) = (&row.kernel, &row.arch);
        if spilled > 0 {
            println!("cargo::warning={kernel} spills {spilled} bytes of registers on {arch}");
        }
        if row.number("shared") > SHARED_LIMIT {
            println!("cargo::warning={kernel} takes {} bytes of shared memory on {arch}", row.number("shared"));
        }
    }
    let rows: Vec<String> = report.iter().map(Usage::json).collect();
    let report = format!("[\n{}\n]\n", rows.join(",\n"));
    write_images(layout, &modules, &architectures, &version, "", &report)
}

/// nvcc and its version, from `EPI_NVCC`, `CUDA_HOME`, PATH or `build/nvcc`; otherwise what to do.
fn find(root: &Path) -> Result<(PathBuf, String), String> {
    let asked = std::env::var_os("EPI_NVCC").filter(|v| !v.is_empty()).map(PathBuf::from);
    let candidates = match &asked {
        Some(path) => vec![path.clone()],
        None => {
            let home = std::env::var_os("CUDA_HOME").filter(|v| !v.is_empty());
            let path = std::env::var_os("PATH").unwrap_or_default();
            let mut all: Vec<PathBuf> = home.into_iter().map(|h| Path::new(&h).join("bin/nvcc")).collect();
            all.extend(std::env::split_paths(&path).map(|dir| dir.join("nvcc")));
            all.push(root.join("build/nvcc/nvidia/cu13/bin/nvcc"));
            all
        }
    };
    for path in candidates.into_iter().filter(|p| p.is_file()) {
        let Ok(out) = Command::new(&path).arg("--version").output() else { continue };
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        if let Some(version) = text.split("release ").nth(1).and_then(|t| t.split([',', '\n']).next()) {
            return Ok((path, format!("nvcc {version}")));
        }
    }
    Err(match asked {
        Some(path) => format!("EPI_NVCC={} is not a working nvcc", path.display()),
        None => {
            "nvcc was not found when this program was built; run `make cuda-toolchain` (needs pip) or set EPI_NVCC \
                 or CUDA_HOME, then build again"
                .into()
        }
    })
}

fn write_images(
    layout: &Layout,
    modules: &[(&str, PathBuf)],
    architectures: &[&str],
    version: &str,
    missing: &str,
    report: &str,
) -> Result<(), String> {
    let mut text = String::from(
        "/// Machine code of each module (one fat binary per `.cu` file).\npub static IMAGES: &[(&str, &[u8])] = &[\n",
    );
    for (module, path) in modules {
        let _ = writeln!(text, "    ({module:?}, include_bytes!({path:?})),");
    }
    let _ = writeln!(
        text,
        "];\n/// Compute capabilities with machine code; the newest also as PTX.\npub const ARCHITECTURES: &[&str] = &{architectures:?};"
    );
    let _ = writeln!(text, "/// The compiler, or nothing.\npub const COMPILER: &str = {version:?};");
    let _ = writeln!(
        text,
        "/// Why there are no images, and the remedy; empty if there are.\npub const MISSING: &str = {missing:?};"
    );
    let _ = writeln!(
        text,
        "/// What ptxas reports: a JSON array of kernel, arch, registers, shared, stack, spill_stores, spill_loads."
    );
    let _ = writeln!(text, "pub const PTXAS: &str = r#\"{report}\"#;");
    jobs::write(&layout.out.join("images.rs"), text.as_bytes())
}

/// What one kernel takes on one architecture.
struct Usage {
    module: String,
    kernel: String,
    arch: String,
    numbers: Vec<(&'static str, u64)>,
}

impl Usage {
    fn number(&self, name: &str) -> u64 {
        self.numbers.iter().find(|(n, _)| *n == name).map_or(0, |(_, v)| *v)
    }
    fn json(&self) -> String {
        let mut text =
            format!("{{\"module\": \"{}\", \"kernel\": \"{}\", \"arch\": \"{}\"", self.module, self.kernel, self.arch);
        for (name, value) in &self.numbers {
            let _ = write!(text, ", \"{name}\": {value}");
        }
        text + "}"
    }
}

/// Reads the lines that `ptxas -v` left in the log of a module.
fn usage(module: &str, output: &Path) -> Vec<Usage> {
    let log = std::fs::read_to_string(Job::log(output)).unwrap_or_default();
    let before = |line: &str, unit: &str| -> u64 {
        let head = line.split(unit).next().filter(|head| head.len() < line.len()).unwrap_or_default();
        head.split_whitespace().next_back().and_then(|n| n.trim_start_matches(',').parse().ok()).unwrap_or(0)
    };
    let mut all: Vec<Usage> = Vec::new();
    for line in log.lines() {
        let mut quoted = line.split('\'').skip(1).step_by(2);
        if line.contains("Compiling entry function") {
            let (kernel, arch) = (quoted.next().unwrap_or_default().into(), quoted.next().unwrap_or_default().into());
            all.push(Usage { module: module.into(), kernel, arch, numbers: Vec::new() });
        }
        let Some(last) = all.last_mut() else { continue };
        // Properties of device functions that were not inlined come before the totals of the entry that calls them.
        if line.contains("bytes stack frame") {
            for (name, unit) in [
                ("stack", " bytes stack"),
                ("spill_stores", " bytes spill stores"),
                ("spill_loads", " bytes spill loads"),
            ] {
                last.numbers.push((name, before(line, unit)));
            }
        }
        if line.contains("Used ") && line.contains(" registers") {
            last.numbers.push(("registers", before(line, " registers")));
            last.numbers.push(("shared", before(line, " bytes smem")));
        }
    }
    all
}
