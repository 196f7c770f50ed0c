//! Augmentation of training samples: whole-base shifts of both windows and reverse complement of both together.

use crate::rng::{self, stream};

/// What may be done to a training sample; the default does nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Augmentation {
    /// Each window moves by a whole number of bases in `-shift..=shift`, independently.
    pub shift: u32,
    /// Both windows are reverse-complemented together with probability ½.
    pub reverse_complement: bool,
}

/// What is done to one sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Draw {
    pub enhancer_shift: i32,
    pub promoter_shift: i32,
    pub reverse_complement: bool,
}

impl Augmentation {
    /// The draw of `position` of the order of `epoch`: a function of its arguments alone.
    ///
    /// Of block `position` of stream `AUGMENT` at step `epoch`, word 0 moves the enhancer, word 1 the promoter
    /// (`(word · (2·shift+1)) >> 32` minus `shift`), and the top bit of word 2 decides on the reverse complement.
    pub fn draw(&self, seed: u64, epoch: u32, position: u64) -> Draw {
        if *self == Augmentation::default() {
            return Draw::default();
        }
        let words = rng::block(seed, stream::AUGMENT, epoch, position);
        let span = 2 * u64::from(self.shift) + 1;
        let shift = |word: u32| ((u64::from(word) * span) >> 32) as i32 - self.shift as i32;
        Draw {
            enhancer_shift: shift(words[0]),
            promoter_shift: shift(words[1]),
            reverse_complement: self.reverse_complement && words[2] >> 31 == 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_cover_their_range_evenly_and_repeat() {
        let augmentation = Augmentation { shift: 2, reverse_complement: true };
        let mut counts = [[0u32; 5]; 2];
        let mut reversed = 0;
        for i in 0..10_000 {
            let draw = augmentation.draw(1, 0, i);
            assert_eq!(draw, augmentation.draw(1, 0, i));
            counts[0][(draw.enhancer_shift + 2) as usize] += 1;
            counts[1][(draw.promoter_shift + 2) as usize] += 1;
            reversed += u32::from(draw.reverse_complement);
        }
        assert!(counts.iter().flatten().all(|n| (1800..2200).contains(n)), "{counts:?}");
        assert!((4800..5200).contains(&reversed));
        assert_eq!(Augmentation::default().draw(1, 0, 3), Draw::default());
    }
}
