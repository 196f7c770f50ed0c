//! What there is to compile, and the list of kernels as Rust sees it.

use crate::{Layout, jobs};
use std::path::{Path, PathBuf};

/// One `.cu` file.
pub struct Source {
    pub path: PathBuf,
    /// File name without extension: the name of the module.
    pub module: String,
    /// Entry points, in the order of the file.
    pub kernels: Vec<String>,
    /// Part of the emulator's own tests: never compiled for a GPU.
    pub emulator_only: bool,
}

/// All `.cu` files, sorted.
pub fn scan(layout: &Layout) -> Result<Vec<Source>, String> {
    let mut sources = Vec::new();
    for (folder, emulator_only) in [("kernels", false), ("kernels/emulator", true)] {
        for path in files(&layout.root.join(folder), &["cu"])? {
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            let module = path.file_stem().expect("a .cu file").to_string_lossy().into_owned();
            let kernels = entry_points(&text).map_err(|e| format!("{}: {e}", path.display()))?;
            sources.push(Source { path, module, kernels, emulator_only });
        }
    }
    Ok(sources)
}

/// Headers that every `.cu` file may include.
pub fn headers(layout: &Layout) -> Result<Vec<PathBuf>, String> {
    let mut all = files(&layout.root.join("kernels/include"), &["cuh"])?;
    all.push(layout.root.join("kernels/emulator/device.h"));
    Ok(all)
}

/// Files of a folder with one of these extensions, sorted.
pub fn files(folder: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let wanted = |p: &PathBuf| p.extension().is_some_and(|e| extensions.iter().any(|x| e == *x));
    let mut all: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).filter(wanted).collect();
    all.sort();
    Ok(all)
}

/// Names in `EPI_KERNEL(name, ..`; inside a macro, `name` may be glued from its parameters (`forward_##D`), once per use.
fn entry_points(text: &str) -> Result<Vec<String>, String> {
    let text = text.replace("\\\n", " "); // a macro becomes one line
    let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let mut names = Vec::new();
    for line in &code {
        let Some(definition) = line.trim_start().strip_prefix("#define ") else {
            names.extend(kernels_in(line).map(str::to_string));
            continue;
        };
        let glued: Vec<&str> = kernels_in(definition).collect();
        let Some((name, rest)) = definition.split_once('(').filter(|_| !glued.is_empty()) else { continue };
        let params: Vec<&str> = rest.split(')').next().unwrap_or_default().split(',').map(str::trim).collect();
        let uses = code.iter().filter_map(|l| l.trim_start().strip_prefix(name)?.strip_prefix('(')?.split(')').next());
        for values in uses.map(|u| u.split(',').map(str::trim).collect::<Vec<_>>()) {
            let value = |piece: &str| params.iter().position(|p| *p == piece).and_then(|i| values.get(i)).copied();
            let glue =
                |kernel: &str| kernel.split("##").map(|p| value(p.trim()).unwrap_or(p.trim())).collect::<String>();
            names.extend(glued.iter().map(|kernel| glue(kernel)));
        }
    }
    let identifier = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match names.iter().find(|name| !identifier(name)) {
        Some(name) => Err(format!("EPI_KERNEL({name}, ..): cannot tell the name of this kernel")),
        None => Ok(names),
    }
}

fn kernels_in(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("EPI_KERNEL(").map(|(at, m)| line[at + m.len()..].split(',').next().unwrap_or_default().trim())
}

/// `kernels.rs`: `(module, kernel)` of every kernel, an expression.
pub fn write_registry(layout: &Layout, sources: &[Source]) -> Result<(), String> {
    let mut text = String::from("&[\n");
    for source in sources.iter().filter(|s| !s.emulator_only) {
        for kernel in &source.kernels {
            text += &format!("    ({:?}, {kernel:?}),\n", source.module);
        }
    }
    text += "]\n";
    jobs::write(&layout.out.join("kernels.rs"), text.as_bytes())
}
