//! SPEID: one-hot convolution per branch, bidirectional LSTM over the joined positions, two dense layers.

use super::{DeviceBatch, LayerSummary, Model, Output, SideInput, too_short, total_loss};
use crate::autograd::ops::{
    DnaAffineVars, LstmVars, batch_norm, bilstm, class_loss, concat_length, dna_conv, dropout, linear, relu, reshape,
    soft_dna_conv,
};
use crate::autograd::{Tape, Var};
use crate::backend::{Backend, BatchNorm, ClassLoss, DnaConv, Gate, Tensor};
use crate::config::{GateKind, SpeidConfig};
use crate::data::meme::{self, Motif};
use crate::error::Result;
use crate::nn::{Bound, Init, Parameters, Spec};

/// Batch norm's constants: Keras's, the momentum in PyTorch's sense.
const EPS: f32 = 1e-3;
const MOMENTUM: f32 = 0.01;
/// Dropout streams, one per layer.
const DROPOUT_CONV: u32 = 1;
const DROPOUT_LSTM: u32 = 2;
const DROPOUT_DENSE: u32 = 3;

const BRANCHES: [&str; 2] = ["enhancer", "promoter"];
const DIRECTIONS: [&str; 2] = ["", "_reverse"];

/// SPEID with the sizes of its configuration; 19,848,603 parameters at the preset's.
#[derive(Clone, Debug)]
pub struct Speid {
    config: SpeidConfig,
}

impl Speid {
    /// The network; sizes are checked by [`SpeidConfig`]'s validation. The dense layer reads all positions, so its weight
    /// fits windows of one length only.
    pub fn new(config: SpeidConfig) -> Self {
        Speid { config }
    }
    fn conv(&self) -> DnaConv {
        let SpeidConfig { kernels, kernel_size, pool, .. } = self.config;
        let (train, eps, momentum) = (false, EPS, MOMENTUM); // of batch norm, which does not follow here
        DnaConv { channels: kernels, kernel: kernel_size, pool, train, eps, momentum, dropout: None }
    }
    /// Positions after pooling, both windows.
    fn total_positions(&self, enhancer_length: usize, promoter_length: usize) -> usize {
        self.conv().pooled_length(enhancer_length) + self.conv().pooled_length(promoter_length)
    }
    fn norm<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        name: &str,
        inp: &Var<B>,
    ) -> Result<Var<B>> {
        let gamma = parameters.var(tape, &format!("{name}.weight"))?;
        let beta = parameters.var(tape, &format!("{name}.bias"))?;
        let mean = parameters.statistic(&format!("{name}.running_mean"))?;
        let var = parameters.statistic(&format!("{name}.running_var"))?;
        let spec = BatchNorm { train: tape.train(), eps: EPS, momentum: MOMENTUM };
        batch_norm(tape, inp, &gamma, &beta, [&mean, &var], spec)
    }
    fn lstm<B: Backend>(&self, tape: &mut Tape<B>, parameters: &Bound<'_, B>, inp: &Var<B>) -> Result<Var<B>> {
        let mut direction = |suffix: &str| -> Result<LstmVars<B>> {
            let mut var = |part: &str| parameters.var(tape, &format!("lstm.{part}_l0{suffix}"));
            let (weight_ih, weight_hh, bias_ih) = (var("weight_ih")?, var("weight_hh")?, var("bias")?);
            Ok(LstmVars { weight_ih, weight_hh, bias_ih, bias_hh: None })
        };
        let directions = [direction(DIRECTIONS[0])?, direction(DIRECTIONS[1])?];
        let gate = match self.config.gate {
            GateKind::Sigmoid => Gate::Sigmoid,
            GateKind::HardSigmoid => Gate::HardSigmoid,
        };
        bilstm(tape, inp, &directions, gate)
    }
    fn dense<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        name: &str,
        inp: &Var<B>,
    ) -> Result<Var<B>> {
        let weight = parameters.var(tape, &format!("{name}.weight"))?;
        let bias = parameters.var(tape, &format!("{name}.bias"))?;
        let out = linear(tape, inp, &weight, Some(&bias), false)?;
        self.norm(tape, parameters, &format!("bn_{name}"), &out)
    }
}

/// A filter `[4,K]` with the motif's probabilities less 1/4 in its middle, over what it held; a motif that is wider than
/// the filter gives its own middle.
fn place(motif: &Motif, filter: &mut [f32]) {
    let (kernel, width) = (filter.len() / 4, motif.width());
    let (to, from) = (kernel.saturating_sub(width) / 2, width.saturating_sub(kernel) / 2);
    for (i, base) in motif.probabilities[from..].iter().take(kernel).enumerate() {
        for (a, p) in base.iter().enumerate() {
            filter[a * kernel + to + i] = (p - 0.25) as f32;
        }
    }
}

impl Model for Speid {
    fn name(&self) -> &'static str {
        "speid"
    }

    fn specs(&self, enhancer_length: usize, promoter_length: usize) -> Vec<Spec> {
        let c = &self.config;
        let mut specs = Vec::new();
        let norm = |specs: &mut Vec<Spec>, name: &str, n: usize| {
            specs.push(Spec::new(format!("{name}.weight"), &[n], Init::Constant(1.0)));
            specs.push(Spec::new(format!("{name}.bias"), &[n], Init::Constant(0.0)));
            specs.push(Spec::statistic(format!("{name}.running_mean"), &[n], 0.0));
            specs.push(Spec::statistic(format!("{name}.running_var"), &[n], 1.0));
        };
        for branch in BRANCHES {
            let shape = [c.kernels, 4, c.kernel_size];
            let init = Init::glorot(4 * c.kernel_size, c.kernels * c.kernel_size);
            specs.push(Spec { l2: c.l2_conv, ..Spec::new(format!("{branch}_conv.weight"), &shape, init) });
            specs.push(Spec::new(format!("{branch}_conv.bias"), &[c.kernels], Init::Constant(0.0)));
        }
        norm(&mut specs, "bn_concat", c.kernels);
        let gates = 4 * c.hidden;
        for suffix in DIRECTIONS {
            let name = |part: &str| format!("lstm.{part}_l0{suffix}");
            specs.push(Spec::new(name("weight_ih"), &[gates, c.kernels], Init::glorot(c.kernels, gates)));
            specs.push(Spec::new(name("weight_hh"), &[gates, c.hidden], Init::Orthogonal { columns: c.hidden }));
            let forget = Init::Ones { from: c.hidden, to: 2 * c.hidden };
            specs.push(Spec::new(name("bias"), &[gates], forget));
        }
        norm(&mut specs, "bn_lstm", 2 * c.hidden);
        let flat = self.total_positions(enhancer_length, promoter_length) * 2 * c.hidden;
        for (name, inputs, outputs, l2) in [("dense", flat, c.dense, c.l2_dense), ("final", c.dense, 1, 0.0)] {
            let weight = Spec::new(format!("{name}.weight"), &[outputs, inputs], Init::glorot(inputs, outputs));
            specs.push(Spec { l2, ..weight });
            specs.push(Spec::new(format!("{name}.bias"), &[outputs], Init::Constant(0.0)));
            norm(&mut specs, &format!("bn_{name}"), outputs);
        }
        specs
    }

    fn layers(&self, enhancer_length: usize, promoter_length: usize) -> Vec<LayerSummary> {
        let c = &self.config;
        let mut layers = Vec::new();
        let mut layer = |name: String, shape: &[usize], parameters: usize| {
            layers.push(LayerSummary { name, shape: shape.to_vec(), parameters });
        };
        for (branch, length) in BRANCHES.iter().zip([enhancer_length, promoter_length]) {
            let parameters = c.kernels * (4 * c.kernel_size + 1);
            layer(format!("{branch} conv1d, ReLU"), &[c.kernels, self.conv().conv_length(length)], parameters);
            layer(format!("{branch} max pool {}", c.pool), &[c.kernels, self.conv().pooled_length(length)], 0);
        }
        let t = self.total_positions(enhancer_length, promoter_length);
        layer("concatenate, batch norm, dropout".into(), &[t, c.kernels], 2 * c.kernels);
        let lstm = 2 * 4 * c.hidden * (c.kernels + c.hidden + 1);
        layer("bidirectional LSTM".into(), &[t, 2 * c.hidden], lstm);
        layer("batch norm, dropout".into(), &[t, 2 * c.hidden], 4 * c.hidden);
        layer("linear".into(), &[c.dense], c.dense * (t * 2 * c.hidden + 1));
        layer("batch norm, ReLU, dropout".into(), &[c.dense], 2 * c.dense);
        layer("linear".into(), &[1], c.dense + 1);
        layer("batch norm, sigmoid".into(), &[1], 2);
        layers
    }

    fn flops_forward(&self, enhancer_length: usize, promoter_length: usize) -> f64 {
        let c = &self.config;
        let conv = self.conv().conv_length(enhancer_length) + self.conv().conv_length(promoter_length);
        let t = self.total_positions(enhancer_length, promoter_length);
        let per_position = 2 * 4 * c.hidden * (c.kernels + c.hidden) + 2 * c.hidden * c.dense;
        2.0 * (conv * c.kernels * 4 * c.kernel_size + t * per_position + c.dense) as f64
    }

    fn activation_bytes(&self, batch: usize, enhancer_length: usize, promoter_length: usize, train: bool) -> usize {
        let c = &self.config;
        let rows = batch * self.total_positions(enhancer_length, promoter_length);
        let floats = if train {
            // Pooled and winners, joined, normalised and dropped; LSTM gates and states; its output, normalised and dropped;
            // gradients of two of the widest.
            4 * c.kernels + c.kernels / 4 + 2 * 5 * c.hidden + 3 * 2 * c.hidden + 2 * c.kernels
        } else {
            3 * c.kernels + 2 * 4 * c.hidden + 2 * 2 * c.hidden
        };
        4 * rows * floats
    }

    fn check_lengths(&self, enhancer_length: usize, promoter_length: usize) -> Result<()> {
        for (branch, length) in BRANCHES.iter().zip([enhancer_length, promoter_length]) {
            if self.conv().pooled_length(length) == 0 {
                return Err(too_short(branch, length, self.config.kernel_size + self.config.pool - 1));
            }
        }
        Ok(())
    }

    fn check_files(&self) -> Result<()> {
        self.config.motifs.as_deref().map_or(Ok(()), |path| meme::read(path).map(drop))
    }

    fn start<B: Backend>(&self, parameters: &Parameters<B>) -> Result<()> {
        let (c, Some(path)) = (&self.config, &self.config.motifs) else { return Ok(()) };
        let motifs = meme::read(path)?;
        for branch in BRANCHES {
            let name = format!("{branch}_conv.weight");
            let mut filters = parameters.read(&name)?;
            for (filter, motif) in filters.chunks_exact_mut(4 * c.kernel_size).zip(&motifs) {
                place(motif, filter);
            }
            parameters.set(&name, &filters)?;
        }
        Ok(())
    }

    fn forward<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        batch: &DeviceBatch<B>,
    ) -> Result<Output<B>> {
        let mut branches = Vec::new();
        for side in 0..2 {
            let out = self.positions(tape, parameters, side, batch.input(side), self.config.pool)?;
            tape.name(["pool_enhancer", "pool_promoter"][side], &out);
            branches.push(out);
        }
        let positions = concat_length(tape, &[&branches[0], &branches[1]])?; // [B,T,kernels]
        self.from_positions(tape, parameters, positions, &batch.labels, &batch.weights)
    }

    fn soft_windows(&self) -> bool {
        true
    }

    fn first_convolution(&self) -> Option<DnaConv> {
        Some(self.conv())
    }

    fn positions<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        side: usize,
        input: SideInput<'_, B>,
        pool: usize,
    ) -> Result<Var<B>> {
        let weight = parameters.var(tape, &format!("{}_conv.weight", BRANCHES[side]))?;
        let affine = DnaAffineVars::Bias(parameters.var(tape, &format!("{}_conv.bias", BRANCHES[side]))?);
        let spec = DnaConv { pool, ..self.conv() };
        match input {
            SideInput::Dna(dna) => dna_conv(tape, dna, &weight, &affine, spec),
            SideInput::Soft(soft) => soft_dna_conv(tape, soft, &weight, &affine, spec),
        }
    }

    fn from_positions<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        positions: Var<B>,
        labels: &Tensor<B>,
        weights: &Tensor<B>,
    ) -> Result<Output<B>> {
        let (c, samples) = (&self.config, positions.shape()[0]);
        let positions = self.norm(tape, parameters, "bn_concat", &positions)?;
        let positions = dropout(tape, &positions, c.dropout_conv, DROPOUT_CONV)?;
        let hidden = self.lstm(tape, parameters, &positions)?; // [B,T,2H]
        tape.name("lstm", &hidden);
        let hidden = self.norm(tape, parameters, "bn_lstm", &hidden)?;
        let hidden = dropout(tape, &hidden, c.dropout_lstm, DROPOUT_LSTM)?;
        let flat = hidden.value().len() / samples;
        let hidden = reshape(tape, &hidden, &[samples, flat])?;
        let dense = self.dense(tape, parameters, "dense", &hidden)?;
        let dense = relu(tape, &dense)?; // [B,dense]
        tape.name("dense", &dense);
        let dense = dropout(tape, &dense, c.dropout_dense, DROPOUT_DENSE)?;
        let logits = self.dense(tape, parameters, "final", &dense)?; // [B,1]
        let kind = ClassLoss::BinaryCrossEntropy;
        let (bce, probabilities) = class_loss(tape, &logits, labels, weights, kind)?;
        let (loss, terms) = total_loss(tape, parameters, &[("bce", &bce, 1.0)])?;
        Ok(Output { loss, logits, probabilities, terms, reconstruction: None })
    }

    fn part<'a>(&self, tensor: &'a str) -> &'a str {
        match tensor.split('.').next().unwrap_or(tensor) {
            "enhancer_conv" => "enhancer convolution",
            "promoter_conv" => "promoter convolution",
            "lstm" => "LSTM",
            "dense" | "final" => "dense layers",
            _ => "batch norm",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_size_has_the_published_parameter_count() {
        let model = Speid::new(SpeidConfig::default());
        let specs = model.specs(3000, 2000);
        let count = |all: bool| specs.iter().filter(|s| all || s.trainable).map(Spec::len).sum::<usize>();
        assert_eq!((count(false), count(true)), (19_848_603, 19_850_805));
        let by_layer: usize = model.layers(3000, 2000).iter().map(|l| l.parameters).sum();
        assert_eq!(by_layer, 19_848_603);
    }

    #[test]
    fn motifs_lie_in_the_middle_of_filters() {
        let row = |p: f64| [p, (1.0 - p) / 3.0, (1.0 - p) / 3.0, (1.0 - p) / 3.0];
        let motif = |ps: &[f64]| Motif { id: "m".into(), probabilities: ps.iter().map(|&p| row(p)).collect() };
        let mut filter = [9.0f32; 4 * 5];
        place(&motif(&[1.0, 0.5]), &mut filter);
        assert_eq!(filter[..5], [9.0, 0.75, 0.25, 9.0, 9.0], "the row of A");
        assert_eq!(filter[5..8], [9.0, -0.25, (1.0f64 / 6.0 - 0.25) as f32], "the row of C");
        let mut filter = [9.0f32; 4 * 2];
        place(&motif(&[0.1, 0.25, 0.75, 0.1]), &mut filter);
        assert_eq!(filter[..2], [0.0, 0.5], "a wide motif gives its middle");
    }
}
