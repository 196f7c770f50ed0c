//! Memory of the oracle: a shared vector behind a lock. Operators copy what they read and lock a slot only while they
//! write it, so views of one buffer never deadlock and never see half an update.

use super::{Real, Reference};
use crate::backend::StepState;
use crate::error::{Error, Result};
use std::sync::{Arc, PoisonError, RwLock};

/// A tensor of this backend.
pub(super) type Tensor<T> = crate::backend::Tensor<Reference<T>>;

/// Reference-counted elements.
#[derive(Clone)]
pub struct Buffer<T>(Arc<RwLock<Vec<T>>>);

/// The step record.
#[derive(Clone, Default)]
pub struct Step(Arc<RwLock<StepState>>);

impl Step {
    /// Replaces the record.
    pub fn write(&self, state: &StepState) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = *state;
    }
    /// A copy of the record.
    pub fn read(&self) -> StepState {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wraps fresh values; they fill `shape` by construction.
pub(super) fn tensor<T: Real>(values: Vec<T>, shape: &[usize]) -> Tensor<T> {
    debug_assert_eq!(values.len(), shape.iter().product::<usize>());
    Tensor::new(Buffer(Arc::new(RwLock::new(values))), shape, T::DTYPE)
}

/// As [`tensor`], for values that came from outside.
pub(super) fn upload<T: Real>(values: impl ExactSizeIterator<Item = T>, shape: &[usize]) -> Result<Tensor<T>> {
    if values.len() != shape.iter().product::<usize>() {
        return Err(Error::shape("upload", format!("{} values do not fill shape {shape:?}", values.len())));
    }
    Ok(tensor(values.collect(), shape))
}

/// A copy of the elements.
pub(super) fn read<T: Real>(tensor: &Tensor<T>) -> Vec<T> {
    let all = tensor.buffer().0.read().unwrap_or_else(PoisonError::into_inner);
    all[tensor.offset()..tensor.offset() + tensor.len()].to_vec()
}

/// Changes the elements in place.
pub(super) fn update<T: Real>(slot: &Tensor<T>, change: impl FnOnce(&mut [T])) {
    let mut all = slot.buffer().0.write().unwrap_or_else(PoisonError::into_inner);
    change(&mut all[slot.offset()..slot.offset() + slot.len()]);
}

/// Slot `+= values`.
pub(super) fn accumulate<T: Real>(slot: &Tensor<T>, values: &[T]) {
    update(slot, |slot| slot.iter_mut().zip(values).for_each(|(slot, &value)| *slot += value));
}
