//! The differentiable operators, one file each: a forward function, and a struct that goes backward.

mod attention;
mod autoencoder;
mod batch_norm;
mod class_loss;
mod conv1d;
mod dna_conv;
mod elementwise;
mod layout;
mod linear;
mod lstm;
mod max_pool;
mod position_sum;
mod readout_norm;
mod weighted_sum;

pub use attention::attention;
pub use autoencoder::{kl_divergence, sample_normal, squared_error};
pub use batch_norm::batch_norm;
pub use class_loss::class_loss;
pub use conv1d::{conv_transpose1d, conv1d, dna_conv1d};
pub use dna_conv::{DnaAffineVars, dna_conv, soft_dna_conv};
pub use elementwise::{dropout, leaky_relu, relu};
pub use layout::{concat_length, flatten_channels, reshape, split_length, swap_leading, unflatten_channels};
pub use linear::linear;
pub use lstm::{LstmVars, bilstm};
pub use max_pool::max_pool;
pub use position_sum::position_sum;
pub use readout_norm::readout_norm;
pub use weighted_sum::weighted_sum;
