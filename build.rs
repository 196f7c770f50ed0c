//! Compiles the kernels: with nvcc to machine code that is embedded in the binary, and with the C++ compiler to the emulator.
//!
//! Neither compiler is required. Only what changed is compiled again: every job's command and inputs are fingerprinted.

#[path = "kernels/build/emulator.rs"]
mod emulator;
#[path = "kernels/build/jobs.rs"]
mod jobs;
#[path = "kernels/build/nvcc.rs"]
mod nvcc;
#[path = "kernels/build/sources.rs"]
mod sources;

use std::path::PathBuf;

/// Where things are.
pub struct Layout {
    /// The package.
    pub root: PathBuf,
    /// Cargo's folder for this build script's outputs.
    pub out: PathBuf,
}

fn main() {
    println!("cargo::rustc-check-cfg=cfg(emulator)");
    for path in ["build.rs", "kernels"] {
        println!("cargo::rerun-if-changed={path}");
    }
    for name in ["EPI_NVCC", "CUDA_HOME", "EPI_CUDA_ARCHS", "CXX", "CXXFLAGS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rustc-env=EPI_COMMIT={}", commit());
    let dir = |name| PathBuf::from(std::env::var_os(name).expect("cargo sets it"));
    let layout = Layout { root: dir("CARGO_MANIFEST_DIR"), out: dir("OUT_DIR") };
    let result = sources::scan(&layout).and_then(|sources| {
        sources::write_registry(&layout, &sources)?;
        nvcc::build(&layout, &sources)?;
        emulator::build(&layout, &sources)
    });
    if let Err(message) = result {
        eprintln!("{message}");
        std::process::exit(1);
    }
}

/// The commit that is being built, with a mark when the tree differs from it; a source archive has none.
fn commit() -> String {
    // Grows with every commit and checkout, also in a linked work tree.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    let dirty = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty());
    let Some(hash) = git(&["rev-parse", "--short=10", "HEAD"]) else { return "unknown".into() };
    if dirty { format!("{hash}+") } else { hash }
}

fn git(args: &[&str]) -> Option<String> {
    let output = std::process::Command::new("git").args(args).output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_string())
}
