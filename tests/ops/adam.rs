//! Gradient norm, L2 terms, clipping and Adam on the flat buffers.

use crate::harness::{Fill, Input, Inputs, Op, Run, assert_refused};
use epi_engine::Result;
use epi_engine::backend::{Adam, Backend, Range};

#[derive(Debug)]
struct Step {
    n: usize,
    clip: Option<f32>,
}

const ADAM: Adam = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, clip: None };

/// Plain, regularised and frozen thirds, with a gap before each.
fn ranges(n: usize) -> Vec<Range> {
    let third = n / 3;
    let range = |k: usize, l2, frozen| Range { offset: k * third + 1, len: third.saturating_sub(1), l2, frozen };
    vec![range(0, 0.0, false), range(1, 0.05, false), range(2, 0.0, true)]
}

impl Op for Step {
    fn inputs(&self, fill: Fill, seed: u64) -> Vec<Input> {
        let n = [self.n];
        Inputs::new(fill, seed).float("params", &n).float("grads", &n).float("m", &n).positive("v", &n).build()
    }
    fn run<B: Backend>(&self, run: &mut Run<B>) -> Result<()> {
        let (b, step, ranges) = (run.b, run.step()?, ranges(self.n));
        let [params, grads, m, v] = ["params", "grads", "m", "v"].map(|name| run.input(name));
        let (params, grads, m, v) = (params?, grads?, m?, v?);
        run.report("l2", &b.l2_penalty(&params, &ranges)?);
        let norm = b.finish_gradients(&params, &grads, &ranges)?;
        b.adam(&params, &grads, &m, &v, &norm, &ranges, &Adam { clip: self.clip, ..ADAM }, &step)?;
        for (name, tensor) in [("norm", norm), ("params", params), ("gradients", grads), ("m", m), ("v", v)] {
            run.report(name, &tensor);
        }
        Ok(())
    }
}

fn steps(sizes: &[usize]) -> Vec<Step> {
    sizes.iter().flat_map(|&n| [None, Some(1.0), Some(1e6)].map(|clip| Step { n, clip })).collect()
}

property_tests!(steps(&[1, 3, 17, 97, 4099, 70_001]));

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    for_each_backend!(|b| {
        for broken in [f64::NAN, f64::INFINITY] {
            let ranges = [Range { offset: 0, len: 3, l2: 0.0, frozen: false }];
            let params = b.from_f64(&[1.0, 2.0, 3.0], &[3]).unwrap();
            let grads = b.from_f64(&[0.1, broken, 0.1], &[3]).unwrap();
            let (m, v) = (b.from_f64(&[0.5; 3], &[3]).unwrap(), b.from_f64(&[0.25; 3], &[3]).unwrap());
            let step = b.new_step().unwrap();
            b.write_step(&step, &crate::harness::run::test_step()).unwrap();
            let norm = b.finish_gradients(&params, &grads, &ranges).unwrap();
            assert!(!b.to_f64(&norm).unwrap()[0].is_finite(), "{}", b.name());
            b.adam(&params, &grads, &m, &v, &norm, &ranges, &ADAM, &step).unwrap();
            assert_eq!(b.to_f64(&params).unwrap(), [1.0, 2.0, 3.0], "{}", b.name());
            assert_eq!((b.to_f64(&m).unwrap()[0], b.to_f64(&v).unwrap()[0]), (0.5, 0.25), "{}", b.name());
        }
    });
}

#[test]
fn frozen_ranges_and_gaps_do_not_move() {
    for_each_backend!(|b| {
        let ranges =
            [Range { offset: 0, len: 1, l2: 0.0, frozen: true }, Range { offset: 2, len: 1, l2: 0.0, frozen: false }];
        let t = |x: [f64; 3]| b.from_f64(&x, &[3]).unwrap();
        let (params, grads, m, v) = (t([1.0; 3]), t([3.0, 5.0, -4.0]), t([0.0; 3]), t([0.0; 3]));
        let step = b.new_step().unwrap();
        b.write_step(&step, &crate::harness::run::test_step()).unwrap();
        let norm = b.finish_gradients(&params, &grads, &ranges).unwrap();
        assert_eq!(b.to_f64(&norm).unwrap(), [4.0], "{}", b.name());
        b.adam(&params, &grads, &m, &v, &norm, &ranges, &ADAM, &step).unwrap();
        let params = b.to_f64(&params).unwrap();
        assert_eq!(params[..2], [1.0, 1.0], "{}", b.name());
        assert!(params[2] > 1.0, "{}", b.name());
    });
}

#[test]
fn the_penalty_counts_frozen_ranges_and_no_gaps() {
    for_each_backend!(|b| {
        let params = b.from_f64(&[1.0, 2.0, 3.0, 4.0, 5.0], &[5]).unwrap();
        let range = |offset, len, l2, frozen| Range { offset, len, l2, frozen };
        let ranges = [range(0, 1, 0.5, false), range(1, 1, 0.0, false), range(3, 2, 0.25, true)];
        assert_eq!(b.to_f64(&b.l2_penalty(&params, &ranges).unwrap()).unwrap(), [0.5 + 0.25 * 41.0], "{}", b.name());
        assert_eq!(b.to_f64(&b.l2_penalty(&params, &[]).unwrap()).unwrap(), [0.0], "{}", b.name());
    });
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    for_each_backend!(|b| {
        let t = |n: usize| b.zeros(&[n]).unwrap();
        let (step, range) = (b.new_step().unwrap(), [Range { offset: 2, len: 3, l2: 0.0, frozen: false }]);
        assert_refused(b.finish_gradients(&t(5), &t(4), &range), "finish_gradients");
        assert_refused(b.finish_gradients(&t(4), &t(4), &range), "finish_gradients");
        assert_refused(b.l2_penalty(&t(4), &range), "l2_penalty");
        assert_refused(b.adam(&t(5), &t(5), &t(4), &t(5), &t(1), &range, &ADAM, &step), "adam");
        assert_refused(b.adam(&t(5), &t(5), &t(5), &t(5), &t(2), &range, &ADAM, &step), "adam");
    });
}
