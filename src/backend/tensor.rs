//! `Tensor<B>`: a shape over reference-counted memory of one backend. Contiguous, row-major, cheap to clone.

use super::Backend;
use crate::error::{Error, Result};

/// Type of the elements of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    F32,
    F64,
    BF16,
}

/// A contiguous row-major array on backend `B`; a clone or a view shares the memory.
pub struct Tensor<B: Backend> {
    buffer: B::Buffer,
    offset: usize,
    shape: Vec<usize>,
    dtype: DType,
}

impl<B: Backend> Clone for Tensor<B> {
    fn clone(&self) -> Self {
        Tensor { buffer: self.buffer.clone(), offset: self.offset, shape: self.shape.clone(), dtype: self.dtype }
    }
}

impl<B: Backend> std::fmt::Debug for Tensor<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor {:?} {:?}", self.shape, self.dtype)
    }
}

impl<B: Backend> Tensor<B> {
    /// Wraps memory that a backend has allocated; for backends only.
    pub fn new(buffer: B::Buffer, shape: &[usize], dtype: DType) -> Self {
        Tensor { buffer, offset: 0, shape: shape.to_vec(), dtype }
    }
    /// The memory this tensor lives in (possibly shared with other views).
    pub fn buffer(&self) -> &B::Buffer {
        &self.buffer
    }
    /// First element of this view within the buffer, in elements.
    pub fn offset(&self) -> usize {
        self.offset
    }
    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The shape as an array of `N` sizes; the error names `op` and the shape that came instead.
    pub fn dims<const N: usize>(&self, op: &'static str) -> Result<[usize; N]> {
        self.shape
            .as_slice()
            .try_into()
            .map_err(|_| Error::shape(op, format!("expected {N} dimensions, got shape {:?}", self.shape)))
    }
    /// Rows and columns when all but the last dimension are folded together; a scalar is 1 x 1.
    pub fn matrix(&self) -> (usize, usize) {
        let columns = self.shape.last().copied().unwrap_or(1);
        (self.len().checked_div(columns).unwrap_or(0), columns)
    }
    /// Error unless the shape is exactly `shape`.
    pub fn expect_shape(&self, op: &'static str, what: &str, shape: &[usize]) -> Result<()> {
        if self.shape == shape {
            return Ok(());
        }
        Err(Error::shape(op, format!("{what} must have shape {shape:?}, got {:?}", self.shape)))
    }
    /// The same elements under another shape of equal length.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        if shape.iter().product::<usize>() != self.len() {
            return Err(Error::shape(
                "reshape",
                format!("{:?} does not hold as many elements as {shape:?}", self.shape),
            ));
        }
        Ok(Tensor { shape: shape.to_vec(), ..self.clone() })
    }
    /// `shape` elements from element `start` of this tensor on; shares the memory.
    pub fn view(&self, start: usize, shape: &[usize]) -> Result<Self> {
        if start + shape.iter().product::<usize>() > self.len() {
            return Err(Error::shape("view", format!("{shape:?} from element {start} exceeds {:?}", self.shape)));
        }
        Ok(Tensor { offset: self.offset + start, shape: shape.to_vec(), ..self.clone() })
    }
}

/// The one shape of the terms of a weighted sum; error if there is none, or not a factor for each.
pub(super) fn same_shapes<'a, B: Backend>(
    op: &'static str,
    terms: &[&'a Tensor<B>],
    factors: &[f32],
) -> Result<&'a [usize]> {
    let [first, ..] = terms else { return Err(Error::shape(op, "no terms")) };
    if terms.len() != factors.len() {
        return Err(Error::shape(op, format!("{} terms and {} factors", terms.len(), factors.len())));
    }
    for (i, term) in terms.iter().enumerate() {
        term.expect_shape(op, &format!("term {i}"), first.shape())?;
    }
    Ok(first.shape())
}
