//! Input gradients of convolutions that go on through the LeakyReLU before them.

use crate::conv_transpose1d::EPLAE;
use crate::harness::{Fill, Input, Inputs, Op, Run, SEED, assert_refused};
use epi_engine::Result;
use epi_engine::autograd::Tape;
use epi_engine::autograd::ops::{concat_length, conv1d};
use epi_engine::backend::{Backend, Conv1d};
use epi_engine::rng::Stream;

/// LeakyReLU, then a convolution or a transposed one.
#[derive(Debug)]
pub struct AfterLeaky {
    batch: usize,
    /// Positions of the longer sequence.
    length: usize,
    /// Channels of the longer and of the shorter sequence.
    channels: [usize; 2],
    kernel: usize,
    spec: Conv1d,
    slope: f32,
    transposed: bool,
}

impl Op for AfterLeaky {
    fn inputs(&self, fill: Fill, seed: u64) -> Vec<Input> {
        let [long, short] = self.channels;
        let shorter = self.spec.output_length(self.length, self.kernel);
        let (length, channels) = if self.transposed { (shorter, short) } else { (self.length, long) };
        Inputs::new(fill, seed)
            .float("inp", &[self.batch, length, channels])
            .per_sample()
            .weight("weight", &[short, long, self.kernel], long * self.kernel)
            .build()
    }
    fn run<B: Backend>(&self, run: &mut Run<B>) -> Result<()> {
        let (b, spec, slope) = (run.b, self.spec, self.slope);
        let (inp, weight) = (b.leaky_relu(&run.input("inp")?, slope)?, run.input("weight")?);
        if self.transposed {
            let out = b.conv_transpose1d(&inp, &weight, None, None, spec, self.length)?;
            let Some(dout) = run.differentiate(&out)? else { return Ok(()) };
            run.report("dinp", &b.conv_transpose1d_backward_leaky(&dout, &weight, spec, &inp, slope)?);
        } else {
            let out = b.conv1d(&inp, &weight, None, None, spec)?;
            let Some(dout) = run.differentiate(&out)? else { return Ok(()) };
            run.report("dinp", &b.conv1d_backward_leaky(&dout, &weight, spec, &inp, slope)?);
        }
        Ok(())
    }
}

/// `sizes`: batch, positions and channels of the longer sequence, channels of the shorter one, taps.
fn both(sizes: [usize; 5], spec: Conv1d, slope: f32) -> [AfterLeaky; 2] {
    let [batch, length, long, short, kernel] = sizes;
    [false, true].map(|transposed| AfterLeaky {
        batch,
        length,
        channels: [long, short],
        kernel,
        spec,
        slope,
        transposed,
    })
}

pub fn small() -> Vec<AfterLeaky> {
    [
        both([2, 1, 3, 4, 13], EPLAE, 0.01),
        both([2, 9, 4, 8, 13], EPLAE, 0.25),
        both([1, 17, 12, 20, 5], Conv1d { stride: 3, padding: 2 }, 0.1),
        both([2, 11, 2, 2, 4], Conv1d { stride: 5, padding: 7 }, 0.01),
    ]
    .into_iter()
    .flatten()
    .collect()
}

pub fn large() -> Vec<AfterLeaky> {
    // On tensor cores more than one tile of rows, and of columns.
    both([2, 331, 36, 132, 13], EPLAE, 0.01).into_iter().chain(both([2, 67, 17, 33, 13], EPLAE, 0.01)).collect()
}

op_tests!(small: small(), large: large());

#[test]
fn shapes_that_do_not_fit_are_refused() {
    for_each_backend!(|b| {
        let t = |shape: &[usize]| b.zeros(shape).unwrap();
        let (long, short, weight) = (t(&[1, 9, 4]), t(&[1, 5, 8]), t(&[8, 4, 13]));
        for wrong in [&[1, 9, 8][..], &[2, 9, 4], &[1, 8, 4]] {
            assert!(b.conv1d_backward_leaky(&short, &weight, EPLAE, &t(wrong), 0.1).is_err(), "{wrong:?}");
        }
        let wrong = b.conv_transpose1d_backward_leaky(&long, &weight, EPLAE, &t(&[1, 4, 8]), 0.1);
        assert!(wrong.is_err());
        assert_refused(b.conv1d_backward_leaky(&short, &weight, EPLAE, &t(&[9, 4]), 0.1), "conv1d_backward_leaky");
    });
}

#[test]
fn gradients_from_both_sides_of_leaky_relu_add_up() {
    for_each_backend!(|b| {
        let (spec, slope) = (Conv1d { stride: 1, padding: 1 }, Some(0.2));
        let normal = |stream: u32, shape: &[usize]| {
            let mut rng = Stream::new(SEED, stream, 0);
            let values: Vec<f64> = (0..shape.iter().product()).map(|_| rng.normal()).collect();
            b.from_f64(&values, shape).unwrap()
        };
        // One consumer is a convolution, one is not. A tape that keeps every gradient goes through nothing at once.
        let gradients = |keep: bool| {
            let tape = Tape::training(&b, &b.new_step().unwrap(), 0);
            let mut tape = if keep { tape.keep_activation_gradients() } else { tape };
            let [x, first, second] =
                [normal(0, &[2, 9, 4]), normal(1, &[4, 4, 3]), normal(2, &[4, 4, 3])].map(|value| tape.leaf(value));
            let middle = conv1d(&mut tape, &x, &first, None, slope, spec).unwrap();
            let end = conv1d(&mut tape, &middle, &second, None, None, spec).unwrap();
            let both = concat_length(&mut tape, &[&end, &middle]).unwrap();
            let gradients = tape.backward(&both, normal(3, both.shape())).unwrap();
            [x, first, second].map(|leaf| b.to_f64(gradients.of(&leaf).unwrap()).unwrap())
        };
        for (at_once, apart) in gradients(false).iter().zip(&gradients(true)) {
            let top = apart.iter().fold(0.0, |top: f64, v| top.max(v.abs()));
            assert!(at_once.iter().zip(apart).all(|(a, b)| (a - b).abs() <= 1e-5 * top), "{at_once:?} {apart:?}");
        }
    });
}
