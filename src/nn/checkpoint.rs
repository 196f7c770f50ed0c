//! Weights as safetensors under PyTorch's names.

use std::io::Write;
use std::path::Path;

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
