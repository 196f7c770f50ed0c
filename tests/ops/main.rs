//! Tests of every primitive on every backend.

#[macro_use]
mod harness;

mod adam;
mod attention;
mod autoencoder;
mod batch_norm;
mod bf16;
mod conv1d;
mod conv_leaky;
mod conv_transpose1d;
mod dna_conv;
mod dna_conv1d;
mod elementwise;
mod gather;
mod golden;
mod linear;
mod loss;
mod lstm;
mod pool;
mod readout;
mod soft;
mod variants;
