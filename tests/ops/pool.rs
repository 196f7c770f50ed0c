//! Max pooling over positions.

use crate::harness::{Fill, Input, Inputs, Op, Run, assert_refused};
use epi_engine::Result;
use epi_engine::backend::Backend;

#[derive(Debug)]
struct MaxPool {
    shape: [usize; 3],
    size: usize,
}

impl Op for MaxPool {
    fn inputs(&self, fill: Fill, seed: u64) -> Vec<Input> {
        Inputs::new(fill, seed).float("inp", &self.shape).per_sample().build()
    }
    fn run<B: Backend>(&self, run: &mut Run<B>) -> Result<()> {
        let inp = run.input("inp")?;
        let (out, saved) = run.b.max_pool(&inp, self.size)?;
        let Some(dout) = run.differentiate(&out)? else { return Ok(()) };
        run.report("dinp", &run.b.max_pool_backward(&dout, &saved, self.size, self.shape[1])?);
        Ok(())
    }
}

fn small() -> Vec<MaxPool> {
    [([1, 1, 1], 1), ([2, 40, 3], 6), ([1, 6, 17], 6), ([5, 59, 2], 20), ([2, 31, 33], 2)]
        .map(|(shape, size)| MaxPool { shape, size })
        .into()
}

op_tests!(small: small(), large: vec![MaxPool { shape: [2, 829, 100], size: 6 }]);

#[test]
fn the_first_maximum_wins() {
    for_each_backend!(|b| {
        let inp = b.from_f64(&[1.0, 3.0, 3.0, -2.0, -2.0, -2.0, 9.0], &[1, 7, 1]).unwrap();
        let (out, saved) = b.max_pool(&inp, 3).unwrap();
        assert_eq!(b.to_f64(&out).unwrap(), [3.0, -2.0]);
        let dout = b.from_f64(&[5.0, 7.0], &[1, 2, 1]).unwrap();
        let dinp = b.max_pool_backward(&dout, &saved, 3, 7).unwrap();
        assert_eq!(b.to_f64(&dinp).unwrap(), [0.0, 5.0, 0.0, 7.0, 0.0, 0.0, 0.0]);
    });
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    for_each_backend!(|b| {
        let t = |shape: &[usize]| b.zeros(shape).unwrap();
        assert_refused(b.max_pool(&t(&[1, 5, 2]), 6), "max_pool");
        assert_refused(b.max_pool(&t(&[1, 5, 2]), 0), "max_pool");
        assert_refused(b.max_pool(&t(&[5, 2]), 2), "max_pool");
        let (_, saved) = b.max_pool(&t(&[1, 6, 2]), 2).unwrap();
        assert_refused(b.max_pool_backward(&t(&[1, 2, 2]), &saved, 2, 6), "max_pool_backward");
    });
}
