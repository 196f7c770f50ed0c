//! Genomes, pairs, the memory-mapped data set, splits, augmentation and batches.

pub mod audit;
pub mod augment;
pub mod baselines;
pub mod batch;
pub mod control;
pub mod cut;
pub mod dataset;
pub mod demo;
pub mod export;
pub mod fasta;
pub mod format;
pub mod genome;
pub mod import_hdf5;
pub mod input;
pub mod meme;
pub mod negatives;
pub mod notes;
pub mod pairs;
pub mod prepare;
pub mod split;
pub mod synth;
pub mod table;
pub mod window;

pub use augment::{Augmentation, Draw};
pub use batch::{Balance, Batch, EpochPlan};
pub use dataset::{Contents, Dataset};
pub use format::Placement;
pub use genome::Genome;
pub use notes::Notes;
pub use pairs::{Pairs, PairsOptions};
pub use table::{Element, PairTable, Row, Sample, Side};
