//! Weight files: what is written comes back, in pieces too; what PyTorch may have written is read; damage is named.

use std::fs::File;
use std::path::{Path, PathBuf};

use epi_engine::backend::Backend;
use epi_engine::backend::cpu::Cpu;
use epi_engine::nn::{TensorFile, write_tensors};
use safetensors::tensor::{Dtype, TensorView};

fn written(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn tensors_of_several_pieces_come_back_and_are_ordinary_safetensors() {
    let (cpu, folder) = (Cpu::new(), tempfile::tempdir().unwrap());
    // A little more than a piece of 2^20 elements, less than one, none.
    let values: Vec<f32> = (0..(1 << 20) + 5).map(|i| i as f32).collect();
    let tensors = [
        ("long", cpu.from_f32(&values, &[values.len()]).unwrap()),
        ("short", cpu.from_f32(&values[..6], &[2, 3]).unwrap()),
        ("empty", cpu.from_f32(&[], &[0, 4]).unwrap()),
    ];
    let path = folder.path().join("weights.safetensors");
    write_tensors(&cpu, &tensors, &mut File::create(&path).unwrap(), &path).unwrap();
    let mut file = TensorFile::open(&path).unwrap();
    assert!(file.read("long").unwrap() == values);
    assert_eq!(file.read("short").unwrap(), &values[..6]);
    assert!(file.read("empty").unwrap().is_empty());
    let bytes = std::fs::read(&path).unwrap();
    let whole = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(whole.tensor("short").unwrap().shape(), [2, 3]);
}

#[test]
fn every_kind_of_float_is_read_as_f32() {
    let folder = tempfile::tempdir().unwrap();
    let values = [1.5f32, -0.25, 1024.0];
    let of = |dtype| -> Vec<u8> {
        match dtype {
            Dtype::F16 => values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
            Dtype::BF16 => values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
            Dtype::F64 => values.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|&v| v.to_le_bytes()).collect(),
        }
    };
    for dtype in [Dtype::F16, Dtype::BF16, Dtype::F32, Dtype::F64] {
        let data = of(dtype);
        let view = TensorView::new(dtype, vec![3], &data).unwrap();
        let bytes = safetensors::serialize([("w", view)], None).unwrap();
        let path = written(folder.path(), "w.safetensors", &bytes);
        assert_eq!(TensorFile::open(&path).unwrap().read("w").unwrap(), values, "{dtype:?}");
    }
    let view = TensorView::new(Dtype::I32, vec![3], bytemuck::cast_slice(&[1i32, 2, 3])).unwrap();
    let path = written(folder.path(), "i.safetensors", &safetensors::serialize([("w", view)], None).unwrap());
    let error = TensorFile::open(&path).unwrap().read("w").unwrap_err().to_string();
    assert!(error.contains("`w`") && error.contains("I32"), "{error}");
}

#[test]
fn damage_is_named_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = |header: &str, data: usize| -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    let header = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let whole = file(header, 8);
    let [outside, other_size] = [file(header, 4), file(r#"{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8)];
    let overflowing = file(r#"{"w":{"dtype":"F32","shape":[9223372036854775807,9],"data_offsets":[0,8]}}"#, 8);
    let cases: [(&[u8], &str); 7] = [
        (b"abc", ""),
        (&[255; 16], "shorter than its header says"),
        (&whole[..20], "shorter than its header says"),
        (&file("{\"w\": 3}", 8), "`w`"),
        (&outside, "`w` lies outside"),
        (&other_size, "`w` lies outside"),
        (&overflowing, "`w` lies outside"),
    ];
    for (i, (bytes, said)) in cases.into_iter().enumerate() {
        let path = written(folder.path(), &format!("damaged-{i}.safetensors"), bytes);
        let error = TensorFile::open(&path).err().unwrap_or_else(|| panic!("case {i} was opened")).to_string();
        assert!(error.contains(said) && error.contains(&format!("damaged-{i}")), "case {i}: {error}");
    }
    let path = written(folder.path(), "whole.safetensors", &whole);
    let mut file = TensorFile::open(&path).unwrap();
    assert_eq!(file.read("w").unwrap(), [0.0; 2]);
    assert!(file.read("v").unwrap_err().to_string().contains("no `v`"));
}
