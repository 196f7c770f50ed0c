//! Batch norm in training and evaluation mode.

use crate::harness::{Fill, Input, Inputs, Op, Run, assert_refused};
use epi_engine::Result;
use epi_engine::backend::{Backend, BatchNorm};

#[derive(Debug)]
struct Norm {
    shape: &'static [usize],
    spec: BatchNorm,
}

impl Op for Norm {
    fn inputs(&self, fill: Fill, seed: u64) -> Vec<Input> {
        let channels = *self.shape.last().unwrap();
        let inputs = Inputs::new(fill, seed).float("inp", self.shape);
        let inputs = if self.spec.train { inputs } else { inputs.per_sample() };
        inputs
            .float("gamma", &[channels])
            .float("beta", &[channels])
            .float("running_mean", &[channels])
            .positive("running_var", &[channels])
            .build()
    }
    fn run<B: Backend>(&self, run: &mut Run<B>) -> Result<()> {
        let b = run.b;
        let (inp, gamma, beta) = (run.input("inp")?, run.input("gamma")?, run.input("beta")?);
        let (mean, var) = (run.input("running_mean")?, run.input("running_var")?);
        let (out, saved) = b.batch_norm(&inp, &gamma, &beta, &mean, &var, self.spec)?;
        run.report("saved", &saved);
        run.report("running_mean", &mean);
        run.report("running_var", &var);
        let Some(dout) = run.differentiate(&out)? else { return Ok(()) };
        let (dgamma, dbeta) = (run.slot("gamma")?, run.slot("beta")?);
        let dinp = b.batch_norm_backward(&inp, &gamma, &saved, &dout, self.spec, Some(&dgamma), Some(&dbeta))?;
        run.report("dinp", &dinp);
        Ok(())
    }
}

const SHAPES: [&[usize]; 7] = [&[2, 1], &[5, 19], &[1, 17, 3], &[4, 1, 3], &[2, 31, 5], &[5, 7, 33], &[3, 2, 2, 2]];

fn norms(shapes: &[&'static [usize]]) -> Vec<Norm> {
    let modes = [(true, 1e-5, 0.1), (false, 1e-5, 0.1), (true, 1e-3, 0.01)];
    let norm = |&shape| modes.map(|(train, eps, momentum)| Norm { shape, spec: BatchNorm { train, eps, momentum } });
    shapes.iter().flat_map(norm).collect()
}

op_tests!(small: norms(&SHAPES), large: norms(&[&[5, 829, 17], &[2, 246, 200]]));

#[test]
fn a_mean_far_from_zero_does_not_eat_the_variance() {
    for_each_backend!(|b| {
        let values: Vec<f64> = (0..4096).map(|i| 1000.0 + if i % 2 == 0 { 0.25 } else { -0.25 }).collect();
        let (inp, one) = (b.from_f64(&values, &[4096, 1]).unwrap(), b.from_f64(&[1.0], &[1]).unwrap());
        let (mean, var) = (b.zeros(&[1]).unwrap(), b.zeros(&[1]).unwrap());
        let spec = BatchNorm { train: true, eps: 0.0, momentum: 1.0 };
        b.batch_norm(&inp, &one, &b.zeros(&[1]).unwrap(), &mean, &var, spec).unwrap();
        let (mean, var) = (b.to_f64(&mean).unwrap()[0], b.to_f64(&var).unwrap()[0]);
        assert_eq!(mean, 1000.0, "{}", b.name());
        assert!((var - 0.0625 * 4096.0 / 4095.0).abs() < 1e-7, "{}: {var}", b.name());
    });
}

#[test]
fn evaluation_leaves_the_running_statistics_alone() {
    for_each_backend!(|b| {
        let (inp, one) = (b.from_f64(&[1.0, 2.0], &[2, 1]).unwrap(), b.from_f64(&[1.0], &[1]).unwrap());
        let (mean, var) = (b.zeros(&[1]).unwrap(), b.from_f64(&[4.0], &[1]).unwrap());
        let spec = BatchNorm { train: false, eps: 0.0, momentum: 0.1 };
        let (out, _) = b.batch_norm(&inp, &one, &one, &mean, &var, spec).unwrap();
        assert_eq!(b.to_f64(&out).unwrap(), [1.5, 2.0]);
        assert_eq!((b.to_f64(&mean).unwrap()[0], b.to_f64(&var).unwrap()[0]), (0.0, 4.0));
    });
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    for_each_backend!(|b| {
        let t = |shape: &[usize]| b.zeros(shape).unwrap();
        let spec = BatchNorm { train: true, eps: 1e-5, momentum: 0.1 };
        let c = t(&[3]);
        assert_refused(b.batch_norm(&t(&[1, 3]), &c, &c, &t(&[3]), &t(&[3]), spec), "batch_norm");
        assert_refused(b.batch_norm(&t(&[4, 3]), &t(&[4]), &c, &t(&[3]), &t(&[3]), spec), "batch_norm");
        assert_refused(b.batch_norm(&t(&[4, 3]), &c, &c, &t(&[3]), &t(&[1]), spec), "batch_norm");
        let refused = b.batch_norm_backward(&t(&[4, 3]), &c, &t(&[2, 3]), &t(&[3, 4]), spec, None, None);
        assert_refused(refused, "batch_norm_backward");
    });
}
