//! What the primitives cost, formula by formula: the numerators of GFLOP/s, GB/s and rooflines.
//!
//! FLOPs are those of the arithmetic that the contract asks for, with every multiply-add as two, whatever an implementation
//! saves or repeats. Bytes are the fewest: every input read once, every output written once, four bytes a number.

use super::{Attention, Conv1d, DnaConv};

/// Work of one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Cost {
    pub flops: f64,
    pub bytes: f64,
}

/// What a device can do at best, measured.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Ceilings {
    /// Floating-point operations per second, multiply-adds in registers only.
    pub flops: f64,
    /// Bytes per second, read plus written, of arrays that no cache holds.
    pub bytes: f64,
}

impl Cost {
    fn floats(flops: usize, floats: usize) -> Cost {
        Cost { flops: flops as f64, bytes: 4.0 * floats as f64 }
    }
    /// Seconds below which no implementation can go, and whether memory (rather than arithmetic) sets them.
    pub fn floor(&self, ceilings: &Ceilings) -> (f64, bool) {
        let (arithmetic, memory) = (self.flops / ceilings.flops, self.bytes / ceilings.bytes);
        (arithmetic.max(memory), memory > arithmetic)
    }
}

/// Three bit planes of `bases`, in floats.
fn planes(bases: usize) -> usize {
    (3 * bases).div_ceil(32)
}

/// One addition a tap, because three of a base's four factors are zero (dense: 8 times as much).
pub fn dna_conv(batch: usize, length: usize, spec: &DnaConv) -> Cost {
    let (conv, out) = (spec.conv_length(length), batch * spec.pooled_length(length) * spec.channels);
    let filters = 4 * spec.channels * spec.kernel;
    Cost::floats(batch * conv * spec.channels * spec.kernel, planes(batch * length) + filters + out)
}
/// One addition a tap of each pooled maximum; `dweight` is read and written.
pub fn dna_conv_backward(batch: usize, length: usize, spec: &DnaConv) -> Cost {
    let dout = batch * spec.pooled_length(length) * spec.channels;
    Cost::floats(dout * spec.kernel, planes(batch * length) + dout + 3 * 4 * spec.channels * spec.kernel)
}
/// `conv1d` and its two gradients: one product each; `slots` says whether the weight is an output (read and written).
pub fn conv1d(batch: usize, length: usize, [o, i, k]: [usize; 3], spec: Conv1d, slots: bool) -> Cost {
    let out = spec.output_length(length, k);
    let weight = o * i * k * if slots { 2 } else { 1 };
    Cost::floats(2 * batch * out * o * i * k, batch * (length * i + out * o) + weight)
}
/// Convolution of DNA and its weight gradient: one addition a tap, as [`dna_conv`].
pub fn dna_conv1d(batch: usize, length: usize, [o, k]: [usize; 2], spec: Conv1d, slots: bool) -> Cost {
    let out = batch * spec.output_length(length, k) * o;
    let weight = (4 * k + 1) * o * if slots { 2 } else { 1 };
    Cost::floats(out * k, planes(batch * length) + out + weight)
}
/// `linear` and its input gradient, `[rows,i]` and `[rows,o]`.
pub fn linear(rows: usize, i: usize, o: usize) -> Cost {
    Cost::floats(2 * rows * i * o, rows * (i + o) + i * o + o)
}
/// Both slots are read and written.
pub fn linear_backward_weight(rows: usize, i: usize, o: usize) -> Cost {
    Cost::floats(rows * o * (2 * i + 1), rows * (i + o) + 2 * (i * o + o))
}
/// Both directions: the products with `W_ih` `[4h,i]` and `W_hh` `[4h,h]`; with `save`, four gates and a state a unit.
pub fn lstm(rows: usize, i: usize, h: usize, save: bool) -> Cost {
    let weights = 2 * 4 * h * (i + h + 2);
    let saved = if save { 2 * 5 * h } else { 0 };
    Cost::floats(2 * 2 * rows * 4 * h * (i + h), rows * (i + 2 * h + saved) + weights)
}
/// Two products for each of the forward pass: gradients of the input and of the weights.
pub fn lstm_backward(rows: usize, i: usize, h: usize) -> Cost {
    let weights = 2 * 4 * h * (i + h + 2);
    Cost::floats(2 * 2 * 2 * rows * 4 * h * (i + h), rows * (2 * i + 2 * 2 * h + 2 * 5 * h) + 3 * weights)
}
/// Two products of `t × t × d` a head.
pub fn attention(batch: usize, t: usize, spec: &Attention) -> Cost {
    let width = spec.heads * spec.head_size;
    Cost::floats(2 * 2 * batch * t * t * width, batch * t * (4 * width + spec.heads))
}
/// Five products of `t × t × d` a head: the scores again, dV, dP, dQ, dK.
pub fn attention_backward(batch: usize, t: usize, spec: &Attention) -> Cost {
    let width = spec.heads * spec.head_size;
    Cost::floats(5 * 2 * batch * t * t * width, batch * t * (8 * width + spec.heads))
}
/// `flops` operations on each of `n` elements of which `floats` numbers are moved.
pub fn elementwise(n: usize, flops: usize, floats: usize) -> Cost {
    Cost::floats(n * flops, n * floats)
}
/// `n` numbers in, `out` numbers out, an operation for each of the larger side.
pub fn reduction(n: usize, out: usize) -> Cost {
    Cost::floats(n.max(out), n + out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_shapes_by_hand() {
        // [2,3] times [3,5] transposed, plus bias.
        assert_eq!(linear(2, 3, 5), Cost { flops: 60.0, bytes: 4.0 * (6 + 10 + 15 + 5) as f64 });
        let spec = Attention { heads: 2, head_size: 4, relu: false, dropout: None };
        assert_eq!(attention(1, 3, &spec), Cost { flops: 288.0, bytes: 4.0 * (72 + 24 + 6) as f64 });
        let conv = conv1d(1, 10, [3, 2, 4], Conv1d { stride: 2, padding: 1 }, false);
        assert_eq!(conv, Cost { flops: (2 * 5 * 3 * 2 * 4) as f64, bytes: 4.0 * (20 + 15 + 24) as f64 });
    }

    #[test]
    fn backward_is_twice_forward_where_it_should_be() {
        assert_eq!(lstm_backward(7, 5, 3).flops, 2.0 * lstm(7, 5, 3, true).flops);
        let spec = Attention { heads: 2, head_size: 4, relu: false, dropout: None };
        assert_eq!(attention_backward(2, 9, &spec).flops, 2.5 * attention(2, 9, &spec).flops);
    }

    #[test]
    fn the_slower_ceiling_sets_the_floor() {
        let ceilings = Ceilings { flops: 100.0, bytes: 10.0 };
        assert_eq!(Cost { flops: 200.0, bytes: 10.0 }.floor(&ceilings), (2.0, false));
        assert_eq!(Cost { flops: 200.0, bytes: 40.0 }.floor(&ceilings), (4.0, true));
    }
}
