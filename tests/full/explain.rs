//! What `explain` finds where the answer is known: the motifs that were planted, and nothing in noise.

use std::path::Path;

use epi_engine::backend::cpu::Cpu;
use epi_engine::config;
use epi_engine::data::synth::{self, Background, Level, SynthOptions};
use epi_engine::data::{Dataset, Side, meme};
use epi_engine::explain::filters::{Filter, filters};
use epi_engine::explain::interactions::{Interaction, Options, interactions};
use epi_engine::explain::similarity::{Match, Measure, match_motifs};
use epi_engine::explain::{Place, Scorer, Windows};
use epi_engine::train::session::{self, Trained};
use epi_engine::train::{RunFolder, Silent};

fn train(folder: &Path, dataset: &Dataset) -> Trained<Cpu> {
    let config = config::load("planted", &["train.seed=1".into()]).unwrap();
    let split = session::make_split(&config, dataset).unwrap();
    let run = RunFolder::create(folder).unwrap();
    session::train_fold(&Cpu::new(), &config, dataset, split, &run, false, &mut Silent).unwrap();
    Trained::open(&Cpu::new(), &run, config).unwrap()
}

/// Test pairs of one label.
fn pairs(dataset: &Dataset, label: u8, n: usize) -> Vec<(Place, Windows)> {
    let table = dataset.table();
    let test = &table.columns["split"];
    let of = |row: &u32| {
        table.rows[*row as usize].label == label && test.values[test.codes[*row as usize] as usize] == "test"
    };
    let pair = |row| {
        let place = Place::of(dataset, row).unwrap();
        let windows = Windows::of(dataset, &place.sample);
        (place, windows)
    };
    (0..table.rows.len() as u32).filter(of).take(n).map(pair).collect()
}

struct Found {
    filters: [Vec<Filter>; 2],
    matches: [Vec<Option<Match>>; 2],
    interactions: Vec<Interaction>,
}

fn explain(dataset: &Dataset, trained: &Trained<Cpu>) -> Found {
    let cpu = Cpu::new();
    let scorer = Scorer::new(&cpu, &trained.model, &trained.parameters, 64).unwrap();
    let (foreground, background) = (pairs(dataset, 1, 200), pairs(dataset, 0, 200));
    let found = [Side::Enhancer, Side::Promoter].map(|s| {
        let elements: Vec<u32> = foreground.iter().chain(&background).map(|(p, _)| p.sample.element(s)).collect();
        filters(&scorer, dataset, usize::from(s == Side::Promoter), &elements, 0.5, &mut |_| {}).unwrap()
    });
    let database = meme::built_in();
    let matches = found.each_ref().map(|filters| {
        let speaking: Vec<&Filter> = filters.iter().filter(|f| f.hits > 0).collect();
        let motifs: Vec<_> = speaking.iter().map(|f| f.motif()).collect();
        let mut all = vec![None; filters.len()];
        for (filter, m) in speaking.iter().zip(match_motifs(&motifs, &database, Measure::Pearson, 1)) {
            all[filter.index] = Some(m);
        }
        all
    });
    let options = Options { share: 0.5, least_active: 0.1 };
    let interactions = interactions(&scorer, &foreground, &background, &options, &mut |_| Ok(())).unwrap();
    Found { filters: found, matches, interactions }
}

#[test]
fn planted_pairs_of_motifs_lead_filters_and_interactions() {
    let options = SynthOptions { level: Level::Pair, samples: [20_480, 64, 1024], seed: 1, ..SynthOptions::default() };
    let contents = synth::generate(&options, &meme::built_in(), Background::Random).unwrap();
    let dataset = contents.into_dataset().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let found = explain(&dataset, &train(folder.path(), &dataset));
    let planted = [["CTCF", "REST"], ["NRF1", "HNF1A"]];
    let factor = |m: &Match| m.motif.rsplit('.').next().unwrap().to_string();
    for side in 0..2 {
        // The most informative filters that resemble anything resemble what was planted on their side.
        let mut called: Vec<(f64, String)> = found.filters[side]
            .iter()
            .zip(&found.matches[side])
            .filter_map(|(f, m)| Some((f.information().iter().sum(), m.as_ref().filter(|m| m.q < 0.05)?)))
            .map(|(bits, m)| (bits, factor(m)))
            .collect();
        called.sort_by(|a, b| b.0.total_cmp(&a.0));
        println!("side {side}: {:?}", &called[..called.len().min(12)]);
        assert!(called.len() >= 3 && called[..3].iter().all(|c| planted[side].contains(&c.1.as_str())), "{called:?}");
    }
    let between: Vec<&Interaction> = found.interactions.iter().filter(|i| i.block == "enhancer-promoter").collect();
    let name = |side: usize, c: usize| found.matches[side][c].as_ref().filter(|m| m.q < 0.05).map(factor);
    let named: Vec<(String, String, f64)> =
        between.iter().filter_map(|i| Some((name(0, i.first)?, name(1, i.second)?, i.q))).collect();
    println!("interactions: {:?}", &named[..named.len().min(12)]);
    let right =
        |(e, p, _): &(String, String, f64)| [("CTCF", "NRF1"), ("REST", "HNF1A")].contains(&(e.as_str(), p.as_str()));
    assert!(named.len() >= 3 && named[..3].iter().all(|i| right(i) && i.2 < 0.01), "{named:?}");
}

#[test]
fn nothing_is_significant_in_noise() {
    // No motif: windows of random bases, labels of the pair level.
    let options = SynthOptions { level: Level::Pair, samples: [2048, 64, 1024], seed: 2, ..SynthOptions::default() };
    let mut contents = synth::generate(&options, &meme::built_in(), Background::Random).unwrap();
    let mut random = epi_engine::rng::Stream::new(7, 1, 0);
    for (side, length) in options.lengths.into_iter().enumerate() {
        let n = contents.windows[side].of_element.len();
        contents.windows[side] = epi_engine::data::window::Windows::new(length);
        for _ in 0..n {
            let codes: Vec<u8> = (0..length).map(|_| random.below(4) as u8).collect();
            contents.windows[side].push(&codes);
        }
    }
    contents.placements.clear();
    let dataset = contents.into_dataset().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let found = explain(&dataset, &train(folder.path(), &dataset));
    let significant = found.interactions.iter().filter(|i| i.q < 0.05).count();
    println!("{} pairs of filters tested, {significant} significant", found.interactions.len());
    assert!(!found.interactions.is_empty());
    assert_eq!(significant, 0);
}
