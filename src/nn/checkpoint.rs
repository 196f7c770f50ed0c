//! Weights as safetensors under PyTorch's names.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorInfo};
use serde_json::json;

use super::Parameters;
use crate::backend::{Backend, Tensor};
use crate::error::{Error, Result};

/// Elements that are fetched, converted or written at a time, so that a large model is never held twice.
const PIECE: usize = 1 << 20;

/// Where the pieces of `len` elements begin, and how many each has.
fn pieces(len: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..len).step_by(PIECE).map(move |start| (start, PIECE.min(len - start)))
}

/// Writes tensors as f32 in the safetensors format, piece by piece.
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
        for (start, len) in pieces(tensor.len()) {
            // Little-endian, as every machine that this runs on.
            let values = backend.to_f32(&tensor.view(start, &[len])?)?;
            out.write_all(bytemuck::cast_slice(&values)).map_err(Error::io(path))?;
        }
    }
    Ok(())
}

/// A file in the safetensors format, read piece by piece.
pub struct TensorFile {
    file: File,
    path: PathBuf,
    /// Where the values begin, and the bytes from there that each tensor takes.
    start: u64,
    places: HashMap<String, TensorInfo>,
}

impl TensorFile {
    /// Opens a file and reads its header.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io(path))?;
        let whole = file.metadata().map_err(Error::io(path))?.len();
        let mut size = [0; 8];
        file.read_exact(&mut size).map_err(Error::io(path))?;
        let start = u64::from_le_bytes(size).saturating_add(8);
        let damaged = |what: &str| Error::input(path, None, format!("not a whole safetensors file: {what}"));
        if start > whole {
            return Err(damaged("it is shorter than its header says"));
        }
        let mut header = vec![0; (start - 8) as usize];
        file.read_exact(&mut header).map_err(Error::io(path))?;
        let mut header: HashMap<String, serde_json::Value> =
            serde_json::from_slice(&header).map_err(|e| damaged(&e.to_string()))?;
        header.remove("__metadata__");
        let mut places = HashMap::new();
        for (name, entry) in header {
            let place: TensorInfo = serde_json::from_value(entry).map_err(|e| damaged(&format!("`{name}`: {e}")))?;
            let elements = place.shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
            let bits = elements.and_then(|n| n.checked_mul(place.dtype.bitsize()));
            let (from, to) = place.data_offsets;
            if from > to || to as u64 > whole - start || bits != (to - from).checked_mul(8) {
                return Err(damaged(&format!("`{name}` lies outside the file or has another size than its shape")));
            }
            places.insert(name, place);
        }
        Ok(TensorFile { file, path: path.to_path_buf(), start, places })
    }
    /// The values of a tensor.
    pub fn read(&mut self, name: &str) -> Result<Vec<f32>> {
        let mut all = Vec::new();
        self.read_pieces(name, |_, values| {
            all.extend_from_slice(values);
            Ok(())
        })?;
        Ok(all)
    }
    /// Calls `each` with the values of a tensor, converted from f32, f16, bf16 or f64, piece by piece: the first element, and all.
    fn read_pieces(&mut self, name: &str, mut each: impl FnMut(usize, &[f32]) -> Result<()>) -> Result<()> {
        let Some(place) = self.places.get(name) else {
            return Err(Error::input(&self.path, None, format!("damaged checkpoint: there is no `{name}`")));
        };
        let bytes = place.dtype.bitsize() / 8;
        for (start, len) in pieces(place.shape.iter().product()) {
            let mut data = vec![0; len * bytes];
            let from = self.start + (place.data_offsets.0 + start * bytes) as u64;
            self.file.seek(SeekFrom::Start(from)).map_err(Error::io(&self.path))?;
            self.file.read_exact(&mut data).map_err(Error::io(&self.path))?;
            let values = to_f32(place.dtype, &data)
                .ok_or_else(|| Error::input(&self.path, None, format!("tensor `{name}`: dtype {:?}", place.dtype)))?;
            each(start, &values)?;
        }
        Ok(())
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
    pub fn load_safetensors(&self, path: &Path) -> Result<()> {
        let mut file = TensorFile::open(path)?;
        let mut extra: Vec<_> = file
            .places
            .keys()
            .filter(|n| !n.ends_with("num_batches_tracked") && !self.specs().iter().any(|s| s.name == **n))
            .collect();
        extra.sort();
        if !extra.is_empty() {
            let message = format!("tensors that this model does not have: {extra:?}. Was it made by another model?");
            return Err(Error::input(path, None, message));
        }
        for spec in self.specs() {
            let Some(place) = file.places.get(&spec.name) else {
                let message = format!("tensor `{}` {:?} is missing", spec.name, spec.shape);
                return Err(Error::input(path, None, message));
            };
            if place.shape != spec.shape {
                let message =
                    format!("tensor `{}` has shape {:?}, the model wants {:?}", spec.name, place.shape, spec.shape);
                return Err(Error::input(path, None, message));
            }
            let (target, backend) = (self.get(&spec.name)?, self.backend());
            file.read_pieces(&spec.name, |start, values| {
                let size = [values.len()];
                backend.copy(&target.view(start, &size)?, &backend.from_f32(values, &size)?)
            })?;
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
