//! What a card would be asked to do: every primitive's launches at full size, noted and not done. `scripts/predict.py` makes
//! predicted times of them.

use serde::Serialize;

use super::cases::{Maker, Size};
use super::kernels::chosen;
use crate::backend::Backend;
use crate::backend::cost::Cost;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::device::Noted;
use crate::error::Result;

/// One primitive, and how it is done.
#[derive(Clone, Debug, Serialize)]
pub struct Planned {
    pub name: &'static str,
    pub shape: String,
    #[serde(flatten)]
    pub cost: Cost,
    pub launches: Vec<Noted>,
}

/// The launches of every case whose name contains `filter`, on a device that notes them.
pub fn run(noting: &Cuda, size: &Size, filter: &str) -> Result<Vec<Planned>> {
    let mut planned = Vec::new();
    for (name, build) in chosen::<Cuda>(filter)? {
        let case = build(&Maker::new(noting, size)?)?;
        let once = (case.prepare)()?;
        noting.device().take_noted();
        drop(once()?);
        let launches = noting.device().take_noted();
        planned.push(Planned { name, shape: case.shape.clone(), cost: case.cost, launches });
    }
    noting.synchronize()?;
    Ok(planned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cuda::device::EMULATOR;

    #[test]
    fn a_full_size_case_is_noted_without_being_done() {
        if !EMULATOR {
            println!("needs the emulator (Linux x86-64 with GCC 12 or newer): noted launches");
            return;
        }
        let (model, speid, autoencoder) = Default::default();
        let size = Size { batch: 64, enhancer_length: 3000, promoter_length: 2000, model, speid, autoencoder };
        for (multiprocessors, kernel) in [(82, "lstm_resident_backward_100_2"), (132, "lstm_resident_backward_100_1")] {
            let noting = Cuda::noting(multiprocessors).unwrap();
            let planned = run(&noting, &size, "lstm_backward").unwrap();
            let planned = planned.iter().find(|p| p.name == "lstm_backward").expect("the case of EPSAT");
            let found = planned.launches.iter().find(|l| l.kernel.starts_with("lstm")).expect("a recurrence");
            assert_eq!((found.kernel, found.threads, found.params[1]), (kernel, 224, 829), "{found:?}");
        }
    }
}
