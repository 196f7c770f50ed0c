//! Splits: numpy's draws bit for bit, parts that do not know each other, refusals that name the remedy.

use crate::support;
use epi_engine::Error;
use epi_engine::data::baselines::Lookup;
use epi_engine::data::split::{Identity, LegacyRandom, Split, SplitKind, SplitSpec, paper_counts, split};
use epi_engine::data::table::Column;
use epi_engine::data::{Element, PairTable, Row, Sample, Side};
use proptest::prelude::*;
use std::collections::HashSet;

const SIDES: [Side; 2] = [Side::Enhancer, Side::Promoter];

fn spec(kind: &str) -> SplitSpec {
    SplitSpec::new(kind.parse().unwrap())
}

fn rows(table: &PairTable) -> Vec<u32> {
    (0..table.rows.len() as u32).collect()
}

/// A table of `pairs` (chromosome, enhancer start, promoter start, label, line) with 30 bp elements in windows of 60 and 40.
fn table(pairs: &[(u32, i64, i64, u8, u16)]) -> PairTable {
    let mut table = PairTable { enhancer_length: 60, promoter_length: 40, ..PairTable::default() };
    for &(contig, e, p, label, cell_line) in pairs {
        let mut place = |side: Side, start: i64| {
            let element = Element { contig: Some(contig), start, end: start + 30 };
            let list = if side == Side::Enhancer { &mut table.enhancers } else { &mut table.promoters };
            list.iter().position(|x| *x == element).unwrap_or_else(|| {
                list.push(element);
                list.len() - 1
            }) as u32
        };
        let (enhancer, promoter) = (place(Side::Enhancer, e), place(Side::Promoter, p));
        table.rows.push(Row { enhancer, promoter, label, cell_line });
        while table.contigs.len() <= contig as usize {
            table.contigs.push(format!("chr{}", table.contigs.len() + 1));
        }
        while table.cell_lines.len() <= cell_line as usize {
            table.cell_lines.push(format!("line{}", table.cell_lines.len()));
        }
    }
    table
}

/// `contigs` chromosomes with `each` pairs in a row, far from each other, every fourth positive.
fn plain(contigs: u32, each: i64) -> PairTable {
    let pair = |c, i| (c, 1000 * i, 1000 * i + 500, u8::from(i % 4 == 0), 0);
    table(&(0..contigs).flat_map(|c| (0..each).map(move |i| pair(c, i))).collect::<Vec<_>>())
}

#[test]
fn golden_legacy_random_draws_as_numpy() {
    let cases: Vec<serde_json::Value> = serde_json::from_str(include_str!("../golden/legacy_random.json")).unwrap();
    for case in cases {
        let [seed, n, size] = ["seed", "n", "size"].map(|k| case[k].as_u64().unwrap());
        let mut random = LegacyRandom::new(seed as u32);
        let draws = [random.choice(n as u32, size as usize), random.choice(n as u32, size as usize)];
        for (draw, name) in draws.iter().zip(["first", "second"]) {
            let expected: Vec<u64> = case[name].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect();
            assert!(draw.iter().take(10).map(|&v| u64::from(v)).eq(expected), "{name} of seed {seed}, n {n}");
        }
        let mixed: u64 = draws.concat().iter().zip(1..).map(|(&v, i)| u64::from(v) * i).sum();
        assert_eq!(mixed, case["mixed"].as_u64().unwrap(), "seed {seed}, n {n}");
    }
}

#[test]
fn paper_code_keeps_the_partners_that_the_released_program_keeps() {
    let Some(table) = support::all_pairs() else { return };
    let found: Vec<(String, [usize; 2])> = (0..table.cell_lines.len() as u16)
        .map(|line| {
            let of_line = |r: &u32| table.rows[*r as usize].cell_line == line;
            let counts = paper_counts(&table, &rows(&table).into_iter().filter(of_line).collect::<Vec<_>>());
            (table.cell_lines[line as usize].clone(), [counts.drawn, counts.partner_keeping])
        })
        .collect();
    let expected = [
        ("GM12878", [42_260, 28]),
        ("HUVEC", [30_480, 26]),
        ("HeLa-S3", [34_800, 12]),
        ("IMR90", [25_080, 14]),
        ("K562", [39_540, 18]),
        ("NHEK", [25_820, 27]),
    ];
    let mut found: Vec<_> = found.iter().map(|(name, counts)| (name.as_str(), *counts)).collect();
    found.sort();
    assert_eq!(found, expected);
}

/// Everything of `split` that is not tested.
fn known(split: &Split) -> Vec<Sample> {
    split.train.iter().chain(&split.validation).copied().collect()
}

/// Whether two samples share an element or a base of their padded windows: by definition, without any index.
fn share_a_locus(table: &PairTable, a: &Sample, b: &Sample, padding: i64) -> bool {
    SIDES.into_iter().any(|s| a.element(s) == b.element(s))
        || SIDES.into_iter().flat_map(|s| SIDES.map(|t| (s, t))).any(|(s, t)| {
            let (x, y) = (&table.elements(s)[a.element(s) as usize], &table.elements(t)[b.element(t) as usize]);
            x.windows_overlap(y, table.length(s), table.length(t), padding)
        })
}

fn no_locus_is_shared(table: &PairTable, a: &[Sample], b: &[Sample], padding: i64) -> bool {
    !a.iter().any(|x| b.iter().any(|y| share_a_locus(table, x, y, padding)))
}

fn random_table() -> impl Strategy<Value = PairTable> {
    let pair = (0u32..6, 0i64..30, 0i64..30, 0u8..2, 0u16..3);
    prop::collection::vec(pair, 2..80).prop_map(|pairs| {
        // Positions on a coarse grid: elements repeat, and padded windows touch, overlap or just miss each other.
        let spread = |(c, e, p, label, line)| (c, 55 * e + 3 * (e % 4), 55 * p + 7 * (p % 3), label, line);
        let mut pairs: Vec<_> = pairs.into_iter().map(spread).collect();
        pairs.sort_unstable();
        pairs.dedup_by_key(|&mut (c, e, p, _, line)| (c, e, p, line));
        table(&pairs)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_test_locus_is_known_to_training(table in random_table(), shift in 0u32..60, seed in 0u64..5) {
        for kind in ["chromosome", "component", "cross-cell", "cross-cell:chromosome"] {
            for fold in 0..5 {
                let Ok(split) = split(&table, &rows(&table), &SplitSpec { fold, shift, seed, ..spec(kind) }, None) else { continue };
                prop_assert!(!split.leaky);
                prop_assert!(no_locus_is_shared(&table, &known(&split), &split.test, shift.into()), "{kind}: test");
                prop_assert!(no_locus_is_shared(&table, &split.train, &split.validation, shift.into()), "{kind}: validation");
                prop_assert_eq!((split.shared.enhancers, split.shared.promoters, split.shared.windows), (0, 0, 0));
                // Whatever training does with element names, it learns nothing about a test row.
                let lookup = Lookup::fit(&table, &known(&split), &SIDES);
                prop_assert!(split.test.iter().all(|s| lookup.score(s) == 0.0));
            }
        }
        for (kind, side) in [("enhancer", Side::Enhancer), ("promoter", Side::Promoter)] {
            for fold in 0..5 {
                let Ok(split) = split(&table, &rows(&table), &SplitSpec { fold, seed, ..spec(kind) }, None) else { continue };
                let names: HashSet<u32> = known(&split).iter().map(|s| s.element(side)).collect();
                prop_assert!(split.test.iter().all(|s| !names.contains(&s.element(side))));
            }
        }
    }

    #[test]
    fn folds_partition_the_rows(table in random_table(), seed in 0u64..5) {
        for kind in ["chromosome", "component", "enhancer", "promoter", "random"] {
            let Ok(first) = split(&table, &rows(&table), &SplitSpec { seed, folds: Some(3), ..spec(kind) }, None) else { continue };
            let mut tested = vec![0; table.rows.len()];
            for fold in 0..first.folds {
                let Ok(split) = split(&table, &rows(&table), &SplitSpec { fold, seed, folds: Some(3), ..spec(kind) }, None) else { return Ok(()) };
                let all: HashSet<u32> = known(&split).iter().chain(&split.test).map(|s| s.row).collect();
                prop_assert_eq!(all.len(), table.rows.len(), "{}: every row has one part", kind);
                prop_assert_eq!(split.train.len() + split.validation.len() + split.test.len(), table.rows.len());
                split.test.iter().for_each(|s| tested[s.row as usize] += 1);
            }
            prop_assert!(tested.iter().all(|&n| n == 1), "{kind}: every row is tested once");
        }
    }

    #[test]
    fn held_out_labels_do_not_move_a_training_row(table in random_table(), flips in prop::collection::vec(any::<bool>(), 80)) {
        let held_out = SplitSpec { test: vec!["chr1".into()], ..spec("chromosome") };
        let Ok(before) = split(&table, &rows(&table), &held_out, None) else { return Ok(()) };
        let mut other = table.clone();
        for (sample, flip) in before.test.iter().zip(flips) {
            other.rows[sample.row as usize].label ^= u8::from(flip);
        }
        let after = split(&other, &rows(&other), &held_out, None).unwrap();
        prop_assert_eq!(before.train, after.train);
        prop_assert_eq!(before.validation, after.validation);
    }
}

#[test]
fn chromosome_folds_are_balanced_by_positives() {
    let Some(table) = support::all_pairs() else { return };
    for fold in 0..5 {
        let split = split(&table, &rows(&table), &SplitSpec { fold, ..spec("chromosome") }, None).unwrap();
        let positives = split.test.iter().filter(|s| s.label == 1).count() as f64;
        assert!((positives / (table.positives() as f64 / 5.0) - 1.0).abs() < 0.1, "{}", split.description);
        assert!(split.warnings.is_empty(), "{:?}", split.warnings);
    }
}

#[test]
fn random_folds_are_stratified_and_stamped() {
    let split = split(&plain(4, 25), &rows(&plain(4, 25)), &spec("random"), None).unwrap();
    assert!(split.leaky && split.description.contains("LEAKY") && split.warnings.iter().any(|w| w.contains("LEAKY")));
    assert_eq!((split.train.len(), split.validation.len(), split.test.len()), (80, 10, 10));
    assert!((2..=3).contains(&split.test.iter().filter(|s| s.label == 1).count()));
}

#[test]
fn paper_text_shifts_copies_before_it_splits() {
    let table = plain(4, 25);
    let split = split(&table, &rows(&table), &SplitSpec { shift: 30, ..spec("paper-text") }, None).unwrap();
    assert!(split.leaky && split.validation == split.test);
    let all: Vec<_> = split.train.iter().chain(&split.test).collect();
    assert_eq!(all.len(), 20 * table.positives() + table.rows.len() - table.positives());
    assert!(all.iter().all(|s| s.label == 1 && s.shift.iter().all(|d| d.abs() <= 30) || s.shift == [0, 0]));
    assert!(split.test.iter().any(|t| split.train.iter().any(|s| s.row == t.row && s.shift != t.shift)));
}

#[test]
fn paper_code_joins_elements_of_different_rows() {
    let table = plain(4, 25);
    let split = split(&table, &rows(&table), &spec("paper-code"), None).unwrap();
    assert!(split.leaky);
    let positives: Vec<_> = split.train.iter().chain(&split.test).filter(|s| s.label == 1).collect();
    assert_eq!(positives.len(), 20 * table.positives());
    assert!(positives.iter().any(|s| table.rows[s.row as usize].promoter != s.promoter));
    let negatives = split.train.iter().chain(&split.test).filter(|s| s.label == 0).count();
    assert_eq!(negatives, table.rows.len() - table.positives());
}

#[test]
fn named_groups_are_held_out_and_unknown_ones_refused() {
    let table = plain(5, 8);
    let named = SplitSpec { test: vec!["2".into()], validation: vec!["chr4".into()], ..spec("chromosome") };
    let split_named = split(&table, &rows(&table), &named, None).unwrap();
    assert!(split_named.test.iter().all(|s| table.contig(s.row as usize) == Some("chr2")));
    assert!(split_named.validation.iter().all(|s| table.contig(s.row as usize) == Some("chr4")));
    assert_eq!(split_named.train.len(), 24);
    let refused = |spec: SplitSpec, words: &[&str]| {
        let error = split(&table, &rows(&table), &spec, None).expect_err("refused").to_string();
        assert!(words.iter().all(|w| error.contains(w)), "{error}");
    };
    refused(SplitSpec { test: vec!["chr9".into()], ..spec("chromosome") }, &["split.test", "chr9", "chr5"]);
    refused(SplitSpec { test: vec!["chr4".into()], ..named.clone() }, &["chr4", "validation"]);
    refused(
        SplitSpec { test: (1..6).map(|c| format!("chr{c}")).collect(), ..spec("chromosome") },
        &["training", "empty"],
    );
    refused(SplitSpec { fold: 5, ..spec("chromosome") }, &["--fold", "5"]);
    refused(spec("column:tissue"), &["tissue", "none"]);
    refused(spec("cross-cell"), &["two cell lines", "line0"]);
    refused(SplitSpec { test: vec!["chr1".into()], ..spec("component") }, &["component", "--fold"]);
    assert!(matches!("chromosom".parse::<SplitKind>(), Err(Error::Config { .. })));
    assert!(split(&table, &[], &spec("chromosome"), None).is_err());
}

#[test]
fn without_coordinates_chromosome_names_the_remedy_and_component_goes_by_sequence() {
    let mut table = plain(4, 6);
    table.enhancers.iter_mut().chain(&mut table.promoters).for_each(|e| e.contig = None);
    let error = split(&table, &rows(&table), &spec("chromosome"), None).unwrap_err().to_string();
    assert!(error.contains("--pairs") && error.contains("component"), "{error}");
    // Every second enhancer holds one and the same sequence: these rows belong together.
    let enhancers = (0..table.enhancers.len() as u64).map(|e| if e % 2 == 0 { 7 } else { 100 + e }).collect();
    let promoters = (0..table.promoters.len() as u64).map(|p| 1000 + p).collect();
    let identity = Identity { enhancers, promoters };
    for fold in 0..5 {
        let split = split(&table, &rows(&table), &SplitSpec { fold, ..spec("component") }, Some(&identity)).unwrap();
        let shared = |part: &[Sample]| part.iter().filter(|s| s.enhancer % 2 == 0).count();
        let counts = [shared(&split.train), shared(&split.validation), shared(&split.test)];
        assert_eq!(counts.iter().filter(|&&n| n > 0).count(), 1, "{counts:?}");
    }
}

#[test]
fn columns_name_parts_or_groups() {
    let mut table = plain(4, 6);
    let n = table.rows.len() as u32;
    let values = ["train", "Validation", "test", "train"].map(String::from).to_vec();
    table.columns.insert("part".into(), Column { values, codes: (0..n).map(|r| r / 6).collect() });
    let values = ["p", "q", "r"].map(String::from).to_vec();
    table.columns.insert("arm".into(), Column { values, codes: (0..n).map(|r| r / 8).collect() });
    let parts = split(&table, &rows(&table), &spec("column:part"), None).unwrap();
    assert_eq!((parts.train.len(), parts.validation.len(), parts.test.len()), (12, 6, 6));
    assert!(parts.test.iter().all(|s| table.contig(s.row as usize) == Some("chr3")));
    let arms = split(&table, &rows(&table), &spec("column:arm"), None).unwrap();
    assert_eq!((arms.folds, arms.test.len()), (3, 8));
    assert!(arms.warnings.iter().any(|w| w.contains("3 folds instead of 5")));
    let named = SplitSpec { test: vec!["q".into()], ..spec("column:arm") };
    let named = split(&table, &rows(&table), &named, None).unwrap();
    assert!(named.test.iter().all(|s| s.row / 8 == 1));
}

#[test]
fn few_or_lopsided_groups_and_straddling_pairs_are_said() {
    let mut pairs: Vec<_> = (0..20).map(|i| (0, 1000 * i, 1000 * i + 500, 1, 0)).collect();
    pairs.extend((0..10).map(|i| (1 + (i % 2) as u32, 1000 * i, 1000 * i + 500, u8::from(i == 0), 0)));
    let mut table = table(&pairs);
    // One pair across two chromosomes.
    let promoter = table.rows[25].promoter;
    table.rows[0].promoter = promoter;
    let mut said = Vec::new();
    for fold in 0..3 {
        let split = split(&table, &rows(&table), &SplitSpec { fold, ..spec("chromosome") }, None).unwrap();
        said.extend(split.warnings);
    }
    for words in ["chr1 holds 95 %", "3 folds instead of 5", "join two parts", "has no positive"] {
        assert!(said.iter().any(|w| w.contains(words)), "nothing says `{words}` in {said:#?}");
    }
}

#[test]
fn cross_cell_leaves_out_what_the_lines_share() {
    // Line 1 repeats the first half of line 0's loci, shifted by a few bases.
    let mut pairs: Vec<_> = (0..20).map(|i| (0, 1000 * i, 1000 * i + 500, u8::from(i % 3 == 0), 0)).collect();
    pairs.extend((0..10).map(|i| (0, 1000 * i + 9, 1000 * i + 509, u8::from(i % 2 == 0), 1)));
    let table = table(&pairs);
    let held_out = SplitSpec { test: vec!["line1".into()], shift: 20, ..spec("cross-cell") };
    let split = split(&table, &rows(&table), &held_out, None).unwrap();
    assert_eq!((split.test.len(), split.train.len() + split.validation.len()), (10, 10));
    assert!(split.warnings.iter().any(|w| w.contains("10 of 20")), "{:?}", split.warnings);
}

#[test]
fn same_seed_same_split_and_another_seed_another() {
    let table = plain(6, 30);
    let draw = |kind, seed| split(&table, &rows(&table), &SplitSpec { seed, ..spec(kind) }, None).unwrap();
    for kind in ["random", "component", "enhancer", "paper-text", "paper-code"] {
        assert_eq!(draw(kind, 1).test, draw(kind, 1).test, "{kind}");
        assert_ne!(draw(kind, 1).test, draw(kind, 2).test, "{kind}");
    }
}
