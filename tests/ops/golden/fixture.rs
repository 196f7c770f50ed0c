//! Reader of the fixtures: safetensors whose metadata says what is inside.

use crate::harness::note;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A host tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

impl Array {
    /// `[B,C,L] → [B,L,C]` and back.
    pub fn swap_last(&self) -> Array {
        let [batch, rows, columns] = self.shape[..] else { panic!("3 dimensions, not {:?}", self.shape) };
        let at = |b, r, c| self.values[(b * rows + r) * columns + c];
        let values = (0..batch).flat_map(|b| (0..columns).flat_map(move |c| (0..rows).map(move |r| (b, r, c))));
        Array { shape: vec![batch, columns, rows], values: values.map(|(b, r, c)| at(b, r, c)).collect() }
    }
    /// Channels last: a 2-D array as it is.
    pub fn channels_last(&self) -> Array {
        if self.shape.len() == 3 { self.swap_last() } else { self.clone() }
    }
    pub fn codes(&self) -> Vec<u8> {
        self.values.iter().map(|&v| v as u8).collect()
    }
    pub fn f32(&self) -> Vec<f32> {
        self.values.iter().map(|&v| v as f32).collect()
    }
}

/// Where the fixtures are.
pub fn folder() -> PathBuf {
    std::env::var_os("EPI_ORACLE")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden"), PathBuf::from)
}

/// All fixtures without their extension, sorted.
pub fn names() -> Vec<String> {
    let entries = std::fs::read_dir(folder()).unwrap_or_else(|e| panic!("{}: {e}", folder().display()));
    let names =
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".safetensors")?.into()));
    let mut names: Vec<String> = names.collect();
    names.sort();
    assert!(!names.is_empty(), "no fixtures in {}", folder().display());
    names
}

/// One file.
pub struct Fixture {
    pub name: String,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, Array>,
}

impl Fixture {
    /// Reads `name` from the folder of fixtures.
    pub fn open(name: &str) -> Self {
        let path = folder().join(format!("{name}.safetensors"));
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let parse = |text: &String| serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()));
        let metadata = header.metadata().iter().flatten().map(|(key, text)| (key.clone(), parse(text))).collect();
        let file = SafeTensors::deserialize(&bytes).expect("the header was read already");
        let array = |view: &safetensors::tensor::TensorView<'_>| Array {
            shape: view.shape().to_vec(),
            values: values(view.dtype(), view.data()),
        };
        let tensors = file.iter().map(|(key, view)| (key.to_string(), array(&view))).collect();
        Fixture { name: name.into(), metadata, tensors }
    }
    /// As [`Fixture::open`]; a file that another folder does not have is named in the output.
    pub fn find(name: &str) -> Option<Self> {
        if names().iter().any(|n| n == name) {
            return Some(Self::open(name));
        }
        assert!(std::env::var_os("EPI_ORACLE").is_some(), "tests/golden has lost {name}");
        note(format!("golden: {} has no {name}", folder().display()));
        None
    }
    pub fn meta(&self, key: &str) -> &Value {
        self.metadata.get(key).unwrap_or_else(|| panic!("{} has no metadata `{key}`", self.name))
    }
    /// Metadata that lists names.
    pub fn list(&self, key: &str) -> Vec<String> {
        serde_json::from_value(self.meta(key).clone()).unwrap_or_else(|e| panic!("{}, `{key}`: {e}", self.name))
    }
    pub fn get(&self, key: &str) -> &Array {
        self.try_get(key).unwrap_or_else(|| panic!("{} has no tensor `{key}`", self.name))
    }
    pub fn try_get(&self, key: &str) -> Option<&Array> {
        self.tensors.get(key)
    }
    /// Keys below `prefix.`, without it.
    pub fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Array)> {
        self.tensors.iter().filter_map(move |(key, array)| Some((key.strip_prefix(prefix)?.strip_prefix('.')?, array)))
    }
    /// The cases of a layer file: name and parameters.
    pub fn cases(&self) -> Vec<Case<'_>> {
        let list = self.meta("cases").as_array().expect("a list of cases");
        list.iter().map(|of| Case { file: self, name: of["case"].as_str().expect("a name"), of }).collect()
    }
    /// Initial weights and statistics by name: stored, or else made from the recipe.
    pub fn initial(&self) -> Vec<(String, Array)> {
        let recipe = self.meta("init").as_array().expect("a list of tensors");
        let stored = |name: &str| self.try_get(&format!("w.{name}")).or(self.try_get(&format!("buf.{name}"))).cloned();
        let one = |entry: &Value| {
            let name = entry[0].as_str().expect("a name");
            (name.to_string(), stored(name).unwrap_or_else(|| self.procedural(entry)))
        };
        recipe.iter().map(one).collect()
    }
    /// A tensor made from its entry `[name, shape, center, amp, kind]`: a counter-based generator of exact f32 numbers.
    pub fn procedural(&self, entry: &Value) -> Array {
        const GOLD: u64 = 0x9E37_79B9_7F4A_7C15;
        let name = entry[0].as_str().expect("a name");
        let shape: Vec<usize> = serde_json::from_value(entry[1].clone()).expect("a shape");
        let [center, amp] = [2, 3].map(|i| entry[i].as_f64().expect("a number") as f32);
        let seed = self.meta("seed").as_u64().expect("a seed");
        let fnv = name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3));
        let key = fnv ^ seed.wrapping_mul(GOLD);
        let value = |i: u64| {
            let mut z = key.wrapping_add((i + 1).wrapping_mul(GOLD));
            z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            let s = (2 * (z >> 40) as i64 - (1 << 24)) as f32 * (1.0 / 16_777_216.0);
            f64::from(center + amp * s)
        };
        let n = shape.iter().product::<usize>() as u64;
        Array { shape, values: (0..n).map(value).collect() }
    }
}

/// One case of a layer file.
pub struct Case<'a> {
    pub file: &'a Fixture,
    pub name: &'a str,
    pub of: &'a Value,
}

impl Case<'_> {
    pub fn get(&self, key: &str) -> &Array {
        self.file.get(&format!("{}.{key}", self.name))
    }
    pub fn try_get(&self, key: &str) -> Option<&Array> {
        self.file.try_get(&format!("{}.{key}", self.name))
    }
    pub fn number(&self, key: &str) -> f64 {
        self.of[key].as_f64().unwrap_or_else(|| panic!("{}, {}: no `{key}`", self.file.name, self.name))
    }
    pub fn size(&self, key: &str) -> usize {
        self.number(key) as usize
    }
    pub fn text(&self, key: &str) -> &str {
        self.of[key].as_str().unwrap_or_else(|| panic!("{}, {}: no `{key}`", self.file.name, self.name))
    }
}

fn values(dtype: Dtype, data: &[u8]) -> Vec<f64> {
    fn convert<const N: usize>(data: &[u8], f: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        data.chunks_exact(N).map(|chunk| f(chunk.try_into().expect("N bytes"))).collect()
    }
    match dtype {
        Dtype::F32 => convert(data, |x| f32::from_le_bytes(x).into()),
        Dtype::F64 => convert(data, f64::from_le_bytes),
        Dtype::I32 => convert(data, |x| i32::from_le_bytes(x).into()),
        Dtype::I64 => convert(data, |x| i64::from_le_bytes(x) as f64),
        Dtype::U8 => data.iter().map(|&x| x.into()).collect(),
        other => panic!("fixtures do not use {other:?}"),
    }
}

#[test]
fn procedural_weights_are_the_stored_ones() {
    let mut compared = 0;
    for name in names().iter().filter(|name| !name.starts_with("layer_")) {
        let fixture = Fixture::open(name);
        for entry in fixture.meta("init").as_array().expect("a list of tensors") {
            let key = |prefix| format!("{prefix}.{}", entry[0].as_str().expect("a name"));
            if let Some(stored) = fixture.try_get(&key("w")).or(fixture.try_get(&key("buf"))) {
                assert_eq!(&fixture.procedural(entry), stored, "{name}: {}", entry[0]);
                compared += 1;
            }
        }
    }
    assert!(compared > 0, "no fixture stores its weights");
}
