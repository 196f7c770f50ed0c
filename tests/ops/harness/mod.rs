//! Write a primitive's case once; every oracle and every property is then checked on every backend.

pub mod case;
pub mod compare;
pub mod gradient;
pub mod properties;
pub mod run;

pub use case::{Fill, Input, Inputs};
pub use run::{Op, Run};

use epi_engine::backend::cuda::Cuda;
use epi_engine::backend::cuda::device::{EMULATOR, Flavour};
use epi_engine::{Error, Result};
use std::collections::BTreeSet;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

/// Seed of dropout and of the cases' numbers.
pub const SEED: u64 = 20_240_229;

/// Runs a block once per backend under test, or on the card that `EPI_TEST_DEVICE` names and nothing else. A new backend
/// is one line here.
macro_rules! for_each_backend {
    (|$b:ident| $body:block) => {{
        if $crate::harness::card().is_none() {
            {
                let $b = epi_engine::backend::reference::Reference::<f32>::new();
                $body
            }
            for isa in epi_engine::backend::cpu::Isa::ALL {
                match epi_engine::backend::cpu::Cpu::with_isa(isa) {
                    Ok($b) => $body,
                    Err(error) => $crate::harness::note(error),
                }
            }
        }
        for $b in $crate::harness::cuda() $body
    }};
    (fast: |$b:ident| $body:block) => {{
        {
            let $b = epi_engine::backend::reference::Reference::<f32>::new();
            $body
        }
        for isa in epi_engine::backend::cpu::Isa::ALL {
            match epi_engine::backend::cpu::Cpu::with_isa(isa) {
                Ok($b) => $body,
                Err(error) => $crate::harness::note(error),
            }
        }
        for $b in $crate::harness::fast_emulators() $body
    }};
}

/// As [`for_each_backend`] without the emulator's check flavour, which is slow and runs on one thread: for large cases, and
/// for properties that have nothing to do with single memory accesses.
macro_rules! for_each_fast_backend {
    (|$b:ident| $body:block) => {
        for_each_backend!(fast: |$b| $body)
    };
}

/// Number of the GPU to test on: `EPI_TEST_DEVICE=cuda:N` (`cuda` alone is the first).
pub fn card() -> Option<usize> {
    let device = std::env::var("EPI_TEST_DEVICE").ok()?;
    let number = device.strip_prefix("cuda").unwrap_or_else(|| panic!("EPI_TEST_DEVICE={device}: not cuda or cuda:N"));
    Some(number.strip_prefix(':').map_or(0, |n| n.parse().unwrap_or_else(|e| panic!("EPI_TEST_DEVICE={device}: {e}"))))
}

/// The CUDA backend: on the card under test, otherwise on the emulator, if there is one.
pub fn cuda() -> Vec<Cuda> {
    card().map_or_else(emulators, |n| vec![Cuda::open(n).unwrap_or_else(|e| panic!("EPI_TEST_DEVICE: {e}"))])
}

/// The CUDA backend on the emulator, optimised and with every memory access checked; none where it was not built.
pub fn emulators() -> Vec<Cuda> {
    [fast_emulators(), checking_emulators()].concat()
}
/// As it runs for `--device emulator`.
pub fn fast_emulators() -> Vec<Cuda> {
    open(Flavour::Fast, 0)
}
/// With every memory access checked, in a shuffled schedule.
pub fn checking_emulators() -> Vec<Cuda> {
    open(Flavour::Check, 1)
}
fn open(flavour: Flavour, seed: u64) -> Vec<Cuda> {
    if EMULATOR {
        return vec![Cuda::emulator(flavour, seed).expect("an emulator")];
    }
    eprintln!("needs the emulator (Linux x86-64 with GCC 12 or later): cuda");
    Vec::new()
}

/// The tests that every differentiable operator gets: `small` cases also meet finite differences.
macro_rules! op_tests {
    (small: $small:expr, large: $large:expr) => {
        property_tests!(small: $small, all: $small.into_iter().chain($large));

        #[test]
        fn gradients_match_finite_differences() {
            for op in $small {
                $crate::harness::gradient::check_gradient(&op);
            }
        }
        #[test]
        fn planted_errors_are_caught() {
            let planted: usize = $small.iter().map($crate::harness::gradient::check_planted_errors).sum();
            assert!(planted >= $small.len(), "hardly anything was planted");
        }
        #[test]
        fn slots_accumulate() {
            for_each_fast_backend!(|b| {
                for op in $small {
                    $crate::harness::properties::check_accumulation(&b, &op);
                }
            });
        }
        #[test]
        fn batch_mates_do_not_matter() {
            for_each_fast_backend!(|b| {
                for op in $small.into_iter().chain($large) {
                    $crate::harness::properties::check_batch_mates(&b, &op);
                }
            });
        }
    };
}

/// What even an operator without a gradient must keep.
macro_rules! property_tests {
    ($ops:expr) => {
        property_tests!(small: $ops, all: $ops);
    };
    (small: $small:expr, all: $all:expr) => {
        #[test]
        fn agrees_with_the_reference() {
            for_each_fast_backend!(|b| {
                for op in $all {
                    for fill in $crate::harness::Fill::ALL {
                        $crate::harness::compare::check_against_reference(&b, &op, fill);
                    }
                }
            });
        }
        #[test]
        fn the_emulator_finds_no_fault() {
            for b in $crate::harness::checking_emulators() {
                for op in $small {
                    $crate::harness::compare::check_against_reference(&b, &op, $crate::harness::Fill::Randn);
                }
            }
        }
        #[test]
        fn bits_do_not_depend_on_threads() {
            for_each_fast_backend!(|b| {
                for op in $all {
                    $crate::harness::properties::check_threads(&b, &op);
                }
            });
        }
    };
}

/// Asserts that a call was refused with a shape error named after the operator.
#[track_caller]
pub fn assert_refused<T>(result: Result<T>, op: &str) {
    match result {
        Err(Error::Shape { op: got, message }) => {
            assert_eq!(got, op, "refused under another name: {message}");
            assert!(!message.is_empty());
        }
        Err(Error::Unsupported { op: got, .. }) => assert_eq!(got, op),
        Err(other) => panic!("{op}: expected a shape error, got: {other}"),
        Ok(_) => panic!("{op}: accepted shapes that do not fit"),
    }
}

/// Says something, once, in the test output that the test runner must not swallow.
pub fn note(message: impl std::fmt::Display) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let message = message.to_string();
    if SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(message.clone()) {
        let _ = writeln!(std::io::stderr().lock(), "note: {message}");
    }
}

/// Whether the heavy tier was asked for (`make test-full`).
pub fn full_tier() -> bool {
    std::env::var_os("EPI_TEST_FULL").is_some_and(|value| value != "0")
}
