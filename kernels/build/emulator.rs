//! Compiles the kernels and the emulator's runtime with the C++ compiler, once plain and once instrumented.

use crate::Layout;
use crate::jobs::{self, Job};
use crate::sources::{self, Source};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const COMMON: [&str; 9] = [
    "-std=c++20",
    "-fPIC",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-strict-aliasing", // kernels load floats as float4
    "-ffp-contract=off",
    "-fstack-clash-protection", // a large frame must hit the guard page, not jump over it
    "-Wall",
    "-Wextra",
];
const FAST: [&str; 2] = ["-O2", "-DEPI_CHECK=0"];
const CHECK: [&str; 7] = [
    "-O1",
    "-g1",
    "-DEPI_CHECK=1",
    "-fsanitize=thread",
    "-fno-optimize-sibling-calls",
    "--param=tsan-instrument-func-entry-exit=0",
    "-S",
];

/// Builds and links the emulator where it works: Linux x86-64 with GCC 12 or later.
pub fn build(layout: &Layout, sources: &[Source]) -> Result<(), String> {
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") != "linux" || target("ARCH") != "x86_64" {
        return Ok(());
    }
    let mut cc = cc::Build::new();
    cc.cpp(true).cargo_metadata(true).warnings(false);
    let Ok(compiler) = cc.try_get_compiler() else { return Ok(()) };
    let version = Command::new(compiler.path()).arg("-dumpversion").output();
    let version = version.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    let major = version.trim().split('.').next().and_then(|v| v.parse::<u32>().ok());
    if !compiler.is_like_gnu() || major.is_none_or(|v| v < 12) {
        println!("cargo::warning=built without the emulator: it needs GCC 12 or later (set CXX)");
        return Ok(());
    }

    let new_command = |flags: &[&str]| {
        let mut command = Command::new(compiler.path());
        command.current_dir(&layout.root).args(COMMON).args(flags).arg("-Ikernels/include").arg("-Ikernels/emulator");
        command.arg(format!("-ffile-prefix-map={}/=", layout.root.display()));
        command
    };
    let folder = layout.out.join("emulator");
    let headers = sources::headers(layout)?;
    let (mut compile, mut objects) = (Vec::new(), Vec::new());
    for path in sources::files(&layout.root.join("kernels/emulator"), &["cpp"])? {
        let output = folder.join("runtime").join(path.file_stem().expect("a file")).with_extension("o");
        let mut command = new_command(&FAST);
        command.arg("-c").arg(relative(layout, &path)).arg("-o").arg(&output);
        let mut inputs = vec![path, layout.root.join("kernels/emulator/runtime.h")];
        inputs.extend(headers.iter().cloned());
        objects.push(output.clone());
        compile.push(Job { command, inputs, output, finish: None });
    }
    let mut assemble = Vec::new();
    for source in sources {
        for check in [false, true] {
            if source.emulator_only && !check {
                continue;
            }
            let base = folder.join(if check { "check" } else { "fast" }).join(&source.module);
            let wrapper = base.with_extension("cpp");
            jobs::write(&wrapper, wrap(layout, source, check).as_bytes())?;
            let mut inputs = vec![source.path.clone(), wrapper.clone()];
            inputs.extend(headers.iter().cloned());
            let object = base.with_extension("o");
            if check {
                let assembly = base.with_extension("s");
                let mut command = new_command(&CHECK);
                command.arg(&wrapper).arg("-o").arg(&assembly);
                compile.push(Job { command, inputs, output: assembly.clone(), finish: Some(note_lines) });
                let mut command = Command::new(compiler.path());
                command.arg("-c").arg(&assembly).arg("-o").arg(&object);
                assemble.push(Job { command, inputs: vec![assembly], output: object.clone(), finish: None });
            } else {
                let mut command = new_command(&FAST);
                command.arg("-c").arg(&wrapper).arg("-o").arg(&object);
                compile.push(Job { command, inputs, output: object.clone(), finish: None });
            }
            objects.push(object);
        }
    }
    for job in compile.iter().chain(&assemble) {
        let parent = job.output.parent().expect("a file in OUT_DIR");
        std::fs::create_dir_all(parent).map_err(|e| format!("{}: {e}", parent.display()))?;
    }
    let outputs: Vec<PathBuf> = compile.iter().map(|job| job.output.clone()).collect();
    jobs::run(compile)?;
    for output in outputs {
        jobs::warn(&output, |line| line.contains("warning:"));
    }
    jobs::run(assemble)?;
    for object in objects {
        cc.object(object);
    }
    // Nothing in Rust refers to the registrars of the kernels; only whole-archive keeps them.
    cc.link_lib_modifier("+whole-archive").try_compile("epi_emulator").map_err(|e| e.to_string())?;
    println!("cargo::rustc-cfg=emulator");
    Ok(())
}

fn relative<'a>(layout: &Layout, path: &'a Path) -> &'a Path {
    path.strip_prefix(&layout.root).unwrap_or(path)
}

/// A kernel file inside an unnamed namespace, so that the two flavours share no symbol.
fn wrap(layout: &Layout, source: &Source, check: bool) -> String {
    let mut text = String::from("#include \"device.h\"\n");
    if check {
        let table = format!("epi_lines_{}", source.module);
        let _ = writeln!(text, "extern \"C\" __attribute__((visibility(\"hidden\"))) const emu::Line {table}[];");
        let _ = writeln!(text, "static const emu::LineTable epi_line_table({table});");
    }
    let _ = writeln!(text, "namespace {{\n#include \"{}\"\n}}", relative(layout, &source.path).display());
    text.replacen("#include \"kernels", &format!("#include \"{}/kernels", layout.root.display()), 1)
}

/// Renames the sanitizer's callbacks to ours and appends a table: return address of each call, file and line.
///
/// The table needs no debug information at run time, so it works in stripped binaries.
fn note_lines(assembly: &Path) -> Result<(), String> {
    let module = assembly.file_stem().expect("a file").to_string_lossy().into_owned();
    let text = std::fs::read_to_string(assembly).map_err(|e| format!("{}: {e}", assembly.display()))?;
    let (mut out, mut table, mut files) = (String::new(), String::new(), HashMap::new());
    let (mut line, mut calls) = ((0u32, 0u32), 0);
    for row in text.lines() {
        let mut words = row.split_whitespace();
        match words.next() {
            Some(".file") => {
                let number = words.next().and_then(|n| n.parse::<u32>().ok());
                let name = row.split('"').nth_back(1).unwrap_or_default().to_string();
                if let Some(number) = number {
                    files.insert(number, name);
                }
            }
            Some(".loc") => {
                let mut number = || words.next().and_then(|n| n.parse().ok()).unwrap_or(0);
                line = (number(), number());
            }
            _ => {}
        }
        out += &row.replace("__tsan_", "epi_tsan_");
        out.push('\n');
        if row.contains("call") && row.contains("__tsan_") {
            let _ = writeln!(out, ".Lepi_call{calls}:");
            let _ = writeln!(table, "\t.quad .Lepi_call{calls}, .Lepi_file{}, {}", line.0, line.1);
            calls += 1;
        }
    }
    let _ = writeln!(
        out,
        "\t.data\n\t.balign 8\n\t.globl epi_lines_{module}\n\t.hidden epi_lines_{module}\nepi_lines_{module}:"
    );
    out += &table;
    out += "\t.quad 0, 0, 0\n";
    files.entry(0).or_insert_with(|| "an unknown file".into());
    for (number, name) in files {
        let _ = writeln!(out, ".Lepi_file{number}:\n\t.string \"{name}\"");
    }
    std::fs::write(assembly, out).map_err(|e| format!("{}: {e}", assembly.display()))
}
