//! EPSAT: one-hot convolution per branch, bidirectional LSTM over the joined positions, multi-head self-attention.

use super::{Changed, DeviceBatch, Kept, LayerSummary, Model, Output, SideInput, too_short, total_loss};
use crate::autograd::ops::{
    DnaAffineVars, LstmVars, attention, bilstm, class_loss, concat_length, dna_conv, dropout, linear, position_sum,
    readout_norm, soft_dna_conv, swap_leading,
};
use crate::autograd::{Tape, Var};
use crate::backend::{Attention, Backend, ClassLoss, DnaConv, Gate, ReadoutNorm, Tensor};
use crate::config::{EpsatConfig, LossKind, LstmAxis, NormKind};
use crate::error::Result;
use crate::nn::{Bound, Init, Spec};

/// Batch norm's constants, as in the released program.
const EPS: f32 = 1e-5;
const MOMENTUM: f32 = 0.1;
/// Dropout streams, one per layer.
const DROPOUT_CONV: [u32; 2] = [1, 2];
const DROPOUT_LSTM: u32 = 3;
const DROPOUT_ATTENTION: u32 = 4;

const BRANCHES: [&str; 2] = ["enhancer", "promoter"];
const DIRECTIONS: [&str; 2] = ["", "_reverse"];

/// EPSAT with the sizes of its configuration; 685,070 parameters at the preset's.
#[derive(Clone, Debug)]
pub struct Epsat {
    config: EpsatConfig,
}

impl Epsat {
    /// The network; sizes are checked by [`EpsatConfig`]'s validation.
    pub fn new(config: EpsatConfig) -> Self {
        Epsat { config }
    }
    fn conv(&self, train: bool) -> DnaConv {
        let c = &self.config;
        DnaConv {
            channels: c.kernels,
            kernel: c.kernel_size,
            pool: c.pool,
            train,
            eps: EPS,
            momentum: MOMENTUM,
            dropout: None,
        }
    }
    fn pooled(&self, lengths: [usize; 2]) -> [usize; 2] {
        lengths.map(|l| self.conv(false).pooled_length(l))
    }
    fn lstm<B: Backend>(&self, tape: &mut Tape<B>, parameters: &Bound<'_, B>, inp: Var<B>) -> Result<Var<B>> {
        let over_batch = self.config.lstm_axis == LstmAxis::Batch;
        let mut x = if over_batch { swap_leading(tape, &inp)? } else { inp };
        for layer in 0..self.config.layers {
            let mut direction = |suffix: &str| -> Result<LstmVars<B>> {
                let mut var = |part: &str| parameters.var(tape, &format!("lstm_layer.0.{part}_l{layer}{suffix}"));
                Ok(LstmVars {
                    weight_ih: var("weight_ih")?,
                    weight_hh: var("weight_hh")?,
                    bias_ih: var("bias_ih")?,
                    bias_hh: Some(var("bias_hh")?),
                })
            };
            let directions = [direction(DIRECTIONS[0])?, direction(DIRECTIONS[1])?];
            x = bilstm(tape, &x, &directions, Gate::Sigmoid)?;
        }
        if over_batch { swap_leading(tape, &x) } else { Ok(x) }
    }
    /// Channels of a joined position.
    pub(super) fn channels(&self) -> usize {
        self.config.kernels
    }
    /// LSTM layers.
    pub(super) fn layer_count(&self) -> usize {
        self.config.layers
    }
    /// Queries, keys and values of all heads, `[B,T,2H]` → `[B,T,3*heads*D]`.
    pub(super) fn qkv<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        hidden: &Var<B>,
    ) -> Result<Var<B>> {
        let c = &self.config;
        let qkv_size = 3 * c.heads * c.head_size;
        let weight = parameters.fused(tape, "Q.0.weight", &[qkv_size, 2 * c.hidden])?;
        let bias = parameters.fused(tape, "Q.0.bias", &[qkv_size])?;
        let qkv = linear(tape, hidden, &weight, Some(&bias), false)?;
        tape.name("qkv", &qkv);
        Ok(qkv)
    }
    /// Attention, readout and loss.
    fn from_qkv<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        qkv: &Var<B>,
        labels: &Tensor<B>,
        weights: &Tensor<B>,
    ) -> Result<Output<B>> {
        let c = &self.config;
        let weights_dropout = tape.dropout(c.dropout_attention, DROPOUT_ATTENTION);
        let spec = Attention { heads: c.heads, head_size: c.head_size, relu: true, dropout: weights_dropout };
        let attended = attention(tape, qkv, spec)?; // [B,T,heads*D]
        self.from_attended(tape, parameters, &attended, labels, weights)
    }
    /// Readout and loss of the heads' outputs `[B,T,heads*D]`.
    pub(super) fn from_attended<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        attended: &Var<B>,
        labels: &Tensor<B>,
        weights: &Tensor<B>,
    ) -> Result<Output<B>> {
        let c = &self.config;
        tape.name("attention", attended);
        let weight = parameters.var(tape, "MultiHeadLinear.weight")?;
        let bias = parameters.var(tape, "MultiHeadLinear.bias")?;
        let mixed = linear(tape, attended, &weight, Some(&bias), true)?;
        let summed = position_sum(tape, &mixed)?; // [B,readout]
        tape.name("readout_sum", &summed);
        let mode = match c.readout_norm {
            NormKind::Sample => ReadoutNorm::Sample,
            NormKind::Batch => ReadoutNorm::Batch,
        };
        let readout = readout_norm(tape, &summed, mode)?;
        tape.name("readout_norm", &readout);
        let weight = parameters.var(tape, "fc3.weight")?;
        let bias = parameters.var(tape, "fc3.bias")?;
        let logits = linear(tape, &readout, &weight, Some(&bias), false)?; // [B,2]
        let kind = match c.loss {
            LossKind::CrossEntropy => ClassLoss::CrossEntropy,
            LossKind::ExchangedCrossEntropy => ClassLoss::ExchangedCrossEntropy,
        };
        let (ce, probabilities) = class_loss(tape, &logits, labels, weights, kind)?;
        let (loss, terms) = total_loss(tape, parameters, &[("ce", &ce, 1.0)])?;
        Ok(Output { loss, logits, probabilities, terms, reconstruction: None })
    }
}

impl Model for Epsat {
    fn name(&self) -> &'static str {
        "epsat"
    }

    fn specs(&self, _: usize, _: usize) -> Vec<Spec> {
        let c = &self.config;
        let mut specs = Vec::new();
        for branch in BRANCHES {
            let norm = |part: &str| format!("{branch}_conv_layer.1.{part}");
            let fan_in = Init::fan_in(4 * c.kernel_size);
            specs.push(Spec::new(format!("{branch}_conv_layer.0.weight"), &[c.kernels, 4, c.kernel_size], fan_in));
            specs.push(Spec::new(norm("weight"), &[c.kernels], Init::Constant(1.0)));
            specs.push(Spec::new(norm("bias"), &[c.kernels], Init::Constant(0.0)));
            specs.push(Spec::statistic(norm("running_mean"), &[c.kernels], 0.0));
            specs.push(Spec::statistic(norm("running_var"), &[c.kernels], 1.0));
        }
        let bound = Init::fan_in(c.hidden);
        for layer in 0..c.layers {
            let inputs = if layer == 0 { c.kernels } else { 2 * c.hidden };
            for suffix in DIRECTIONS {
                let name = |part: &str| format!("lstm_layer.0.{part}_l{layer}{suffix}");
                specs.push(Spec::new(name("weight_ih"), &[4 * c.hidden, inputs], bound));
                specs.push(Spec::new(name("weight_hh"), &[4 * c.hidden, c.hidden], bound));
                specs.push(Spec::new(name("bias_ih"), &[4 * c.hidden], bound));
                specs.push(Spec::new(name("bias_hh"), &[4 * c.hidden], bound));
            }
        }
        // Queries, keys and values of all heads lie side by side, so that one product computes them all.
        let fan_in = Init::fan_in(2 * c.hidden);
        for (part, shape) in [("weight", vec![c.head_size, 2 * c.hidden]), ("bias", vec![c.head_size])] {
            for which in ["Q", "K", "V"] {
                for head in 0..c.heads {
                    let spec = Spec::new(format!("{which}.{head}.{part}"), &shape, fan_in);
                    specs.push(if which == "Q" && head == 0 { spec } else { spec.joined() });
                }
            }
        }
        let heads = c.heads * c.head_size;
        specs.push(Spec::new("MultiHeadLinear.weight", &[c.readout, heads], Init::fan_in(heads)));
        specs.push(Spec::new("MultiHeadLinear.bias", &[c.readout], Init::fan_in(heads)));
        specs.push(Spec::new("fc3.weight", &[2, c.readout], Init::fan_in(c.readout)));
        specs.push(Spec::new("fc3.bias", &[2], Init::fan_in(c.readout)));
        specs
    }

    fn layers(&self, enhancer_length: usize, promoter_length: usize) -> Vec<LayerSummary> {
        let c = &self.config;
        let lengths = [enhancer_length, promoter_length];
        let pooled = self.pooled(lengths);
        let t = pooled[0] + pooled[1];
        let mut layers = Vec::new();
        let mut layer = |name: String, shape: &[usize], parameters: usize| {
            layers.push(LayerSummary { name, shape: shape.to_vec(), parameters });
        };
        for (i, branch) in BRANCHES.iter().enumerate() {
            let conv = self.conv(false).conv_length(lengths[i]);
            layer(format!("{branch} conv1d"), &[c.kernels, conv], c.kernels * 4 * c.kernel_size);
            layer(format!("{branch} batch norm, ReLU"), &[c.kernels, conv], 2 * c.kernels);
            layer(format!("{branch} max pool {}, dropout", c.pool), &[c.kernels, pooled[i]], 0);
        }
        layer("concatenate".into(), &[t, c.kernels], 0);
        for l in 0..c.layers {
            let inputs = if l == 0 { c.kernels } else { 2 * c.hidden };
            let parameters = 2 * 4 * c.hidden * (inputs + c.hidden + 2);
            layer(format!("bidirectional LSTM {l}"), &[t, 2 * c.hidden], parameters);
        }
        let heads = c.heads * c.head_size;
        layer("attention, ReLU".into(), &[t, heads], 3 * heads * (2 * c.hidden + 1));
        layer("linear, ReLU".into(), &[t, c.readout], c.readout * (heads + 1));
        layer("sum over positions, readout normalisation".into(), &[c.readout], 0);
        layer("linear".into(), &[2], 2 * (c.readout + 1));
        layers
    }

    fn flops_forward(&self, enhancer_length: usize, promoter_length: usize) -> f64 {
        let c = &self.config;
        let lengths = [enhancer_length, promoter_length];
        let conv: usize = lengths.iter().map(|&l| self.conv(false).conv_length(l)).sum();
        let t = self.pooled(lengths).iter().sum::<usize>() as f64;
        let f = |n: usize| n as f64;
        let heads = f(c.heads * c.head_size);
        let lstm: f64 = (0..c.layers)
            .map(|l| 2.0 * f(4 * c.hidden) * f(c.hidden + if l == 0 { c.kernels } else { 2 * c.hidden }))
            .sum();
        let per_position = lstm + 3.0 * heads * f(2 * c.hidden) + heads * f(c.readout);
        2.0 * (f(conv * c.kernels * 4 * c.kernel_size) + t * per_position + 2.0 * t * t * heads)
    }

    fn activation_bytes(&self, batch: usize, enhancer_length: usize, promoter_length: usize, train: bool) -> usize {
        let c = &self.config;
        let rows = batch * self.pooled([enhancer_length, promoter_length]).iter().sum::<usize>();
        let heads = c.heads * c.head_size;
        let floats = if train {
            // While attention goes backward: joined positions and winners, LSTM gates and outputs, dropout, QKV (whose
            // gradient takes its place), heads and theirs.
            c.kernels + c.kernels / 4 + c.layers * (2 * 5 * c.hidden) + 2 * c.hidden + 3 * heads + 2 * heads
        } else {
            2 * c.kernels + 2 * 6 * c.hidden + 4 * heads + c.readout
        };
        4 * rows * floats
    }

    fn check_lengths(&self, enhancer_length: usize, promoter_length: usize) -> Result<()> {
        for (branch, length) in BRANCHES.iter().zip([enhancer_length, promoter_length]) {
            if self.conv(false).pooled_length(length) == 0 {
                return Err(too_short(branch, length, self.config.kernel_size + self.config.pool - 1));
            }
        }
        Ok(())
    }

    fn forward<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        batch: &DeviceBatch<B>,
    ) -> Result<Output<B>> {
        let pool = self.config.pool;
        let mut branches = Vec::new();
        for side in 0..2 {
            let out = self.positions(tape, parameters, side, batch.input(side), pool)?;
            tape.name(["pool_enhancer", "pool_promoter"][side], &out);
            branches.push(out);
        }
        let positions = concat_length(tape, &[&branches[0], &branches[1]])?; // [B,T,kernels]
        drop(branches);
        self.from_positions(tape, parameters, positions, &batch.labels, &batch.weights)
    }

    fn soft_windows(&self) -> bool {
        true
    }

    fn first_convolution(&self) -> Option<DnaConv> {
        Some(self.conv(false))
    }

    fn positions<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        side: usize,
        input: SideInput<'_, B>,
        pool: usize,
    ) -> Result<Var<B>> {
        let name = BRANCHES[side];
        let weight = parameters.var(tape, &format!("{name}_conv_layer.0.weight"))?;
        let affine = DnaAffineVars::BatchNorm {
            gamma: parameters.var(tape, &format!("{name}_conv_layer.1.weight"))?,
            beta: parameters.var(tape, &format!("{name}_conv_layer.1.bias"))?,
            running_mean: parameters.statistic(&format!("{name}_conv_layer.1.running_mean"))?,
            running_var: parameters.statistic(&format!("{name}_conv_layer.1.running_var"))?,
        };
        let dropout = tape.dropout(self.config.dropout_conv, DROPOUT_CONV[side]);
        let spec = DnaConv { dropout, pool, ..self.conv(tape.train()) };
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
        let hidden = self.lstm(tape, parameters, positions)?; // [B,T,2H]
        tape.name("lstm", &hidden);
        let hidden = dropout(tape, &hidden, self.config.dropout_lstm, DROPOUT_LSTM)?;
        let qkv = self.qkv(tape, parameters, &hidden)?;
        self.from_qkv(tape, parameters, &qkv, labels, weights)
    }

    fn keep<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        positions: &[f32],
    ) -> Result<Option<Kept<B>>> {
        self.scores_samples_alone().then(|| self.keep_states(tape, parameters, positions)).transpose()
    }

    fn from_changed<B: Backend>(
        &self,
        tape: &mut Tape<B>,
        parameters: &Bound<'_, B>,
        kept: &Kept<B>,
        changed: &Changed,
        margin: usize,
        labels: &Tensor<B>,
        weights: &Tensor<B>,
    ) -> Result<Output<B>> {
        self.rerun(tape, parameters, kept, changed, margin, labels, weights)
    }

    fn attention(&self) -> Option<Attention> {
        let c = &self.config;
        Some(Attention { heads: c.heads, head_size: c.head_size, relu: true, dropout: None })
    }

    fn part<'a>(&self, tensor: &'a str) -> &'a str {
        match tensor.split(['.', '_']).next().unwrap_or(tensor) {
            "enhancer" => "enhancer convolution",
            "promoter" => "promoter convolution",
            "lstm" => "LSTM",
            "Q" | "K" | "V" => "attention",
            _ => "readout",
        }
    }

    fn scores_samples_alone(&self) -> bool {
        self.config.lstm_axis == LstmAxis::Position && self.config.readout_norm == NormKind::Sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_size_has_the_published_parameter_count() {
        let model = Epsat::new(EpsatConfig::default());
        let count: usize = model.specs(3000, 2000).iter().filter(|s| s.trainable).map(Spec::len).sum();
        assert_eq!(count, 685_070);
        let by_layer: usize = model.layers(3000, 2000).iter().map(|l| l.parameters).sum();
        assert_eq!(by_layer, 685_070);
        let gflop = model.flops_forward(3000, 2000) / 1e9;
        assert!((1.8..2.1).contains(&gflop), "{gflop} GFLOP a sample");
    }
}
