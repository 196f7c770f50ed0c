//! EPLAE: a convolutional autoencoder of both elements with a classifier on its code, plain or variational.

use super::{DeviceBatch, LayerSummary, Model, Output, SideInput, total_loss};
use crate::autograd::ops::{
    class_loss, concat_length, conv_transpose1d, conv1d, dna_conv1d, flatten_channels, kl_divergence, leaky_relu,
    linear, sample_normal, split_length, squared_error, unflatten_channels, weighted_sum,
};
use crate::autograd::{Tape, Var};
use crate::backend::{Backend, ClassLoss, Conv1d};
use crate::config::{EplaeConfig, Latent, Objective, ReconstructionLoss};
use crate::error::{Error, Result};
use crate::nn::{Bound, Init, Spec};
use crate::rng::stream;

const BRANCHES: [&str; 2] = ["enhancer", "promoter"];
/// Places of the convolutions in the released program's sequences, whose odd places are activations.
const STAGES: [usize; 3] = [0, 2, 4];
const STRIDE: usize = 2;

/// EPLAE with the sizes of its configuration; 171,398,410 parameters at the preset's.
///
/// Each encoder stage halves a length, rounding up; the decoder's stages go back to exactly the lengths that these came from
/// (PyTorch's output padding is 1 where a length was even and 0 where it was odd), so every length works.
#[derive(Clone, Debug)]
pub struct Eplae {
    config: EplaeConfig,
    objective: Objective,
}

/// Length of a window of `length` bases before each stage and after the last.
fn stages(length: usize) -> [usize; 4] {
    let mut all = [length; 4];
    for i in 1..4 {
        all[i] = all[i - 1].div_ceil(STRIDE);
    }
    all
}

/// Columns of the code of both windows.
fn columns(lengths: [usize; 2]) -> usize {
    lengths.iter().map(|&length| stages(length)[3]).sum()
}

impl Eplae {
    /// The network; sizes are checked by [`EplaeConfig`]'s validation.
    pub fn new(config: EplaeConfig) -> Self {
        Eplae { config, objective: Objective::Full }
    }
    fn spec(&self) -> Conv1d {
        Conv1d { stride: STRIDE, padding: self.config.kernel_size / 2 }
    }
    fn variational(&self) -> bool {
        self.config.variant == Latent::Vae
    }

    fn encode<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        branch: usize,
        input: SideInput<'_, B>,
    ) -> Result<Var<B>> {
        let (leaky, spec, mut out) = (Some(self.config.slope), self.spec(), None);
        for stage in STAGES {
            let name = |part: &str| format!("encoder_conv_{}.{stage}.{part}", BRANCHES[branch]);
            let (weight, bias) = (parameters.var(tape, &name("weight"))?, parameters.var(tape, &name("bias"))?);
            out = Some(match (&out, &input) {
                (None, SideInput::Dna(dna)) => dna_conv1d(tape, dna, &weight, &bias, leaky, spec)?,
                (None, SideInput::Soft(inp)) => conv1d(tape, inp, &weight, Some(&bias), leaky, spec)?,
                (Some(inp), _) => conv1d(tape, inp, &weight, Some(&bias), leaky, spec)?,
            });
        }
        Ok(out.expect("there are stages"))
    }
    /// The hidden layer that the code is read from.
    fn hidden<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        batch: &DeviceBatch<B>,
    ) -> Result<Var<B>> {
        let enhancer = self.encode(tape, parameters, 0, batch.input(0))?;
        let promoter = self.encode(tape, parameters, 1, batch.input(1))?;
        let encoded = concat_length(tape, &[&enhancer, &promoter])?; // [B,T,F]
        drop((enhancer, promoter));
        tape.name("encoded", &encoded);
        let flat = flatten_channels(tape, &encoded)?;
        let hidden = self.linear(tape, parameters, "encoder_linear.0", &flat)?;
        leaky_relu(tape, &hidden, self.config.slope)
    }
    /// Both windows `[B,L,4]` from a code.
    fn windows<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        code: &Var<B>,
        lengths: [usize; 2],
    ) -> Result<[Var<B>; 2]> {
        let hidden = self.linear(tape, parameters, "decoder_linear.0", code)?;
        let hidden = leaky_relu(tape, &hidden, self.config.slope)?;
        let grid = self.linear(tape, parameters, "decoder_linear.2", &hidden)?;
        let grid = unflatten_channels(tape, &grid, self.config.filters)?; // [B,T,F]
        let parts = split_length(tape, &grid, lengths.map(|length| stages(length)[3]))?;
        drop(grid);
        let [enhancer, promoter] = parts;
        let enhancer = self.decode(tape, parameters, 0, enhancer, lengths[0])?;
        Ok([enhancer, self.decode(tape, parameters, 1, promoter, lengths[1])?])
    }
    /// `[B,C,F] → [B,L,4]`
    fn decode<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        branch: usize,
        mut x: Var<B>,
        length: usize,
    ) -> Result<Var<B>> {
        let lengths = stages(length);
        for (i, stage) in STAGES.into_iter().enumerate() {
            let name = |part: &str| format!("decoder_conv_{}.{stage}.{part}", BRANCHES[branch]);
            let (weight, bias) = (parameters.var(tape, &name("weight"))?, parameters.var(tape, &name("bias"))?);
            let leaky = (i < 2).then_some(self.config.slope);
            x = conv_transpose1d(tape, &x, &weight, &bias, leaky, self.spec(), lengths[2 - i])?;
        }
        tape.name(["recon_enhancer", "recon_promoter"][branch], &x);
        Ok(x)
    }
    fn linear<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        name: &str,
        inp: &Var<B>,
    ) -> Result<Var<B>> {
        let weight = parameters.var(tape, &format!("{name}.weight"))?;
        let bias = parameters.var(tape, &format!("{name}.bias"))?;
        linear(tape, inp, &weight, Some(&bias), false)
    }
}

impl Model for Eplae {
    fn name(&self) -> &'static str {
        "eplae"
    }

    fn specs(&self, enhancer_length: usize, promoter_length: usize) -> Vec<Spec> {
        let c = &self.config;
        let mut specs = Vec::new();
        let mut layer = |name: String, shape: &[usize], outputs: usize, fan_in: usize| {
            let init = Init::fan_in(fan_in);
            specs.push(Spec { l2: c.l2, ..Spec::new(format!("{name}.weight"), shape, init) });
            specs.push(Spec { l2: c.l2, ..Spec::new(format!("{name}.bias"), &[outputs], init) });
        };
        let (f, k, flat) = (c.filters, c.kernel_size, c.filters * columns([enhancer_length, promoter_length]));
        for branch in BRANCHES {
            for (stage, inputs) in STAGES.into_iter().zip([4, f, f]) {
                layer(format!("encoder_conv_{branch}.{stage}"), &[f, inputs, k], f, inputs * k);
            }
        }
        layer("encoder_linear.0".into(), &[c.units, flat], c.units, flat);
        layer("encoder_linear.2".into(), &[c.latent, c.units], c.latent, c.units);
        if self.variational() {
            layer("encoder_log_variance".into(), &[c.latent, c.units], c.latent, c.units);
        }
        layer("decoder_linear.0".into(), &[c.units, c.latent], c.units, c.latent);
        layer("decoder_linear.2".into(), &[flat, c.units], flat, c.units);
        for branch in BRANCHES {
            for (stage, outputs) in STAGES.into_iter().zip([f, f, 4]) {
                // PyTorch takes the second dimension of a weight for its inputs, transposed or not.
                layer(format!("decoder_conv_{branch}.{stage}"), &[f, outputs, k], outputs, outputs * k);
            }
        }
        layer("head".into(), &[2, c.latent], 2, c.latent);
        specs
    }

    fn layers(&self, enhancer_length: usize, promoter_length: usize) -> Vec<LayerSummary> {
        let (c, lengths) = (&self.config, [enhancer_length, promoter_length]);
        let mut layers = Vec::new();
        let mut layer = |name: String, shape: &[usize], parameters: usize| {
            layers.push(LayerSummary { name, shape: shape.to_vec(), parameters });
        };
        let (f, k) = (c.filters, c.kernel_size);
        for (branch, length) in BRANCHES.iter().zip(lengths) {
            for (i, inputs) in [4, f, f].into_iter().enumerate() {
                let shape = [f, stages(length)[i + 1]];
                layer(format!("{branch} conv1d stride 2, LeakyReLU"), &shape, f * (inputs * k + 1));
            }
        }
        let columns = columns(lengths);
        layer("concatenate".into(), &[f, columns], 0);
        layer("linear, LeakyReLU".into(), &[c.units], c.units * (f * columns + 1));
        let heads = if self.variational() { 2 } else { 1 };
        let code = ["linear: code", "linear: mean and log-variance of the code"][heads - 1];
        layer(code.into(), &[c.latent], heads * c.latent * (c.units + 1));
        layer("linear, LeakyReLU".into(), &[c.units], c.units * (c.latent + 1));
        layer("linear".into(), &[f, columns], f * columns * (c.units + 1));
        for (branch, length) in BRANCHES.iter().zip(lengths) {
            for (i, outputs) in [f, f, 4].into_iter().enumerate() {
                let activation = if i < 2 { ", LeakyReLU" } else { "" };
                let shape = [outputs, stages(length)[2 - i]];
                let name = format!("{branch} transposed conv1d stride 2{activation}");
                layer(name, &shape, outputs * (f * k + 1));
            }
        }
        layer("linear: classes".into(), &[2], 2 * (c.latent + 1));
        layers
    }

    fn flops_forward(&self, enhancer_length: usize, promoter_length: usize) -> f64 {
        let c = &self.config;
        let (f, mut products) = (c.filters as f64, 0.0);
        for length in [enhancer_length, promoter_length] {
            let [_, one, two, three] = stages(length).map(|n| n as f64);
            // The decoder's stages are the encoder's, backwards.
            products += 2.0 * c.kernel_size as f64 * f * (4.0 * one + f * (two + three));
        }
        let columns = columns([enhancer_length, promoter_length]);
        let heads = if self.variational() { 3.0 } else { 2.0 };
        let linear = 2.0 * f * columns as f64 + heads * c.latent as f64;
        2.0 * (products + c.units as f64 * linear + 2.0 * c.latent as f64)
    }

    fn activation_bytes(&self, batch: usize, enhancer_length: usize, promoter_length: usize, train: bool) -> usize {
        let f = self.config.filters;
        let [e, p] = [enhancer_length, promoter_length].map(stages);
        let columns = e[3] + p[3];
        // The largest value with its gradient, twice (before and after LeakyReLU), and what the next stage gets.
        let passing = f * (3 * e[1].max(p[1]) + e[2].max(p[2]));
        let floats = if train {
            // Encoder outputs, joined and flattened; the decoder's input flat, as rows and split; its outputs.
            let encoder = f * (e[1] + e[2] + p[1] + p[2] + 3 * columns);
            let decoder = f * (3 * columns + e[1] + e[2] + p[1] + p[2]) + 8 * (e[0] + p[0]);
            encoder + decoder + passing
        } else {
            passing + 3 * f * columns
        };
        4 * batch * floats
    }

    fn check_lengths(&self, enhancer_length: usize, promoter_length: usize) -> Result<()> {
        for (branch, length) in BRANCHES.iter().zip([enhancer_length, promoter_length]) {
            if length == 0 {
                return Err(Error::config(format!("data.{branch}_length"), "a window needs at least one base"));
            }
        }
        Ok(())
    }

    fn set_objective(&mut self, objective: Objective) -> Result<()> {
        self.objective = objective;
        Ok(())
    }

    fn forward<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        batch: &DeviceBatch<B>,
    ) -> Result<Output<B>> {
        let c = &self.config;
        let dna = [&batch.enhancer, &batch.promoter];
        let hidden = self.hidden(tape, parameters, batch)?;
        let mean = self.linear(tape, parameters, "encoder_linear.2", &hidden)?;
        let log_variance = match self.variational() {
            true => Some(self.linear(tape, parameters, "encoder_log_variance", &hidden)?),
            false => None,
        };
        let z = match &log_variance {
            Some(log_variance) => sample_normal(tape, &mean, log_variance, stream::LATENT)?,
            None => mean.clone(),
        };
        tape.name("z", &z);
        let logits = self.linear(tape, parameters, "head", &z)?;
        let kind = ClassLoss::CrossEntropy;
        let (ce, probabilities) = class_loss(tape, &logits, &batch.labels, &batch.weights, kind)?;

        // A classifier on a code that is not trained needs no decoder, but whoever evaluates wants to know what the code is worth.
        let mut error = None;
        let wanted = self.objective != Objective::Classification || !tape.train();
        // Soft windows have no sequence to be held against.
        if wanted && batch.soft.is_none() {
            let (mut squares, mut quality) = (Vec::new(), Vec::new());
            for (branch, recon) in self.windows(tape, parameters, &z, batch.lengths)?.iter().enumerate() {
                let (square, found) = squared_error(tape, recon, dna[branch])?;
                squares.push(square);
                quality.push(found);
            }
            let values = match c.reconstruction {
                ReconstructionLoss::Mean => 4 * batch.len * (batch.lengths[0] + batch.lengths[1]),
                ReconstructionLoss::Sum => batch.len,
            };
            let share = (1.0 / values as f64) as f32;
            let mse = weighted_sum(tape, &squares.iter().collect::<Vec<_>>(), &[share, share])?;
            error = Some((mse, <[_; 2]>::try_from(quality).expect("two branches")));
        }
        let kl = log_variance.map(|v| kl_divergence(tape, &mean, &v)).transpose()?;
        let mut terms = Vec::new();
        if self.objective != Objective::Classification {
            terms.extend(error.iter().map(|(mse, _)| ("mse", mse, 1.0)));
            terms.extend(kl.iter().map(|kl| ("kl", kl, c.beta)));
        }
        if self.objective != Objective::Reconstruction {
            terms.push(("ce", &ce, 1.0));
        }
        let (loss, terms) = total_loss(tape, parameters, &terms)?;
        let reconstruction = error.map(|(_, quality)| quality);
        Ok(Output { loss, logits, probabilities, terms, reconstruction })
    }

    fn soft_windows(&self) -> bool {
        true
    }

    fn code<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        batch: &DeviceBatch<B>,
    ) -> Result<Var<B>> {
        let hidden = self.hidden(tape, parameters, batch)?;
        self.linear(tape, parameters, "encoder_linear.2", &hidden)
    }

    fn from_code<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        code: &Var<B>,
        lengths: [usize; 2],
    ) -> Result<(Var<B>, [Var<B>; 2])> {
        let logits = self.linear(tape, parameters, "head", code)?;
        Ok((logits, self.windows(tape, parameters, code, lengths)?))
    }

    fn part<'a>(&self, tensor: &'a str) -> &'a str {
        tensor.split(['.', '_']).next().unwrap_or(tensor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(model: &Eplae, part: &str) -> usize {
        model.specs(3000, 2000).iter().filter(|s| model.part(&s.name) == part).map(Spec::len).sum()
    }

    #[test]
    fn full_size_has_the_published_parameter_counts() {
        let model = Eplae::new(EplaeConfig::default());
        assert_eq!(["encoder", "decoder", "head"].map(|p| count(&model, p)), [85_619_200, 85_778_184, 1_026]);
        let by_layer: usize = model.layers(3000, 2000).iter().map(|l| l.parameters).sum();
        assert_eq!(by_layer, 171_398_410);
        let gflop = model.flops_forward(3000, 2000) / 1e9;
        assert!((6.8..7.0).contains(&gflop), "{gflop} GFLOP a sample");
    }

    #[test]
    fn the_variational_one_has_a_second_head_of_the_encoder() {
        let model = Eplae::new(EplaeConfig { variant: Latent::Vae, ..EplaeConfig::default() });
        assert_eq!(count(&model, "encoder"), 85_619_200 + 512 * 513);
        let by_layer: usize = model.layers(3000, 2000).iter().map(|l| l.parameters).sum();
        assert_eq!(by_layer, 171_398_410 + 512 * 513);
    }
}
