//! Variants of CUDA kernels that a plain run does not choose: tensor cores, large tiles, weights in registers.

use crate::attention::{attention, check_cuts};
use crate::conv_transpose1d::EPLAE;
use crate::harness::case::Values;
use crate::harness::compare::{check_against_reference, check_roughly, largest};
use crate::harness::run::{Options, execute};
use crate::harness::{Fill, Input, Op, SEED, emulators};
use crate::linear::Linear;
use crate::lstm::lstm;
use crate::{conv_leaky, conv_transpose1d, conv1d, dna_conv1d};
use epi_engine::backend::cuda::{Cuda, LstmVariant, Precision};
use epi_engine::backend::reference::Reference;
use epi_engine::backend::{Conv1d, Gate};

/// Rounds every number to a small integer, so that products of bf16 with f32 sums are exact.
fn whole(mut inputs: Vec<Input>) -> Vec<Input> {
    for input in &mut inputs {
        if let Values::Float(values) = &mut input.values {
            let top = largest(values);
            values.iter_mut().for_each(|v| *v = (*v * 7.0 / top).round());
        }
    }
    inputs
}

/// Every result equals the oracle's in every bit: a wrong fragment layout cannot hide.
fn check_exactly(b: &Cuda, op: &impl Op) {
    let inputs = whole(op.inputs(Fill::Randn, SEED));
    // Cotangents are whole too: the harness draws them from a normal, so only the forward pass is exact there.
    let options = Options { backward: false, ..Options::default() };
    let truth = execute(&Reference::<f64>::new(), op, &inputs, options).unwrap();
    let got = execute(b, op, &inputs, options).unwrap();
    assert_eq!(got["out"].values, truth["out"].values, "{op:?}");
}

fn linear(rows: &'static [usize], inputs: usize, outputs: usize) -> Linear {
    Linear { rows, inputs, outputs, bias: true, relu: false }
}

#[test]
fn tensor_core_products_are_exact_on_whole_numbers() {
    for b in emulators() {
        let b = b.with_precision(Precision::Bf16);
        for (rows, inputs, outputs) in [
            (&[1][..], 1, 1),
            (&[17], 16, 8),
            (&[65], 31, 63),
            (&[5], 200, 130),
            (&[70], 100, 100), // from here on f32 operands, rounded inside; each tile once
            (&[128], 36, 104),
            (&[150], 64, 128),
            (&[127], 20, 127),
            (&[64], 300, 212), // one row of tiles: weights in f32
            (&[3], 2112, 12),  // k is cut
        ] {
            check_exactly(&b, &linear(rows, inputs, outputs));
        }
    }
}

#[test]
fn tensor_core_products_differentiate() {
    for b in emulators() {
        let b = b.with_precision(Precision::Bf16);
        for (rows, inputs, outputs) in [
            (&[1][..], 1, 1),
            (&[65], 31, 63),
            (&[1001], 17, 30),
            (&[1001], 20, 32), // from here on f32 operands; with sums of dout in the padding, where there is any
            (&[300], 100, 64),
            (&[300], 100, 66),
            (&[517], 128, 120),
            (&[31], 104, 128),
            (&[64], 212, 300), // one row of tiles: weights in f32
            (&[2], 4, 4),
        ] {
            check_roughly(&b, &linear(rows, inputs, outputs), 0.02, Options::default());
        }
    }
}

/// Convolutions on tensor cores, in both tiles: over several sequences a tile, beyond both ends of a sequence, with fewer numbers
/// a window than a slice and with more windows than a chunk; some behind a LeakyReLU of this slope.
fn convolutions(
    leaky: Option<f32>,
) -> (Vec<conv1d::Conv>, Vec<conv_transpose1d::ConvTranspose>, Vec<dna_conv1d::DnaConv1d>) {
    (
        vec![
            conv1d::conv([2, 67, 8, 132, 13], 2, 6, true),
            conv1d::conv([3, 150, 4, 128, 13], 2, 6, true),
            conv1d::conv([1, 5, 4, 4, 13], 2, 6, true),
            conv1d::conv([2, 531, 12, 28, 13], 2, 6, true),
            conv1d::conv([2, 40, 16, 12, 3], 1, 1, false),
            conv1d::conv([70, 9, 44, 12, 5], 3, 2, true),
            conv1d::conv([2, 31, 5, 6, 13], 2, 6, true), // channels that tensor cores do not read
        ],
        vec![
            conv_transpose1d::op([2, 67, 20, 12, 13], EPLAE, leaky),
            conv_transpose1d::op([3, 300, 4, 128, 13], EPLAE, None),
            conv_transpose1d::op([3, 301, 64, 4, 13], EPLAE, None), // few outputs: one product for all taps
            conv_transpose1d::op([2, 12, 8, 132, 2], Conv1d { stride: 5, padding: 1 }, None), // some meet no tap
        ],
        vec![dna_conv1d::op([2, 531, 32, 13], EPLAE, leaky), dna_conv1d::op([17, 131, 128, 13], EPLAE, None)],
    )
}

#[test]
fn tensor_core_convolutions_are_exact_on_whole_numbers() {
    let (plain, transposed, dna) = convolutions(Some(0.25));
    for b in emulators() {
        let b = b.with_precision(Precision::Bf16);
        plain.iter().for_each(|op| check_exactly(&b, op));
        transposed.iter().for_each(|op| check_exactly(&b, op));
        dna.iter().for_each(|op| check_exactly(&b, op));
    }
}

#[test]
fn tensor_core_convolutions_differentiate() {
    let (plain, transposed, dna) = convolutions(None); // rounding moves values across a corner
    for b in emulators() {
        let b = b.with_precision(Precision::Bf16);
        plain.iter().for_each(|op| check_roughly(&b, op, 0.02, Options::default()));
        transposed.iter().for_each(|op| check_roughly(&b, op, 0.02, Options::default()));
        dna.iter().for_each(|op| check_roughly(&b, op, 0.02, Options::default()));
        conv_leaky::small()
            .iter()
            .chain(&conv_leaky::large())
            .for_each(|op| check_roughly(&b, op, 0.02, Options::default()));
    }
}

#[test]
fn large_tiles_agree() {
    for b in emulators() {
        let op = linear(&[1500], 19, 1410);
        let options = Options { backward: false, ..Options::default() };
        let inputs = whole(op.inputs(Fill::Randn, SEED));
        let truth = execute(&Reference::<f32>::new(), &op, &inputs, options).unwrap();
        for precision in [Precision::F32, Precision::Bf16] {
            let got = execute(&b.clone().with_precision(precision), &op, &inputs, options).unwrap();
            assert!(got["out"].values == truth["out"].values, "{precision:?}");
        }
    }
}

#[test]
fn tensor_core_attention_agrees() {
    for b in emulators() {
        let b = b.with_precision(Precision::Bf16);
        for (size, dropout) in [
            ([1, 1, 1, 1], 0.0),
            ([2, 17, 2, 8], 0.0),
            ([2, 5, 3, 33], 0.4),
            ([1, 64, 1, 32], 0.2),
            ([1, 65, 2, 32], 0.2),
            ([2, 131, 1, 64], 0.5),
        ] {
            check_roughly(&b, &attention(size, false, dropout), 0.03, Options::default());
        }
    }
}

#[test]
fn tensor_core_attention_cuts_where_relu_did() {
    for b in emulators() {
        check_cuts(&b, &b.clone().with_precision(Precision::Bf16));
    }
}

#[test]
fn tensor_core_lstm_agrees() {
    for b in emulators() {
        let b = b.with_precision(Precision::Bf16);
        let sizes = [[2, 1, 5, 4], [3, 7, 10, 12], [2, 9, 12, 8], [2, 37, 40, 100], [3, 7, 8, 100], [2, 5, 10, 100]];
        for size in sizes.into_iter().chain([[3, 7, 8, 50], [2, 5, 10, 50]]) {
            check_roughly(&b, &lstm(size, true, Gate::Sigmoid), 0.03, Options::default());
        }
    }
}

#[test]
fn the_recurrence_on_tensor_cores_agrees() {
    for b in emulators() {
        let b = b.with_precision(Precision::Bf16).with_lstm(LstmVariant::TensorCores);
        for size in [[1, 1, 4, 100], [9, 6, 8, 100], [2, 5, 10, 100], [17, 2, 12, 100]] {
            check_roughly(&b, &lstm(size, true, Gate::Sigmoid), 0.03, Options::default());
        }
        // Where it was not made for, another one runs.
        check_roughly(&b, &lstm([2, 5, 8, 12], true, Gate::Sigmoid), 0.03, Options::default());
    }
}

#[test]
fn several_models_share_the_card_by_the_recurrence_on_tensor_cores() {
    for b in emulators() {
        let op = lstm([9, 6, 8, 100], true, Gate::Sigmoid);
        let inputs = op.inputs(Fill::Randn, SEED);
        let bits = |b: &Cuda| -> Vec<_> {
            let results = execute(b, &op, &inputs, Options::default()).unwrap();
            results.into_iter().map(|(name, result)| (name, result.values)).collect()
        };
        let bf16 = b.clone().with_precision(Precision::Bf16);
        let on_tensor_cores = bits(&bf16.clone().with_lstm(LstmVariant::TensorCores));
        assert!(bits(&bf16) != on_tensor_cores);
        assert!([2, 6].iter().all(|&models| bits(&bf16.clone().among(models)) == on_tensor_cores));
        assert!(bits(&b) == bits(&b.clone().among(2)), "f32");
    }
}

#[test]
fn every_recurrence_agrees_with_the_reference() {
    for b in emulators() {
        for variant in [LstmVariant::General, LstmVariant::Resident1, LstmVariant::Resident2] {
            let b = b.clone().with_lstm(variant);
            for (size, gate) in [
                ([3, 7, 5, 100], Gate::Sigmoid),
                ([1, 1, 2, 100], Gate::HardSigmoid),
                ([3, 7, 5, 50], Gate::Sigmoid),
                ([1, 1, 2, 50], Gate::Sigmoid),
            ] {
                check_against_reference(&b, &lstm(size, true, gate), Fill::Randn);
            }
        }
    }
}

#[test]
fn one_and_two_sequences_a_block_give_the_same_bits() {
    for b in emulators() {
        for op in [lstm([3, 9, 4, 100], true, Gate::Sigmoid), lstm([3, 9, 4, 50], false, Gate::Sigmoid)] {
            let inputs = op.inputs(Fill::Randn, SEED);
            let run = |variant| execute(&b.clone().with_lstm(variant), &op, &inputs, Options::default()).unwrap();
            let (one, two) = (run(LstmVariant::Resident1), run(LstmVariant::Resident2));
            for (name, one) in &one {
                assert_eq!(one.values, two[name].values, "{name}");
            }
        }
    }
}
