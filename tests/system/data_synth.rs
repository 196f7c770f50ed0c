//! Synthetic sets hold what they claim: motifs where the truth says, shares of cells exact, parts of their own sequence.

use epi_engine::data::demo::demo;
use epi_engine::data::meme;
use epi_engine::data::synth::{Background, Level, SynthOptions, generate};
use epi_engine::data::{Dataset, Side};

fn make(level: Level, train: usize, seed: u64, background: Background<'_>) -> Dataset {
    let options = SynthOptions { level, samples: [train, 40, 80], seed, ..SynthOptions::default() };
    generate(&options, &meme::built_in(), background).unwrap().into_dataset().unwrap()
}

#[test]
fn consensus_stands_where_the_truth_says() {
    let real = demo().unwrap();
    let dataset = make(Level::Pair, 200, 1, Background::Windows(&real));
    let motifs = meme::built_in();
    let names = dataset.info()["truth"]["motifs"].as_array().unwrap().clone();
    assert_eq!(dataset.placements().len(), 320 * 6);
    for p in dataset.placements() {
        let motif = meme::find(&motifs, names[p.motif as usize].as_str().unwrap()).unwrap();
        let codes = dataset.codes(p.side, p.element);
        assert_eq!(codes[p.start as usize..][..p.length as usize], motif.consensus());
        assert_eq!(p.side == Side::Enhancer, p.motif < 2);
    }
}

#[test]
fn cells_have_their_shares_and_labels_follow() {
    let dataset = make(Level::Pair, 200, 2, Background::Random);
    let table = dataset.table();
    let (split, motifs) = (&table.columns["split"], &table.columns["motifs"]);
    let mut counts = [[0; 4]; 3];
    for (row, pair) in table.rows.iter().enumerate() {
        let cell = motifs.codes[row] as usize;
        counts[split.codes[row] as usize][cell] += 1;
        assert_eq!(pair.label == 1, cell == 0 || cell == 3);
    }
    assert_eq!(counts, [[90, 50, 50, 10], [18, 10, 10, 2], [20, 20, 20, 20]]);
}

#[test]
fn a_seed_is_a_file_and_a_larger_one_begins_alike() {
    let real = demo().unwrap();
    let background = Background::Windows(&real);
    let (a, b) = (make(Level::Additive, 60, 1, background), make(Level::Additive, 60, 1, background));
    assert_eq!(a.fingerprint(), b.fingerprint());
    assert_ne!(a.fingerprint(), make(Level::Additive, 60, 2, background).fingerprint());
    let longer = make(Level::Additive, 100, 1, background);
    assert!((0..60).all(|i| longer.codes(Side::Enhancer, i) == a.codes(Side::Enhancer, i)));
    assert!(
        (0..80).all(|i| longer.codes(Side::Promoter, 140 + i) == a.codes(Side::Promoter, 100 + i)),
        "the test part stays"
    );
}

#[test]
fn sampled_motifs_follow_their_matrix() {
    let dataset = make(Level::Additive, 2000, 5, Background::Random);
    let ctcf = &meme::built_in()[0];
    let mut counts = vec![[0.0; 4]; ctcf.width()];
    let placements: Vec<_> = dataset.placements().iter().filter(|p| p.motif == 0).collect();
    for p in &placements {
        let codes = dataset.codes(Side::Enhancer, p.element);
        (0..ctcf.width())
            .for_each(|i| counts[i][codes[p.start as usize + i] as usize] += 1.0 / placements.len() as f64);
    }
    let worst = counts.iter().flatten().zip(ctcf.probabilities.iter().flatten()).map(|(a, b)| (a - b).abs());
    assert!(worst.fold(0.0, f64::max) < 0.04);
}

#[test]
fn impossible_wishes_are_refused() {
    let real = demo().unwrap();
    let motifs = meme::built_in();
    let refused = |options: SynthOptions, says: &str| {
        let error = generate(&options, &motifs, Background::Windows(&real)).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    };
    refused(SynthOptions { lengths: [50, 300], ..SynthOptions::default() }, "copies");
    refused(SynthOptions { lengths: [300, 2001], ..SynthOptions::default() }, "2000");
    refused(SynthOptions { contigs: [vec!["chr5".into()], vec!["chr22".into()]], ..SynthOptions::default() }, "chr5");
    refused(SynthOptions { samples: [0; 3], ..SynthOptions::default() }, "samples");
}
