//! Fixtures made with PyTorch in f64. `EPI_ORACLE=DIR` runs the same tests on another directory of that format.

mod explain;
mod fixture;
mod judge;
mod layers;
mod models;

pub use fixture::{Array, Fixture};
pub use judge::Judge;

use crate::harness::note;

/// Every backend under test, and the oracle in f64, which is held to tighter limits.
macro_rules! for_each_golden_backend {
    (|$b:ident| $body:block) => {{
        {
            let $b = epi_engine::backend::reference::Reference::<f64>::new();
            $body
        }
        for_each_backend!(|$b| $body)
    }};
}
use for_each_golden_backend;

/// Layer files that are checked, by the part of their name between `layer_` and the extension.
const LAYERS: [&str; 8] =
    ["attention", "batchnorm", "bilstm", "conv1d", "conv_transpose1d", "linear", "maxpool1d", "misc"];

#[test]
fn every_file_is_checked_or_named() {
    let mut unchecked = Vec::new();
    for name in fixture::names() {
        let checked = match name.strip_prefix("layer_") {
            Some(layer) => LAYERS.contains(&layer),
            None => models::network(&Fixture::open(&name)).is_some(),
        };
        if !checked {
            unchecked.push(name);
        }
    }
    if !unchecked.is_empty() {
        let folder = fixture::folder();
        note(format!("golden: {} files of {} not checked yet: {unchecked:?}", unchecked.len(), folder.display()));
    }
}
