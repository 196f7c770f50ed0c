//! The arrows of `docs/architecture.md`: a room uses only rooms below it, or the leaves.

use std::path::Path;

/// From caller to called. A room may use those after it.
const ROOMS: &[&[&str]] = &[
    &["cli"],
    &["report"],
    &["study"],
    &["bench"],
    &["explain", "boosting", "train"],
    &["evaluate"],
    &["models"],
    &["nn"],
    &["autograd"],
    &["data"],
    &["backend"],
];
const LEAVES: &[&str] = &["error", "rng", "config", "metrics"];

fn rank(room: &str) -> Option<usize> {
    ROOMS.iter().position(|group| group.contains(&room))
}

fn rust_files(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// Rooms named by the `use` declarations of a file.
fn used_rooms(text: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for piece in text.split("crate::").skip(1) {
        let word = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        match piece.strip_prefix('{') {
            Some(list) => rooms.extend(list.split('}').next().unwrap_or("").split(',').map(|w| word(w.trim()))),
            None => rooms.push(word(piece)),
        }
    }
    rooms
}

#[test]
fn no_room_knows_its_callers() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    assert!(files.len() > 50, "only {} source files found", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&src).unwrap();
        let own = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        // Test modules inside a room may look at it from above.
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        for used in used_rooms(text) {
            let allowed = used == own
                || LEAVES.contains(&used.as_str()) && (!LEAVES.contains(&own) || used == "error" || used == "rng")
                || matches!((rank(own), rank(&used)), (Some(from), Some(to)) if from < to)
                || matches!(own, "main" | "lib");
            let is_room = rank(&used).is_some() || LEAVES.contains(&used.as_str());
            if is_room && !allowed {
                wrong.push(format!("{} uses crate::{used}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that point back:\n{}", wrong.join("\n"));
}

#[test]
fn the_check_sees_braces_and_paths() {
    assert_eq!(used_rooms("use crate::{cli, train::x};\nlet a = crate::data::B;"), ["cli", "train", "data"]);
}
