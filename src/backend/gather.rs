//! What a device has to be told to draw batches from a data set that lies in its own memory.

use super::{Backend, Tensor};

/// Marks a window without N in [`WindowSide::mask_of`].
pub const NO_MASK: u32 = u32::MAX;

/// The stored windows of one side, as an `.epi` file holds them.
#[derive(Clone, Copy, Debug)]
pub struct WindowSide<'a> {
    /// Bases of a window in a batch; `flank` more are stored on each side.
    pub length: usize,
    /// `[window][low, high][word]`, little-endian words of 64 bases.
    pub planes: &'a [u8],
    /// `[mask][word]`, 1 = known.
    pub masks: &'a [u8],
    /// Mask of each window, or [`NO_MASK`].
    pub mask_of: &'a [u32],
}

/// The stored windows of a data set: enhancers, promoters.
#[derive(Clone, Copy, Debug)]
pub struct WindowSet<'a> {
    pub sides: [WindowSide<'a>; 2],
    /// Bases stored beyond each end of a window.
    pub flank: usize,
}

impl WindowSet<'_> {
    /// Bytes of sequences and tables.
    pub fn bytes(&self) -> usize {
        self.sides.iter().map(|s| s.planes.len() + s.masks.len() + size_of_val(s.mask_of)).sum()
    }
}

/// One entry of a list of samples: as `OrderEntry` of `kernels/include/params.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct OrderEntry {
    /// Stored window of each side.
    pub windows: [u32; 2],
    /// Whole bases by which the split moves each window.
    pub shifts: [i32; 2],
    /// Class, 0 or 1.
    pub label: f32,
    /// Weight in the loss.
    pub weight: f32,
}

/// A list of samples and how an epoch goes through it.
#[derive(Clone, Debug)]
pub struct Order {
    pub entries: Vec<OrderEntry>,
    /// Keys the order, the shifts and the strands; `None`: in the order of the list, as they are.
    pub seed: Option<u64>,
    /// Each window moves by up to this many bases.
    pub shift: u32,
    /// Both windows are reverse-complemented with probability ½.
    pub reverse_complement: bool,
}

/// A batch that was made on the device.
pub struct Gathered<B: Backend> {
    /// Enhancers and promoters.
    pub dna: [B::Dna; 2],
    /// Bases of their windows.
    pub lengths: [usize; 2],
    /// `[B]`
    pub labels: Tensor<B>,
    /// `[B]`
    pub weights: Tensor<B>,
}
