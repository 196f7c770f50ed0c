//! Weights as safetensors under PyTorch's names.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors};
use serde_json::json;

use super::Parameters;
use crate::backend::{Backend, Tensor};
use crate::error::{Error, Result};

/// Writes tensors as f32 in the safetensors format, fetching one at a time: a large model is never held twice.
pub fn write_tensors<B: Backend>(
    backend: &B,
    tensors: &[(&str, Tensor<B>)],
    out: &mut dyn Write,
    path: &Path,
) -> Result<()> {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, tensor) in tensors {
        let start = end;
        end += 4 * tensor.len();
        header
            .insert(name.to_string(), json!({ "dtype": "F32", "shape": tensor.shape(), "data_offsets": [start, end] }));
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes()).map_err(Error::io(path))?;
    out.write_all(&header).map_err(Error::io(path))?;
    for (_, tensor) in tensors {
        // Little-endian, as every machine that this runs on.
        out.write_all(bytemuck::cast_slice(&backend.to_f32(tensor)?)).map_err(Error::io(path))?;
    }
    Ok(())
}

/// A file that [`write_tensors`] wrote, read one tensor at a time.
pub struct TensorFile {
    file: File,
    path: PathBuf,
    /// Where the values begin, and the bytes from there that each tensor takes.
    start: u64,
    places: HashMap<String, [u64; 2]>,
}

impl TensorFile {
    /// Opens a file and reads its header.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io(path))?;
        let whole = file.metadata().map_err(Error::io(path))?.len();
        let mut size = [0; 8];
        file.read_exact(&mut size).map_err(Error::io(path))?;
        let start = u64::from_le_bytes(size).saturating_add(8);
        let damaged = |what: &str| Error::input(path, None, format!("damaged checkpoint: {what}"));
        if start > whole {
            return Err(damaged("it is shorter than its header says"));
        }
        let mut header = vec![0; (start - 8) as usize];
        file.read_exact(&mut header).map_err(Error::io(path))?;
        let header: HashMap<String, serde_json::Value> =
            serde_json::from_slice(&header).map_err(|e| damaged(&e.to_string()))?;
        let mut places = HashMap::new();
        for (name, entry) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
            let place: Option<[u64; 2]> = serde_json::from_value(entry["data_offsets"].clone()).ok();
            match place {
                Some([from, to]) if entry["dtype"] == "F32" && from <= to && to <= whole - start => {
                    places.insert(name, [from, to])
                }
                _ => return Err(damaged(&format!("`{name}` is not f32 or lies outside the file"))),
            };
        }
        Ok(TensorFile { file, path: path.to_path_buf(), start, places })
    }
    /// The values of a tensor.
    pub fn read(&mut self, name: &str) -> Result<Vec<f32>> {
        let Some([from, to]) = self.places.get(name) else {
            return Err(Error::input(&self.path, None, format!("damaged checkpoint: there is no `{name}`")));
        };
        let mut values = vec![0f32; (to - from) as usize / 4];
        self.file.seek(SeekFrom::Start(self.start + from)).map_err(Error::io(&self.path))?;
        // Little-endian, as every machine that this runs on.
        self.file.read_exact(bytemuck::cast_slice_mut(&mut values)).map_err(Error::io(&self.path))?;
        Ok(values)
    }
}

impl<B: Backend> Parameters<B> {
    /// Writes all tensors in the order of the model: same tensors, same bytes. `path` is for errors only.
    pub fn write_safetensors(&self, out: &mut dyn Write, path: &Path) -> Result<()> {
        let tensors = self.specs().iter().map(|spec| Ok((spec.name.as_str(), self.get(&spec.name)?)));
        write_tensors(self.backend(), &tensors.collect::<Result<Vec<_>>>()?, out, path)
    }
    /// Reads weights written by [`Parameters::write_safetensors`] or by PyTorch (f32, f16, bf16 or f64). Every tensor must be
    /// there with its shape, and no other; PyTorch's `num_batches_tracked` counters are ignored.
    pub fn load_safetensors(&self, bytes: &[u8], path: &Path) -> Result<()> {
        let file = SafeTensors::deserialize(bytes)
            .map_err(|e| Error::input(path, None, format!("not a safetensors file: {e}")))?;
        let extra: Vec<_> = file
            .names()
            .into_iter()
            .filter(|n| !n.ends_with("num_batches_tracked") && !self.specs().iter().any(|s| s.name == **n))
            .collect();
        if !extra.is_empty() {
            let message = format!("tensors that this model does not have: {extra:?}. Was it made by another model?");
            return Err(Error::input(path, None, message));
        }
        for spec in self.specs() {
            let tensor = file
                .tensor(&spec.name)
                .map_err(|_| Error::input(path, None, format!("tensor `{}` {:?} is missing", spec.name, spec.shape)))?;
            if tensor.shape() != spec.shape {
                let message =
                    format!("tensor `{}` has shape {:?}, the model wants {:?}", spec.name, tensor.shape(), spec.shape);
                return Err(Error::input(path, None, message));
            }
            let values = to_f32(tensor.dtype(), tensor.data()).ok_or_else(|| {
                Error::input(path, None, format!("tensor `{}`: dtype {:?}", spec.name, tensor.dtype()))
            })?;
            self.set(&spec.name, &values)?;
        }
        self.backend().synchronize()
    }
}

fn to_f32(dtype: Dtype, data: &[u8]) -> Option<Vec<f32>> {
    fn convert<const N: usize>(data: &[u8], f: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        data.chunks_exact(N).map(|c| f(c.try_into().expect("chunks of N"))).collect()
    }
    Some(match dtype {
        Dtype::F32 => convert(data, f32::from_le_bytes),
        Dtype::F64 => convert(data, |b| f64::from_le_bytes(b) as f32),
        Dtype::F16 => convert(data, |b| half::f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => convert(data, |b| half::bf16::from_le_bytes(b).to_f32()),
        _ => return None,
    })
}
