//! ReLU, dropout and changes of layout.

use crate::harness::run::{test_dropout, test_step};
use crate::harness::{Fill, Input, Inputs, Op, Run, assert_refused};
use epi_engine::Result;
use epi_engine::backend::Backend;

/// The shape is `[B,L,C]`.
#[derive(Debug)]
enum Elementwise {
    Relu([usize; 3]),
    LeakyRelu([usize; 3], f32),
    Dropout([usize; 3], f32),
    /// Split at a position and joined again in the other order.
    Rotate([usize; 3], usize),
    SwapLeading([usize; 3]),
    SwapTrailing([usize; 3]),
    PositionSum([usize; 3]),
}
use Elementwise::*;

impl Elementwise {
    fn shape(&self) -> [usize; 3] {
        match *self {
            Relu(shape) | LeakyRelu(shape, _) | Dropout(shape, _) | Rotate(shape, _) => shape,
            SwapLeading(shape) | SwapTrailing(shape) | PositionSum(shape) => shape,
        }
    }
}

impl Op for Elementwise {
    fn inputs(&self, fill: Fill, seed: u64) -> Vec<Input> {
        let inputs = Inputs::new(fill, seed).float("inp", &self.shape());
        if matches!(self, SwapLeading(_)) { inputs.build() } else { inputs.per_sample().build() }
    }
    fn run<B: Backend>(&self, run: &mut Run<B>) -> Result<()> {
        let (b, inp, step) = (run.b, run.input("inp")?, run.step()?);
        let [_, length, _] = self.shape();
        let rotate = |inp: &_, at| {
            let (head, tail) = (b.slice_length(inp, 0, at)?, b.slice_length(inp, at, length - at)?);
            b.concat_length(&[&tail, &head])
        };
        let out = match self {
            Relu(_) => b.relu(&inp)?,
            LeakyRelu(_, slope) => b.leaky_relu(&inp, *slope)?,
            Dropout(_, p) => b.dropout(&inp, &test_dropout(*p, 3), &step)?,
            Rotate(_, at) => rotate(&inp, *at)?,
            SwapLeading(_) => b.swap_leading(&inp)?,
            SwapTrailing(_) => b.swap_trailing(&inp)?,
            PositionSum(_) => b.position_sum(&inp)?,
        };
        let Some(dout) = run.differentiate(&out)? else { return Ok(()) };
        let dinp = match self {
            Relu(_) => b.relu_backward(&out, &dout)?,
            LeakyRelu(_, slope) => b.leaky_relu_backward(&out, &dout, *slope)?,
            Dropout(_, p) => b.dropout(&dout, &test_dropout(*p, 3), &step)?,
            Rotate(_, at) => rotate(&dout, length - at)?,
            SwapLeading(_) => b.swap_leading(&dout)?,
            SwapTrailing(_) => b.swap_trailing(&dout)?,
            PositionSum(_) => b.position_sum_backward(&dout, length)?,
        };
        run.report("dinp", &dinp);
        Ok(())
    }
}

fn ops(shapes: &[[usize; 3]]) -> Vec<Elementwise> {
    let each = |&shape: &[usize; 3]| {
        [
            Relu(shape),
            LeakyRelu(shape, 0.01),
            Dropout(shape, 0.2),
            Dropout(shape, 0.5),
            Rotate(shape, shape[1] / 3),
            SwapLeading(shape),
            SwapTrailing(shape),
            PositionSum(shape),
        ]
    };
    shapes.iter().flat_map(each).collect()
}

op_tests!(
    small: ops(&[[1, 1, 1], [2, 7, 3], [5, 31, 17], [1, 5, 65]]),
    large: ops(&[[2, 829, 17], [5, 131, 64]])
);

#[test]
fn dropout_masks_are_those_of_the_contract() {
    for_each_backend!(|b| {
        for p in [0.0, 1.0 / 65536.0, 0.2, 0.4, 0.9] {
            let (n, dropout, state) = (4099, test_dropout(p, 17), test_step());
            let step = b.new_step().unwrap();
            b.write_step(&step, &state).unwrap();
            let out = b.dropout(&b.from_f64(&vec![3.0; n], &[n]).unwrap(), &dropout, &step).unwrap();
            for (e, y) in b.to_f32(&out).unwrap().into_iter().enumerate() {
                let kept = dropout.keeps(state.philox_step, e as u64);
                assert_eq!(y, if kept { 3.0 * dropout.scale() } else { 0.0 }, "{}: p {p}, element {e}", b.name());
            }
        }
    });
}

#[test]
fn memory_is_shared_by_views_and_slots_are_updated_in_place() {
    for_each_backend!(|b| {
        let all = b.from_f64(&[1.0, 2.0, 3.0, 4.0, 5.0], &[5]).unwrap();
        let (left, right) = (all.view(0, &[2]).unwrap(), all.view(3, &[2]).unwrap());
        b.add_assign(&left, &right).unwrap();
        assert_eq!(b.to_f64(&all).unwrap(), [5.0, 7.0, 3.0, 4.0, 5.0]);
        b.copy(&right, &left).unwrap();
        b.fill_zero(&left).unwrap();
        assert_eq!(b.to_f32(&all).unwrap(), [0.0, 0.0, 3.0, 5.0, 7.0]);
        assert_refused(b.copy(&left, &all), "copy");
        assert_refused(b.add_assign(&left, &all), "add_assign");
    });
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    for_each_backend!(|b| {
        let t = |shape: &[usize]| b.zeros(shape).unwrap();
        assert_refused(b.relu_backward(&t(&[2, 3]), &t(&[3, 2])), "relu_backward");
        assert_refused(b.concat_length(&[]), "concat_length");
        assert_refused(b.concat_length(&[&t(&[2, 3, 4]), &t(&[2, 3, 5])]), "concat_length");
        assert_refused(b.concat_length(&[&t(&[2, 3, 4]), &t(&[1, 3, 4])]), "concat_length");
        assert_refused(b.slice_length(&t(&[2, 3, 4]), 2, 2), "slice_length");
        assert_refused(b.leaky_relu_backward(&t(&[2, 3]), &t(&[3, 2]), 0.5), "leaky_relu_backward");
        assert_refused(b.swap_trailing(&t(&[2, 3])), "swap_trailing");
        assert_refused(b.swap_leading(&t(&[2, 3])), "swap_leading");
        assert_refused(b.position_sum(&t(&[2, 3])), "position_sum");
        assert_refused(b.position_sum_backward(&t(&[2, 3, 4]), 5), "position_sum_backward");
    });
}
