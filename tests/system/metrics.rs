//! Metrics against scikit-learn's values (`tests/golden/metrics.py` writes them), and intervals that keep their promises.

use epi_engine::metrics::{
    Confusion, Ranking, Scores, calibration, effective_groups, interval, macro_f1_per_batch, resample,
};
use epi_engine::rng::Stream;
use serde_json::Value;

struct Case {
    name: String,
    labels: Vec<u8>,
    scores: Vec<f64>,
    threshold: f64,
    expected: Value,
}

fn cases() -> Vec<Case> {
    let all: Vec<Value> = serde_json::from_str(include_str!("../golden/metrics.json")).unwrap();
    let numbers = |v: &Value| v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
    all.into_iter()
        .map(|expected| Case {
            name: expected["name"].as_str().unwrap().into(),
            labels: numbers(&expected["labels"]).iter().map(|&l| l as u8).collect(),
            scores: numbers(&expected["scores"]),
            threshold: expected["threshold"].as_f64().unwrap(),
            expected,
        })
        .collect()
}

#[test]
fn golden_scores_equal_scikit_learn() {
    let close = |name: &str, key: &str, got: Option<f64>, want: Option<f64>| match (got, want) {
        (None, None) => {}
        (Some(g), Some(w)) if (g - w).abs() <= 1e-12 * w.abs().max(1.0) => {}
        _ => panic!("{name}: {key} is {got:?}, scikit-learn says {want:?}"),
    };
    for case in cases() {
        let scores = Ranking::ungrouped(&case.labels, &case.scores, case.threshold).scores();
        for (key, got) in Scores::NAMES.into_iter().zip(scores.values()) {
            close(&case.name, key, got, case.expected[key].as_f64());
        }
        let confusion = Confusion::at(&case.labels, &case.scores, case.threshold);
        close(&case.name, "macro_f1", confusion.macro_f1(), case.expected["macro_f1"].as_f64());
        close(&case.name, "f1 of the confusion", confusion.f1(), case.expected["f1"].as_f64());
    }
}

#[test]
fn an_empty_set_has_no_scores() {
    let ranking = Ranking::ungrouped(&[], &[], 0.5);
    assert_eq!(ranking.scores(), Scores::default());
    assert_eq!(ranking.best_threshold(), None);
    assert_eq!(calibration(&[], &[], 10).ece, None);
    assert_eq!(macro_f1_per_batch(&[], &[], 0.5, 64), None);
    assert_eq!(interval([]), None);
}

#[test]
fn the_best_threshold_reaches_the_best_f1() {
    for case in cases() {
        let ranking = Ranking::ungrouped(&case.labels, &case.scores, case.threshold);
        let Some(threshold) = ranking.best_threshold() else { continue };
        let at_best = Ranking::ungrouped(&case.labels, &case.scores, threshold).scores();
        assert_eq!(at_best.f1, at_best.f1_best, "{}", case.name);
    }
}

#[test]
fn a_replicate_scores_like_its_rows_written_out() {
    let mut numbers = Stream::new(3, 0, 0);
    let n = 120;
    let labels: Vec<u8> = (0..n).map(|_| u8::from(numbers.uniform() < 0.3)).collect();
    let scores: Vec<f64> = (0..n).map(|_| f64::from(numbers.below(20)) / 20.0).collect();
    let groups: Vec<u32> = (0..n).map(|_| numbers.below(7)).collect();
    let ranking = Ranking::new(&labels, &scores, &scores.iter().map(|&s| s >= 0.4).collect::<Vec<_>>(), &groups);
    for copies in resample(ranking.groups(), 20, 9, <[u32]>::to_vec) {
        assert_eq!(copies.iter().sum::<u32>(), ranking.groups());
        let rows: Vec<usize> = (0..n).flat_map(|i| vec![i; copies[groups[i] as usize] as usize]).collect();
        let (l, s): (Vec<u8>, Vec<f64>) = rows.iter().map(|&i| (labels[i], scores[i])).unzip();
        let (whole, written) = (ranking.resampled(&copies), Ranking::ungrouped(&l, &s, 0.4).scores());
        for ((a, b), name) in whole.values().into_iter().zip(written.values()).zip(Scores::NAMES) {
            assert!((a.unwrap() - b.unwrap()).abs() < 1e-12, "{name}: {a:?} against {b:?}");
        }
    }
}

#[test]
fn bootstrap_bits_do_not_depend_on_threads() {
    let draw = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| resample(23, 200, 5, <[u32]>::to_vec))
    };
    assert_eq!(draw(1), draw(3));
}

#[test]
fn intervals_cover_and_refuse() {
    let covered = (0..200u64).filter(|&trial| {
        let mut numbers = Stream::new(trial, 77, 0);
        let groups: Vec<u32> = (0..800).map(|i| i / 20).collect();
        let labels: Vec<u8> = groups.iter().map(|_| u8::from(numbers.uniform() < 0.5)).collect();
        // A positive scores above a negative with probability 0.92135 when their means lie two standard deviations apart.
        let scores: Vec<f64> = labels.iter().map(|&l| 2.0 * f64::from(l) + numbers.normal()).collect();
        let ranking = Ranking::new(&labels, &scores, &vec![false; labels.len()], &groups);
        let range = interval(resample(40, 200, trial, |copies| ranking.resampled(copies).auroc)).unwrap();
        range.low <= 0.92135 && 0.92135 <= range.high
    });
    let covered = covered.count();
    assert!((176..=199).contains(&covered), "{covered} of 200 intervals cover the true AUROC");
    assert_eq!(interval([Some(0.5), None, None]), None, "most replicates define no score");
}

#[test]
fn a_group_that_holds_nearly_all_samples_is_not_resampled() {
    let of = |sizes: &[u32]| {
        let groups: Vec<u32> = sizes.iter().enumerate().flat_map(|(g, &n)| vec![g as u32; n as usize]).collect();
        let labels: Vec<u8> = (0..groups.len()).map(|i| (i % 2) as u8).collect();
        Ranking::new(&labels, &vec![0.5; labels.len()], &vec![true; labels.len()], &groups)
    };
    assert!((effective_groups(of(&[30; 5]).sizes()) - 5.0).abs() < 1e-12);
    assert!(of(&[157, 128, 121, 55, 30, 28]).resamples(), "chromosome 1 of the bundled pairs");
    // `paper-code` joins elements of all chromosomes, so that nearly all of its pairs hang together.
    assert!(!of(&[1722, 1, 1, 1]).resamples() && !of(&[40]).resamples() && !of(&[]).resamples());
}

#[test]
fn calibration_bins_hold_what_they_say() {
    let found = calibration(&[0, 1, 1, 0, 1], &[0.0, 0.05, 1.0, 0.95, 0.5], 10);
    assert_eq!(found.bins.iter().map(|b| b.n).collect::<Vec<_>>(), [2, 0, 0, 0, 0, 1, 0, 0, 0, 2]);
    assert_eq!((found.bins[0].positive_rate, found.bins[1].mean_score), (Some(0.5), None));
    let ece = (2.0 * (0.5 - 0.025) + (1.0 - 0.5) + 2.0 * (0.975 - 0.5)) / 5.0;
    assert!((found.ece.unwrap() - ece).abs() < 1e-12);
}

#[test]
fn macro_f1_per_batch_averages_batches() {
    // Two batches, one all right and one all wrong: as released 0.5, though the whole is not 0.5 by any other count.
    assert_eq!(macro_f1_per_batch(&[1, 0, 1, 1], &[0.9, 0.1, 0.1, 0.2], 0.5, 2), Some(0.5));
}
