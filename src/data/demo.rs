//! The real data set that is compiled into the program.

use crate::Result;
use crate::data::Dataset;

/// BENGI's GM12878 RNAPII ChIA-PET pairs on chromosomes 1, 20 and 22; `examples/data/README.md` tells where from.
pub static DEMO: &[u8] = include_bytes!("../../examples/data/bengi-demo.epi");

/// Opens [`DEMO`].
pub fn demo() -> Result<Dataset> {
    Dataset::from_static(DEMO)
}
