//! Both normalisations of the readout vector.

use crate::harness::{Fill, Input, Inputs, Op, Run, assert_refused};
use epi_engine::Result;
use epi_engine::backend::{Backend, ReadoutNorm};

#[derive(Debug)]
struct Readout {
    shape: [usize; 2],
    mode: ReadoutNorm,
}

impl Op for Readout {
    fn inputs(&self, fill: Fill, seed: u64) -> Vec<Input> {
        // All ones would have no deviation to divide by; the last element breaks the tie.
        let mut inputs = Inputs::new(fill, seed).float("inp", &self.shape);
        if self.mode == ReadoutNorm::Sample {
            inputs = inputs.per_sample();
        }
        let mut inputs = inputs.build();
        if fill == Fill::Ones {
            inputs[0].float_mut().iter_mut().step_by(3).for_each(|x| *x = 2.0);
        }
        inputs
    }
    fn run<B: Backend>(&self, run: &mut Run<B>) -> Result<()> {
        let inp = run.input("inp")?;
        let (out, saved) = run.b.readout_norm(&inp, self.mode)?;
        run.report("saved", &saved);
        let Some(dout) = run.differentiate(&out)? else { return Ok(()) };
        run.report("dinp", &run.b.readout_norm_backward(&out, &saved, &dout, self.mode)?);
        Ok(())
    }
}

fn ops(shapes: &[[usize; 2]]) -> Vec<Readout> {
    let each = |&shape| [ReadoutNorm::Sample, ReadoutNorm::Batch].map(|mode| Readout { shape, mode });
    shapes.iter().flat_map(each).collect()
}

op_tests!(small: ops(&[[1, 5], [2, 31], [5, 19], [3, 100]]), large: ops(&[[64, 100], [5, 257]]));

#[test]
fn a_constant_sample_stays_finite() {
    for_each_backend!(|b| {
        let inp = b.from_f64(&[0.0, 0.0, 0.0, 1.0, 2.0, 3.0], &[2, 3]).unwrap();
        let (out, saved) = b.readout_norm(&inp, ReadoutNorm::Sample).unwrap();
        let dinp = b.readout_norm_backward(&out, &saved, &inp, ReadoutNorm::Sample).unwrap();
        let values = [b.to_f64(&out).unwrap(), b.to_f64(&dinp).unwrap()].concat();
        assert!(values.iter().all(|v| v.is_finite()), "{}: {values:?}", b.name());
    });
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    for_each_backend!(|b| {
        let t = |shape: &[usize]| b.zeros(shape).unwrap();
        assert_refused(b.readout_norm(&t(&[4, 1]), ReadoutNorm::Sample), "readout_norm");
        assert_refused(b.readout_norm(&t(&[1, 1]), ReadoutNorm::Batch), "readout_norm");
        assert_refused(b.readout_norm(&t(&[2, 3, 4]), ReadoutNorm::Sample), "readout_norm");
        let refused = b.readout_norm_backward(&t(&[2, 3]), &t(&[1, 2]), &t(&[2, 3]), ReadoutNorm::Sample);
        assert_refused(refused, "readout_norm_backward");
    });
}
