//! An ensemble as bytes; `docs/formats.md` gives the layout.

use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::tree::Node;
use super::{Ensemble, Tree};
use crate::config::{BoostedBalance, TargetFinderConfig};
use crate::data::dataset::write_atomically;
use crate::data::format::crc32;
use crate::error::{Error, Result};

const MAGIC: [u8; 8] = *b"\x89EPT\r\n\x1a\n";
const VERSION: u32 = 1;
/// Magic, version, checksum, length of the description.
const HEADER: usize = 24;
/// Bytes of a node.
const NODE: usize = 12;

/// What an ensemble was grown from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    pub model: TargetFinderConfig,
    /// Absent in files older than the key, whose rows all weighed the same.
    #[serde(default)]
    pub balance: BoostedBalance,
    pub seed: u64,
    /// Names of the features, in the order of their numbers.
    pub features: Vec<String>,
    /// Checksum of the table.
    pub table: String,
    /// Protocol, tested fold, and number of folds.
    pub split: String,
    pub fold: u32,
    pub folds: u32,
    /// Rows trained on, positives among them, and a checksum of their numbers.
    pub rows: usize,
    pub positives: usize,
    pub rows_crc32: String,
}

/// Writes an ensemble; the file appears under its name only when it is complete.
pub fn write(path: &Path, about: &About, ensemble: &Ensemble) -> Result<()> {
    let mut body = Vec::new();
    let json = serde_json::to_vec(about).expect("a description is made of JSON types");
    body.extend((json.len() as u64).to_le_bytes());
    body.extend(json);
    for value in [ensemble.prior, ensemble.learning_rate].iter().chain(&ensemble.importances) {
        body.extend(value.to_le_bytes());
    }
    body.extend((ensemble.trees.len() as u32).to_le_bytes());
    for tree in &ensemble.trees {
        body.extend((tree.nodes.len() as u32).to_le_bytes());
        for node in &tree.nodes {
            body.extend(node.feature.to_le_bytes());
            body.extend(node.right.to_le_bytes());
            body.extend(node.value.to_le_bytes());
        }
    }
    write_atomically(path, |out| {
        out.write_all(&MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&crc32(&body).to_le_bytes())?;
        out.write_all(&body)
    })
}

/// Reads an ensemble.
///
/// # Errors
/// [`Error::Io`]; [`Error::Input`] for what is no ensemble, damaged, or of a later version.
pub fn read(path: &Path) -> Result<(About, Ensemble)> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let bad = |message: &str| Error::input(path, None, message);
    if bytes.len() < HEADER || bytes[..8] != MAGIC {
        return Err(bad("not an ensemble of trees made by `epi-engine train --preset target-finder`"));
    }
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    if word(8) != VERSION {
        return Err(bad(&format!("version {} of the format; this program reads version {VERSION}", word(8))));
    }
    if word(12) != crc32(&bytes[16..]) {
        return Err(bad(
            "damaged (its checksum differs): copy it again, or delete it and continue the run with --resume",
        ));
    }
    parse(&bytes[16..]).ok_or_else(|| bad("its checksum is right, but it holds no sound ensemble"))
}

fn parse(mut rest: &[u8]) -> Option<(About, Ensemble)> {
    let mut take = |n: usize| {
        let (head, tail) = rest.split_at_checked(n)?;
        rest = tail;
        Some(head)
    };
    let length = u64::from_le_bytes(take(8)?.try_into().ok()?);
    let mut about: About = serde_json::from_slice(take(usize::try_from(length).ok()?)?).ok()?;
    let mut number = || Some(f64::from_le_bytes(take(8)?.try_into().ok()?));
    let (prior, learning_rate) = (number()?, number()?);
    // Decimals may lose the last bit.
    about.model.learning_rate = learning_rate;
    let importances = about.features.iter().map(|_| number()).collect::<Option<Vec<f64>>>()?;
    let count = u32::from_le_bytes(take(4)?.try_into().ok()?);
    let mut trees = Vec::new();
    for _ in 0..count {
        let nodes = u32::from_le_bytes(take(4)?.try_into().ok()?) as usize;
        let node = |b: &[u8]| Node {
            feature: u16::from_le_bytes([b[0], b[1]]),
            right: u16::from_le_bytes([b[2], b[3]]),
            value: f64::from_le_bytes(b[4..NODE].try_into().expect("eight bytes")),
        };
        let tree = Tree { nodes: take(nodes.checked_mul(NODE)?)?.chunks_exact(NODE).map(node).collect() };
        trees.push(tree);
    }
    let finite = [prior, learning_rate].iter().chain(&importances).all(|x| x.is_finite());
    let sound = finite && rest.is_empty() && trees.iter().all(|t: &Tree| t.is_sound(about.features.len()));
    sound.then_some((about, Ensemble { prior, learning_rate, trees, importances }))
}
