//! What the models read in the sequence, and what changing it does. Everything works in evaluation mode, on every device, and
//! streams: no map of a whole set is ever held in memory.

// Both sides of a pair are walked by number: it picks weights, names files and indexes several arrays at once.
#![allow(clippy::needless_range_loop)]

pub mod attention;
pub mod attribution;
pub mod filters;
pub mod interactions;
pub mod knockout;
pub mod latent;
pub mod mutate;
pub mod npz;
pub mod pairs;
pub mod partial;
pub mod scorer;
pub mod shuffle;
pub mod similarity;
pub mod statistics;
pub mod svg;
pub mod variants;
pub mod vcf;

pub use attribution::{Attribution, attribute};
pub use npz::Npz;
pub use pairs::Place;
pub use partial::Partial;
pub use scorer::{Base, Edit, Reuse, Score, Scorer, Windows};
pub use svg::Svg;
