//! The `.epi` file: what is written is read, windows move as the definitions say, and damage is named.

use epi_engine::backend::DnaBatch;
use epi_engine::data::table::Column;
use epi_engine::data::{
    Augmentation, Balance, Batch, Contents, Dataset, Element, EpochPlan, PairTable, Row, Sample, Side,
};
use epi_engine::rng::Stream;

const LENGTHS: [usize; 2] = [130, 64];
const FLANK: usize = 7;

/// A small data set with N here and there, and the codes (flanks included) that went into it.
pub fn sample(n: usize, seed: u64) -> (Contents, [Vec<Vec<u8>>; 2]) {
    let mut random = Stream::new(seed, 1, 0);
    let element = |i: usize| Element { contig: Some(0), start: 1000 * i as i64, end: 1000 * i as i64 + 90 };
    let table = PairTable {
        contigs: vec!["chr1".into()],
        enhancers: (0..n).map(element).collect(),
        promoters: (0..n).map(element).collect(),
        cell_lines: vec!["A".into(), "B".into()],
        rows: (0..n as u32)
            .map(|i| Row {
                enhancer: i,
                promoter: (i * 7) % n as u32,
                label: u8::from(i % 4 == 0),
                cell_line: (i % 2) as u16,
            })
            .collect(),
        columns: [("fold", 3), ("a", 2)]
            .map(|(name, k)| {
                let values = (0..k).map(|v| format!("{name}{v}")).collect();
                (name.to_string(), Column { values, codes: (0..n as u32).map(|i| i % k).collect() })
            })
            .into(),
        enhancer_length: LENGTHS[0],
        promoter_length: LENGTHS[1],
    };
    let mut contents = Contents::new(table, FLANK, serde_json::json!({"made": "by a test"}));
    let codes = [0, 1].map(|side| {
        (0..n)
            .map(|i| {
                let width = LENGTHS[side] + 2 * FLANK;
                let alphabet = if i % 3 == 0 { 5 } else { 4 };
                let codes: Vec<u8> = (0..width).map(|_| random.below(alphabet) as u8).collect();
                contents.windows[side].push(&codes);
                codes
            })
            .collect::<Vec<_>>()
    });
    (contents, codes)
}

fn expected(codes: &[u8], length: usize, shift: i32, reverse: bool) -> Vec<u8> {
    let at = |i: usize| {
        let from = FLANK as i64 + i64::from(shift) + i as i64;
        usize::try_from(from).ok().and_then(|from| codes.get(from).copied()).filter(|c| *c < 4).unwrap_or(4)
    };
    let mut out: Vec<u8> = (0..length).map(at).collect();
    if reverse {
        out.reverse();
        out.iter_mut().filter(|c| **c < 4).for_each(|c| *c = 3 - *c);
    }
    out
}

#[test]
fn windows_move_and_turn_as_written() {
    let (contents, codes) = sample(9, 1);
    let dataset = contents.into_dataset().unwrap();
    for (s, side) in [Side::Enhancer, Side::Promoter].into_iter().enumerate() {
        let mut out = DnaBatch::from_codes(&vec![3; 2 * LENGTHS[s]], 2, LENGTHS[s]);
        for element in 0..9 {
            for shift in [0, 1, -1, 7, -7, 8, -9, 63, -64, 65, 129, -200, 100_000, i32::MIN, i32::MAX] {
                for reverse in [false, true] {
                    dataset.write_window(side, element, shift, reverse, &mut out, 1);
                    let want = expected(&codes[s][element as usize], LENGTHS[s], shift, reverse);
                    assert_eq!(out.codes(1), want, "{side:?} {element} shift {shift} reverse {reverse}");
                    assert_eq!(out.codes(0), vec![3; LENGTHS[s]], "the neighbour changed");
                    let mut fresh = DnaBatch::from_codes(&vec![3; 2 * LENGTHS[s]], 2, LENGTHS[s]);
                    fresh.write(1, want.into_iter());
                    assert_eq!(fresh, out, "bits past the end or under an N");
                }
            }
        }
    }
}

#[test]
fn a_file_gives_back_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.epi");
    let (contents, _) = sample(11, 2);
    contents.write(&path).unwrap();
    let table = contents.pairs.clone();
    let dataset = Dataset::open(&path).unwrap();
    assert_eq!(dataset.table(), &table);
    assert_eq!(dataset.info()["made"], "by a test");
    dataset.verify().unwrap();
    let memory = contents.into_dataset().unwrap();
    assert_eq!(memory.fingerprint(), dataset.fingerprint());
    let bytes: &'static [u8] = std::fs::read(&path).unwrap().leak();
    assert_eq!(Dataset::from_static(bytes).unwrap().codes(Side::Enhancer, 3), dataset.codes(Side::Enhancer, 3));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn every_damaged_byte_and_every_cut_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.epi");
    sample(5, 3).0.write(&path).unwrap();
    let good = std::fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        if let Ok(dataset) = Dataset::from_bytes(bad) {
            assert!(dataset.verify().is_err(), "byte {at} was changed unnoticed");
        }
    }
    for length in 0..good.len() {
        assert!(Dataset::from_bytes(good[..length].to_vec()).is_err(), "cut at {length}");
    }
    let error = Dataset::from_bytes(b"chr1\t1\t2".to_vec()).unwrap_err().to_string();
    assert!(error.contains("not an .epi"), "{error}");
}

#[test]
fn equal_sequences_are_stored_once() {
    let (mut contents, codes) = sample(6, 4);
    contents.pairs.enhancers.push(Element { contig: None, start: 0, end: 130 });
    contents.windows[0].push(&codes[0][2]);
    let dataset = contents.into_dataset().unwrap();
    assert_eq!(dataset.windows(Side::Enhancer), 6);
    assert_eq!(dataset.codes(Side::Enhancer, 6), dataset.codes(Side::Enhancer, 2));
}

#[test]
fn an_epoch_is_one_pass_and_any_batch_stands_alone() {
    let dataset = sample(33, 5).0.into_dataset().unwrap();
    let samples: Vec<Sample> = (0..33).map(|row| dataset.table().sample(row)).collect();
    let augmentation = Augmentation { shift: 5, reverse_complement: true };
    let plan = EpochPlan::training(&samples, Balance::Weights, augmentation, 9, 8);
    assert_eq!(plan.batches(), 4, "33 = 4 x 8 + 1, and a single sample is dropped");
    let mut seen = Vec::new();
    let mut batch = Batch::new();
    for i in 0..plan.batches() {
        plan.fill(&dataset, 3, i, &mut batch);
        seen.extend(batch.rows.clone());
        let mut alone = Batch::new();
        plan.fill(&dataset, 3, i, &mut alone);
        assert_eq!(alone, batch);
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 32);
    let mean = samples.iter().map(|s| plan.class_weights()[s.label as usize]).sum::<f32>();
    assert!((mean / 33.0 - 1.0).abs() < 1e-6);

    let oversampled = EpochPlan::training(&samples, Balance::Oversample(3), augmentation, 9, 8);
    assert_eq!(oversampled.len(), 33 + 2 * 9);
    let evaluation = EpochPlan::evaluation(&samples, 8);
    assert_eq!((evaluation.batches(), evaluation.size(4)), (5, 1));
    evaluation.fill(&dataset, 0, 4, &mut batch);
    assert_eq!(batch.rows, [32]);
    assert_eq!(batch.enhancer.codes(0), dataset.codes(Side::Enhancer, 32));
}
