//! Softmax and both losses on class logits.

use crate::harness::{Fill, Input, Inputs, Op, Run, assert_refused};
use epi_engine::Result;
use epi_engine::backend::{Backend, ClassLoss};

#[derive(Debug)]
struct Loss {
    batch: usize,
    classes: usize,
    kind: ClassLoss,
}

impl Op for Loss {
    fn inputs(&self, fill: Fill, seed: u64) -> Vec<Input> {
        Inputs::new(fill, seed)
            .float("logits", &[self.batch, self.classes])
            .labels("labels", self.batch, self.classes as u32)
            .positive("weights", &[self.batch])
            .build()
    }
    fn run<B: Backend>(&self, run: &mut Run<B>) -> Result<()> {
        let (b, logits) = (run.b, run.input("logits")?);
        let (labels, weights) = (run.input("labels")?, run.input("weights")?);
        let (loss, probabilities) = b.class_loss(&logits, &labels, &weights, self.kind)?;
        run.report("probabilities", &probabilities);
        run.report("softmax", &b.softmax(&logits)?);
        let Some(dloss) = run.differentiate(&loss)? else { return Ok(()) };
        run.report("dlogits", &b.class_loss_backward(&probabilities, &labels, &weights, &dloss, self.kind)?);
        Ok(())
    }
}

const KINDS: [ClassLoss; 2] = [ClassLoss::CrossEntropy, ClassLoss::ExchangedCrossEntropy];

fn ops(sizes: &[(usize, usize)]) -> Vec<Loss> {
    sizes.iter().flat_map(|&(batch, classes)| KINDS.map(|kind| Loss { batch, classes, kind })).collect()
}

op_tests!(small: ops(&[(1, 2), (2, 2), (5, 2), (7, 3)]), large: ops(&[(64, 2), (257, 2)]));

#[test]
fn extreme_logits_stay_finite() {
    for_each_backend!(|b| {
        let logits = b.from_f64(&[100.0, -100.0, -100.0, 100.0, 1e4, 1e4], &[3, 2]).unwrap();
        let (labels, weights) = (b.zeros(&[3]).unwrap(), b.from_f64(&[1.0; 3], &[3]).unwrap());
        let (loss, probabilities) = b.class_loss(&logits, &labels, &weights, ClassLoss::CrossEntropy).unwrap();
        let expected = (0.0 + 200.0 + 2f64.ln()) / 3.0;
        assert!((b.to_f64(&loss).unwrap()[0] - expected).abs() < 1e-4, "{}", b.name());
        assert_eq!(b.to_f64(&probabilities).unwrap()[4..], [0.5, 0.5]);
    });
}

#[test]
fn the_exchanged_loss_is_a_constant_less_the_probability() {
    for_each_backend!(|b| {
        let logits = b.from_f64(&[0.3, -0.4], &[1, 2]).unwrap();
        let (label, weight) = (b.from_f64(&[1.0], &[1]).unwrap(), b.from_f64(&[1.0], &[1]).unwrap());
        let (loss, probabilities) = b.class_loss(&logits, &label, &weight, ClassLoss::ExchangedCrossEntropy).unwrap();
        let (loss, p) = (b.to_f64(&loss).unwrap()[0], b.to_f64(&probabilities).unwrap()[1]);
        assert!((loss - (1.313_261_7 - p)).abs() < 1e-6, "{}: {loss}", b.name());
    });
}

#[test]
fn a_weight_of_two_counts_as_two_samples() {
    for_each_backend!(|b| {
        let loss = |logits: &[f64], labels: &[f64], weights: &[f64]| {
            let n = labels.len();
            let logits = b.from_f64(logits, &[n, 2]).unwrap();
            let (labels, weights) = (b.from_f64(labels, &[n]).unwrap(), b.from_f64(weights, &[n]).unwrap());
            b.to_f64(&b.class_loss(&logits, &labels, &weights, ClassLoss::CrossEntropy).unwrap().0).unwrap()[0]
        };
        let weighted = loss(&[0.1, 0.7, -0.3, 2.0], &[0.0, 1.0], &[2.0, 1.0]);
        let repeated = loss(&[0.1, 0.7, 0.1, 0.7, -0.3, 2.0], &[0.0, 0.0, 1.0], &[1.0; 3]);
        assert!((weighted - repeated).abs() < 1e-6, "{}: {weighted} {repeated}", b.name());
    });
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    for_each_backend!(|b| {
        let t = |shape: &[usize]| b.zeros(shape).unwrap();
        for kind in KINDS {
            assert_refused(b.class_loss(&t(&[3, 2]), &t(&[2]), &t(&[3]), kind), "class_loss");
            assert_refused(b.class_loss(&t(&[3, 2]), &t(&[3]), &t(&[3, 1]), kind), "class_loss");
            assert_refused(b.class_loss(&t(&[6]), &t(&[3]), &t(&[3]), kind), "class_loss");
            let refused = b.class_loss_backward(&t(&[3, 2]), &t(&[3]), &t(&[3]), &t(&[3]), kind);
            assert_refused(refused, "class_loss_backward");
        }
    });
}
