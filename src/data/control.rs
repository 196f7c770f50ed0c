//! Control experiments: the same pairs with sequences taken away or replaced.
//!
//! An element that is taken away shows the same random bases in every pair, and not N: a channel that is constant over a batch
//! has no variance to normalise by. Random DNA is drawn for each distinct window from a key made of that window, so an
//! element looks the same in every row and in every file; equal bases are the only thing that two windows ever share.

use sha2::{Digest, Sha256};

use crate::config::Control;
use crate::data::window::index;
use crate::data::{Contents, Dataset, Side};
use crate::error::{Error, Result};
use crate::rng::{Stream, stream};

/// The data set as a control wants it, in memory; `dataset` itself for [`Control::None`].
///
/// # Errors
/// [`Error::Config`] when an element is to be taken away from pairs without coordinates: their splits follow the sequences.
pub fn controlled(dataset: Dataset, control: Control) -> Result<Dataset> {
    let random = match control {
        Control::None => return Ok(dataset),
        Control::PromoterOnly => [Some(Replacement::Shared), None],
        Control::EnhancerOnly => [None, Some(Replacement::Shared)],
        Control::RandomDna => [Some(Replacement::Own), Some(Replacement::Own)],
    };
    let table = dataset.table();
    let placeless = table.enhancers.iter().chain(&table.promoters).any(|e| e.contig.is_none());
    if placeless && control != Control::RandomDna {
        let message = format!(
            "{}: {} needs coordinates, because without them splits follow the sequences that it takes away",
            dataset.path().display(),
            control.name()
        );
        return Err(Error::config("data.control", message));
    }
    let mut source = dataset.info().clone();
    source["control"] = control.name().into();
    let flank = dataset.flank();
    let mut contents = Contents::new(table.clone(), flank, source);
    for (side, replacement) in [Side::Enhancer, Side::Promoter].into_iter().zip(random) {
        let windows = &mut contents.windows[index(side)];
        let mut new: Vec<Option<u32>> = vec![None; dataset.windows(side)];
        for element in 0..table.elements(side).len() as u32 {
            let old = &mut new[dataset.window_of(side, element) as usize];
            match *old {
                Some(window) => windows.push_shared(window),
                None => {
                    let mut codes = dataset.stored_codes(side, element);
                    if let Some(replacement) = replacement {
                        replacement.draw(&mut codes, flank);
                    }
                    *old = Some(windows.push(&codes));
                }
            }
        }
    }
    Ok(contents.into_dataset()?.called(dataset.path()))
}

/// Bases that stand for a window.
#[derive(Clone, Copy)]
enum Replacement {
    /// The same for every window.
    Shared,
    /// Keyed by the window.
    Own,
}

impl Replacement {
    /// Fills `codes`, a window between two flanks: the window first, so that it is the same whatever the flanks.
    fn draw(self, codes: &mut [u8], flank: usize) {
        let inside = flank..codes.len() - flank;
        let key = match self {
            Replacement::Shared => 0,
            Replacement::Own => {
                let hash = Sha256::digest(&codes[inside.clone()]);
                u64::from_le_bytes(hash[..8].try_into().expect("eight bytes"))
            }
        };
        let mut random = Stream::new(key, stream::CONTROL, 0);
        for i in inside.clone().chain(inside.end..codes.len()).chain((0..flank).rev()) {
            codes[i] = random.below(4) as u8;
        }
    }
}
