//! Batches made on the device from a data set that lies there are those that the host cuts.

use crate::harness::{SEED, assert_refused};
use epi_engine::backend::{Backend, Conv1d, DnaBatch, Order, StepState, Tensor};
use epi_engine::data::{Augmentation, Balance, Batch, Contents, Dataset, Element, EpochPlan, PairTable, Row, Sample};
use epi_engine::rng::Stream;

const LENGTHS: [usize; 2] = [130, 64];
const FLANK: usize = 7;

/// `n` pairs of windows, every third with Ns.
fn dataset(n: u32) -> Dataset {
    let mut random = Stream::new(SEED, 1, 0);
    let element = |i: u32| Element { contig: Some(0), start: 1000 * i64::from(i), end: 1000 * i64::from(i) + 90 };
    let table = PairTable {
        contigs: vec!["chr1".into()],
        enhancers: (0..n).map(element).collect(),
        promoters: (0..n).map(element).collect(),
        cell_lines: vec!["A".into()],
        rows: (0..n)
            .map(|i| Row { enhancer: i, promoter: i * 7 % n, label: u8::from(i % 4 == 0), cell_line: 0 })
            .collect(),
        columns: Default::default(),
        enhancer_length: LENGTHS[0],
        promoter_length: LENGTHS[1],
    };
    let mut contents = Contents::new(table, FLANK, serde_json::json!({ "made": "by a test" }));
    for i in 0..n {
        for (side, length) in LENGTHS.into_iter().enumerate() {
            let alphabet = if i % 3 == 0 { 5 } else { 4 };
            let codes: Vec<u8> = (0..length + 2 * FLANK).map(|_| random.below(alphabet) as u8).collect();
            contents.windows[side].push(&codes);
        }
    }
    contents.into_dataset().unwrap()
}

/// The samples of a data set, some moved by the split.
fn samples(dataset: &Dataset) -> Vec<Sample> {
    let moved = |row: usize| Sample { shift: [row as i16 % 4, -(row as i16) % 3], ..dataset.table().sample(row) };
    (0..dataset.len()).map(moved).collect()
}

/// One-hot bases of a batch, N all zeros.
fn bases<B: Backend>(b: &B, dna: &B::Dna) -> Vec<f32> {
    let eye: Vec<f32> = (0..16).map(|i| if i % 5 == 0 { 1.0 } else { 0.0 }).collect();
    let eye = b.from_f32(&eye, &[4, 4, 1]).unwrap();
    let spec = Conv1d { stride: 1, padding: 0 };
    let out: Tensor<B> = b.dna_conv1d(dna, &eye, None, None, spec).unwrap();
    b.to_f32(&out).unwrap()
}

/// Batches of a few plans, made on the device and on the host.
fn compare_batches<B: Backend>(b: &B, data: &Dataset, list: &[Sample]) {
    let Some(windows) = b.upload_windows(&data.window_set(), 0).unwrap() else {
        assert!(b.name().starts_with("cpu"), "{} does not take {} windows", b.name(), data.len());
        return;
    };
    for (balance, shift, reverse_complement, n) in [
        (Balance::None, 0, false, 1),
        (Balance::Weights, 5, true, 23),
        (Balance::Oversample(3), 90, true, 17),
        (Balance::None, 0, true, 5),
    ] {
        let augmentation = Augmentation { shift, reverse_complement };
        let training = EpochPlan::training(&list[..n], balance, augmentation, SEED, 4);
        for plan in [training, EpochPlan::evaluation(&list[..n], 4)] {
            let (resident, step) = (b.with_order(&windows, &plan.order(data)).unwrap(), b.new_step().unwrap());
            for (epoch, index) in (0..plan.batches()).map(|index| (3 + index as u32 % 2, index)) {
                let mut host = Batch::new();
                plan.fill(data, epoch, index, &mut host);
                let state = StepState { epoch, batch_cursor: 4 * index as u32, ..StepState::default() };
                b.write_step(&step, &state).unwrap();
                let made = b.gather(&resident, host.len(), &step).unwrap();
                for (side, dna) in [&host.enhancer, &host.promoter].into_iter().enumerate() {
                    assert_eq!(made.lengths[side], dna.length());
                    let expected = bases(b, &b.upload_dna(dna).unwrap());
                    assert!(bases(b, &made.dna[side]) == expected, "{plan:?}, {epoch}, {index}, {}", b.name());
                }
                assert_eq!(b.to_f32(&made.labels).unwrap(), host.labels);
                assert_eq!(b.to_f32(&made.weights).unwrap(), host.weights);
            }
        }
    }
}

#[test]
fn gathered_batches_are_those_of_the_host() {
    let data = dataset(23);
    let list = samples(&data);
    for_each_backend!(|b| { compare_batches(&b, &data, &list) });
}

#[test]
fn what_does_not_fit_stays_on_the_host() {
    let data = dataset(5);
    for b in crate::harness::cuda() {
        let none = b.upload_windows(&data.window_set(), usize::MAX / 2).unwrap();
        assert!(none.is_none());
        let windows = b.upload_windows(&data.window_set(), 0).unwrap().expect("room for five windows");
        let order = EpochPlan::evaluation(&samples(&data), 2).order(&data);
        let mut wrong = order.clone();
        wrong.entries[2].windows[1] = 5;
        assert_refused(b.with_order(&windows, &wrong), "with_order");
        assert_refused(b.with_order(&windows, &Order { entries: Vec::new(), ..order }), "with_order");
    }
}

#[test]
fn logged_values_are_kept_by_step() {
    for_each_backend!(|b| {
        let (history, step) = (b.zeros(&[3]).unwrap(), b.new_step().unwrap());
        for philox_step in 1..=4 {
            b.write_step(&step, &StepState { philox_step, ..StepState::default() }).unwrap();
            let value = b.from_f32(&[philox_step as f32 + 0.5], &[1]).unwrap();
            b.log_value(&history, &value, &step).unwrap();
        }
        assert_eq!(b.to_f32(&history).unwrap(), [3.5, 4.5, 2.5]);
    });
}

#[test]
fn bases_of_the_harness_tell_n_from_a() {
    for_each_backend!(|b| {
        let dna = b.upload_dna(&DnaBatch::from_codes(&[0, 4, 3], 1, 3)).unwrap();
        assert_eq!(bases(&b, &dna), [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    });
}
