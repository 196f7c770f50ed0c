//! Batches drawn on the device (kernels/gather.cu).

use super::dna_conv::Dna;
use super::params::GatherParams;
use super::{Cuda, Memory, Step, at, int};
use crate::backend::{Gathered, Order, OrderEntry, WindowSet};
use crate::error::{Error, Result};
use crate::rng::Permutation;
use std::sync::Arc;

/// Windows on the device, as in the file, and a list of samples.
#[derive(Clone)]
pub struct Resident {
    sides: Arc<[Side; 2]>,
    flank: usize,
    list: Option<Arc<List>>,
}

struct Side {
    length: usize,
    windows: usize,
    planes: Memory,
    masks: Memory,
    mask_of: Memory,
}

struct List {
    entries: Memory,
    params: GatherParams,
}

pub fn upload(cuda: &Cuda, set: &WindowSet<'_>, reserve: usize) -> Result<Option<Resident>> {
    if set.bytes() + reserve > cuda.device().free_memory() {
        return Ok(None);
    }
    let side = |i: usize| -> Result<Side> {
        let side = &set.sides[i];
        Ok(Side {
            length: side.length,
            windows: side.mask_of.len(),
            planes: cuda.upload(side.planes)?,
            masks: cuda.upload(side.masks)?,
            mask_of: cuda.upload(side.mask_of)?,
        })
    };
    Ok(Some(Resident { sides: Arc::new([side(0)?, side(1)?]), flank: set.flank, list: None }))
}

pub fn with_order(cuda: &Cuda, resident: &Resident, order: &Order) -> Result<Resident> {
    const OP: &str = "with_order";
    let outside = |e: &&OrderEntry| (0..2).any(|s| e.windows[s] as usize >= resident.sides[s].windows);
    if let Some(entry) = order.entries.iter().find(outside) {
        return Err(Error::shape(OP, format!("windows {:?} are not all on the device", entry.windows)));
    }
    if order.entries.is_empty() {
        return Err(Error::shape(OP, "a list without samples"));
    }
    let [enhancer_length, promoter_length] = [0, 1].map(|s| int(OP, resident.sides[s].length));
    let params = GatherParams {
        seed: order.seed.unwrap_or(0),
        samples: int(OP, order.entries.len())?,
        keyed: order.seed.is_some().into(),
        half: int(OP, Permutation::new(order.entries.len() as u64, 0, 0).half_bits() as usize)?,
        shift: int(OP, order.shift as usize)?,
        reverse_complement: order.reverse_complement.into(),
        enhancer_length: enhancer_length?,
        promoter_length: promoter_length?,
        flank: int(OP, resident.flank)?,
    };
    let list = List { entries: cuda.upload(&order.entries)?, params };
    Ok(Resident { list: Some(Arc::new(list)), ..resident.clone() })
}

pub fn gather(cuda: &Cuda, resident: &Resident, batch: usize, step: &Step) -> Result<Gathered<Cuda>> {
    let Some(list) = &resident.list else { return Err(Error::shape("gather", "there is no list of samples")) };
    let sides = &resident.sides;
    let dna = |side: &Side| -> Result<Dna> {
        let words = side.length.div_ceil(64);
        let planes = Arc::new(cuda.scratch::<u64>(batch * 3 * words)?);
        Ok(Dna { planes, batch, length: side.length, words })
    };
    let (dna, labels, weights) = ([dna(&sides[0])?, dna(&sides[1])?], cuda.empty(&[batch])?, cuda.empty(&[batch])?);
    let [e, p] = sides.each_ref().map(|s| [&s.planes, &s.masks, &s.mask_of].map(Memory::address));
    launch!(cuda, "gather_batch", [batch, 2, 1], 64, 0;
        list.params, list.entries.address(), step.address(), e[0], e[1], e[2], p[0], p[1], p[2],
        dna[0].planes.address(), dna[1].planes.address(), at(&labels), at(&weights))?;
    Ok(Gathered { dna, lengths: sides.each_ref().map(|s| s.length), labels, weights })
}
