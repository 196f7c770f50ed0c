//! Products of bf16 on the CPU: on operands that bf16 holds they are as exact as those of f32, on others as close as rounding
//! allows; whatever else holds for f32 holds for them.

use crate::attention::{self, attention, check_cuts};
use crate::harness::compare::{check_roughly, check_with};
use crate::harness::properties::{check_accumulation, check_batch_mates, check_threads};
use crate::harness::run::{Options, cotangent};
use crate::harness::{Fill, Op};
use crate::{conv_transpose1d, conv1d, dna_conv1d, linear, lstm};
use epi_engine::backend::cpu::{Cpu, Isa};
use epi_engine::backend::{Backend, DType};

/// The CPU in bf16, once for each instruction set that has its own code.
fn cpus() -> Vec<Cpu> {
    let available = Isa::ALL.into_iter().filter_map(|isa| Cpu::with_isa(isa).ok());
    let bf16 = available.map(|cpu| (cpu.isa(), cpu.with_precision(DType::BF16)));
    bf16.filter(|(isa, cpu)| cpu.isa() == *isa).map(|(_, cpu)| cpu).collect()
}

/// What does not depend on precision.
fn check_properties(op: &impl Op) {
    for cpu in cpus() {
        check_threads(&cpu, op);
        check_batch_mates(&cpu, op);
        check_accumulation(&cpu, op);
    }
}

/// An operator that is nothing but products loses nothing where bf16 holds what it multiplies.
fn check_exactly(op: &impl Op) {
    let options = Options { bf16: true, ..Options::default() };
    for cpu in cpus() {
        Fill::ALL.into_iter().for_each(|fill| check_with(&cpu, op, fill, options));
    }
}

#[test]
fn linear_maps() {
    for op in linear::small().into_iter().chain(linear::large()) {
        check_exactly(&op);
        check_properties(&op);
    }
}

/// An operator behind a LeakyReLU of this slope: exact as long as the cotangent is still one of bf16 behind it.
fn check_convolution(op: &impl Op, leaky: Option<f32>) {
    if leaky.is_none_or(|slope| slope.log2().fract() == 0.0) {
        check_exactly(op);
    }
    check_properties(op);
}

#[test]
fn convolutions() {
    conv1d::small().iter().chain(&conv1d::large()).for_each(|op| check_convolution(op, op.leaky));
    dna_conv1d::small().iter().chain(&dna_conv1d::large()).for_each(|op| check_convolution(op, op.leaky));
}

#[test]
fn transposed_convolutions() {
    conv_transpose1d::small().iter().chain(&conv_transpose1d::large()).for_each(|op| check_convolution(op, op.leaky));
}

#[test]
fn lstms() {
    for op in lstm::small().into_iter().chain(lstm::large()) {
        // Rounding moves gates across the corners of a hard one, and with them what gets through to a gradient.
        let options = Options { backward: op.is_smooth(), ..Options::default() };
        cpus().iter().for_each(|cpu| check_roughly(cpu, &op, 0.03, options));
        check_properties(&op);
    }
}

#[test]
fn attentions() {
    for op in attention::small().into_iter().chain(attention::large()) {
        if !op.spec().relu {
            cpus().iter().for_each(|cpu| check_roughly(cpu, &op, 0.03, Options::default()));
        }
        check_properties(&op);
    }
    for op in attention::copies() {
        for cpu in cpus() {
            check_roughly(&cpu, &op, 0.03, Options::default());
            check_threads(&cpu, &op);
        }
    }
}

#[test]
fn attention_cuts_where_relu_did() {
    for bf16 in cpus() {
        check_cuts(&bf16.clone().with_precision(DType::F32), &bf16);
    }
}

/// Weights and outputs are those of the rounded queries, keys and values, the weights rounded once more.
#[test]
fn attention_of_one_key_is_its_value() {
    for cpu in cpus() {
        let (spec, step) = (attention([2, 1, 3, 5], false, 0.0).spec(), cpu.new_step().unwrap());
        let values: Vec<f64> = cotangent(2 * 45);
        let qkv = cpu.from_f64(&values, &[2, 1, 45]).unwrap();
        let (out, _) = cpu.attention(&qkv, &spec, &step).unwrap();
        for (b, out) in cpu.to_f64(&out).unwrap().chunks_exact(15).enumerate() {
            for (y, v) in out.iter().zip(&values[b * 45 + 30..]) {
                assert_eq!(*y, half::bf16::from_f64(*v).to_f64());
            }
        }
    }
}
