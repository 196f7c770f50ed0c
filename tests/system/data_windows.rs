//! Windows that are already cut, in FASTA and in SPEID's HDF5, and the way back to FASTA.

use std::path::{Path, PathBuf};

use epi_engine::data::cut::{CutOptions, from_fasta};
use epi_engine::data::export::export;
use epi_engine::data::import_hdf5::{Channels, import};
use epi_engine::data::pairs::{self, PairsOptions};
use epi_engine::data::{Dataset, Side, fasta};

use crate::data_dataset::sample;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn hdf5(name: &str) -> epi_engine::Result<Dataset> {
    import(&fixture(name), "K562", None, Channels::default(), CutOptions::default(), |_, _| {})?.0.into_dataset()
}

#[test]
fn every_form_of_hdf5_gives_the_same_windows() {
    for form in [
        "contiguous-f8",
        "contiguous-f4-big-endian",
        "chunked-gzip-f8",
        "chunked-i1",
        "latest-gzip-u1",
        "latest-i8-growing",
        "bool",
        "positions-first",
    ] {
        let dataset = hdf5(&format!("speid-{form}.h5")).unwrap_or_else(|e| panic!("{form}: {e}"));
        let table = dataset.table();
        assert_eq!(
            (dataset.len(), table.enhancers.len(), table.cell_lines.as_slice()),
            (10, 5, &["K562".to_string()][..])
        );
        assert_eq!((dataset.enhancer_length(), dataset.promoter_length()), (64, 40), "{form}");
        for (row, pair) in table.rows.iter().enumerate() {
            assert_eq!(usize::from(pair.label), row / 2 % 2, "{form}");
            for (s, side) in [Side::Enhancer, Side::Promoter].into_iter().enumerate() {
                let code = |i: usize| ((row / 2 * 7 + i * 3 + s * 5 + i * i) % 5) as u8;
                let want: Vec<u8> = (0..table.length(side)).map(code).collect();
                let element = if s == 0 { pair.enhancer } else { pair.promoter };
                assert_eq!(dataset.codes(side, element), want, "{form}, row {row}, {side:?}");
            }
        }
    }
}

#[test]
fn hdf5_takes_coordinates_in_row_order_and_refuses_other_tables() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pairs.tsv");
    let table = |rows: usize, flip: usize| {
        let mut text = String::from("chrom\tenh_start\tenh_end\tprom_start\tprom_end\tlabel\n");
        for row in 0..rows {
            let label = ((row / 2) % 2) ^ usize::from(row == flip);
            text += &format!("chr1\t{0}\t{1}\t5000\t5100\t{label}\n", 1000 * (row / 2), 1000 * (row / 2) + 50);
        }
        std::fs::write(&path, text).unwrap();
        let options = PairsOptions { keep_all: true, ..PairsOptions::default() };
        let pairs = pairs::read(&path, &options).unwrap();
        let file = fixture("speid-contiguous-f8.h5");
        import(&file, "K562", Some(pairs), Channels::default(), CutOptions::default(), |_, _| {})
    };
    let dataset = table(10, 99).unwrap().0.into_dataset().unwrap();
    assert_eq!(dataset.contig_of_row(3), Some("chr1"));
    // One promoter interval shows five sequences: they stay five elements.
    assert_eq!((dataset.table().enhancers.len(), dataset.table().promoters.len()), (5, 5));
    let error = table(9, 99).unwrap_err().to_string();
    assert!(error.contains("9 rows"), "{error}");
    let error = table(10, 4).unwrap_err().to_string();
    assert!(error.contains("pairs.tsv:6"), "{error}");
}

trait ContigOfRow {
    fn contig_of_row(&self, row: usize) -> Option<&str>;
}

impl ContigOfRow for Dataset {
    fn contig_of_row(&self, row: usize) -> Option<&str> {
        self.table().contig(row)
    }
}

#[test]
fn bad_hdf5_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let good = std::fs::read(fixture("speid-chunked-gzip-f8.h5")).unwrap();
    let refused = |name: &str, bytes: &[u8], cell: &str, says: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let result = import(&path, cell, None, Channels::default(), CutOptions::default(), |_, _| {});
        let message = result.unwrap_err().to_string();
        assert!(message.contains(says) && message.contains(name), "{message}");
    };
    refused("empty.h5", b"", "K562", "no HDF5");
    refused("text.h5", b"not HDF5 at all", "K562", "no HDF5");
    refused("cell.h5", &good, "NHEK", "K562_X_enhancers");
    refused("cut.h5", &good[..good.len() / 2], "K562", "cut.h5");
    // Wrong channel order cannot be seen, but an order that is none is refused.
    assert!("ATCC".parse::<Channels>().is_err() && "A,C,G,T".parse::<Channels>().is_ok());
    // Damage anywhere gives an error or a data set, never a panic.
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        let path = folder.path().join("damaged.h5");
        std::fs::write(&path, bad).unwrap();
        let _ = import(&path, "K562", None, Channels::default(), CutOptions::default(), |_, _| {});
    }
}

fn prepare_again(folder: &Path, cut: CutOptions) -> epi_engine::Result<Dataset> {
    let fastas = [folder.join("enhancers.fa"), folder.join("promoters.fa")];
    let options = PairsOptions::default();
    from_fasta([&fastas[0], &fastas[1]], &folder.join("pairs.tsv"), &options, cut)?.0.into_dataset()
}

/// What a data set says, element numbers aside.
fn said(dataset: &Dataset) -> Vec<String> {
    let table = dataset.table();
    (0..dataset.len())
        .map(|r| {
            let row = table.rows[r];
            let columns: Vec<_> = table.columns.values().map(|c| c.values[c.codes[r] as usize].as_str()).collect();
            let side = |side, element: u32| {
                let e = &table.elements(side)[element as usize];
                let contig = e.contig.map(|c| table.contigs[c as usize].as_str());
                let letters: String = dataset.codes(side, element).iter().map(|c| fasta::letter(*c)).collect();
                format!("{contig:?} {} {} {letters}", e.start, e.end)
            };
            let cell = &table.cell_lines[row.cell_line as usize];
            let (e, p) = (side(Side::Enhancer, row.enhancer), side(Side::Promoter, row.promoter));
            format!("{} {cell} {columns:?} {e} {p}", row.label)
        })
        .collect()
}

#[test]
fn export_and_prepare_give_the_data_set_back() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = sample(12, 8).0.into_dataset().unwrap();
    export(&dataset, folder.path(), false).unwrap();
    assert_eq!(said(&dataset), said(&prepare_again(folder.path(), CutOptions::default()).unwrap()));
    export(&dataset, folder.path(), true).unwrap();
    let lengths = [Some(dataset.enhancer_length()), Some(dataset.promoter_length())];
    let again = prepare_again(folder.path(), CutOptions { lengths, flank: 100 }).unwrap();
    assert_eq!(said(&dataset), said(&again));
    assert_eq!(again.flank(), dataset.flank());
    assert_eq!(again.stored_codes(Side::Enhancer, 4), dataset.stored_codes(Side::Enhancer, 4));
    // Without coordinates too.
    let speid = hdf5("speid-chunked-i1.h5").unwrap();
    export(&speid, folder.path(), false).unwrap();
    let mut distinct = said(&speid);
    distinct.dedup();
    assert_eq!(distinct, said(&prepare_again(folder.path(), CutOptions::default()).unwrap()), "duplicates are dropped");
}

#[test]
fn windows_are_joined_by_name_or_by_row_and_misfits_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let prepare = || prepare_again(folder.path(), CutOptions::default());
    let refused = |says: &str| {
        let message = prepare().unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    };
    write("enhancers.fa", ">chr1:10-18\nACGTACGT\n>chr1:30-38\nTTTTNCGT\n");
    write("promoters.fa", ">p1\nAAAA\n>p2\nCCCC\n");
    write("pairs.tsv", "enh_id\tprom_id\tlabel\nchr1:30-38\tp1\t1\nchr1:10-18\tp1\t0\n");
    let dataset = prepare().unwrap();
    assert_eq!(dataset.codes(Side::Enhancer, 0), [3, 3, 3, 3, 4, 1, 2, 3]);
    assert_eq!(dataset.table().enhancers[0].contig, None, "promoters have no coordinates, so enhancers take none");
    write("pairs.tsv", "label\n0\n1\n");
    assert_eq!(prepare().unwrap().codes(Side::Promoter, 1), [1, 1, 1, 1]);
    write("pairs.tsv", "label\n0\n1\n1\n");
    refused("3 rows");
    write("pairs.tsv", "enh_id\tprom_id\tlabel\nchr1:30-38\tp9\t1\n");
    refused("pairs.tsv:2: no record `p9`");
    write("pairs.tsv", "enh_id\tlabel\nchr1:30-38\t1\n");
    refused("promoter_id");
    write("promoters.fa", ">p1\nAAAA\n>p2\nCCC\n");
    refused("promoters.fa:3: p2 has 3 bases");
    write("promoters.fa", ">p1\nAAAA\n>p1\nCCCC\n");
    refused("second record");
    write("promoters.fa", ">chr1:50-54\nAAAA\n");
    write("pairs.tsv", "enh_id\tprom_id\tlabel\nchr1:30-38\tchr1:50-54\t1\n");
    assert_eq!(prepare().unwrap().table().distance(0), Some(18));
}
