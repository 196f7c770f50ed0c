//! Weights as safetensors under PyTorch's names.

use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::Parameters;
use crate::backend::Backend;
use crate::error::{Error, Result};

impl<B: Backend> Parameters<B> {
    /// The file image: same tensors, same bytes.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        let host = self.to_host()?;
        let views = self.specs().iter().zip(&host).map(|(spec, values)| {
            let view = TensorView::new(Dtype::F32, spec.shape.clone(), bytemuck::cast_slice(values));
            (spec.name.as_str(), view.expect("shape and length agree by construction"))
        });
        safetensors::serialize(views, None).map_err(|e| Error::shape("to_safetensors", e.to_string()))
    }
    /// Reads weights written by [`Parameters::to_safetensors`] or by PyTorch (f32, f16, bf16 or f64). Every tensor must be
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
