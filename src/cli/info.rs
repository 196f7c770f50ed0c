use std::process::ExitCode;

use serde_json::json;

use super::Output;
use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::device::{EMULATOR, modules, probe};

/// The commit that this program was built from.
pub const COMMIT: &str = env!("EPI_COMMIT");

pub fn run(out: &Output) -> anyhow::Result<ExitCode> {
    let (cpu, cuda) = (Cpu::new(), probe());
    let features = [cpu.isa().name(), if cpu.isa().has_bf16() { " avx512_bf16" } else { "" }].concat();
    let compiled = modules::MISSING.is_empty();
    out.line(format!("epi-engine {} ({COMMIT})", env!("CARGO_PKG_VERSION")));
    out.line(format!("cpu       {}{}", cpu.name(), if cpu.isa().has_bf16() { ", avx512_bf16" } else { "" }));
    for card in &cuda.cards {
        let fits = if card.supported { "" } else { ", no kernels for it in this build" };
        out.line(format!(
            "cuda:{}    {}, compute capability {}.{}, {} MiB{fits}",
            card.ordinal,
            card.name,
            card.major,
            card.minor,
            card.memory >> 20
        ));
    }
    if let Some(problem) = &cuda.problem {
        out.line(format!("cuda      {problem}"));
    }
    if compiled {
        out.line(format!("kernels   {} by {}", modules::ARCHITECTURES.join(", "), modules::COMPILER));
    } else {
        out.line(format!("kernels   not compiled: {}", modules::MISSING));
    }
    out.line(format!("emulator  {}", if EMULATOR { "built in" } else { "not on this platform" }));
    out.document(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "commit": COMMIT,
        "cpu": { "features": features, "threads": rayon::current_num_threads() },
        "cuda": { "driver": cuda.driver, "devices": cuda.cards, "problem": cuda.problem },
        "kernels": {
            "compiled": compiled, "architectures": modules::ARCHITECTURES, "compiler": modules::COMPILER,
            "emulator": EMULATOR,
        },
    }));
    Ok(ExitCode::SUCCESS)
}
