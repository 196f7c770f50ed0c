//! Softmax and the losses on class logits, and what joins loss terms.

use crate::harness::{Fill, Input, Inputs, Op, Run, assert_refused};
use epi_engine::Result;
use epi_engine::autograd::ops::weighted_sum;
use epi_engine::autograd::{Tape, Var};
use epi_engine::backend::{Backend, ClassLoss};

#[derive(Clone, Debug)]
struct Loss {
    batch: usize,
    classes: usize,
    kind: ClassLoss,
}

impl Op for Loss {
    fn inputs(&self, fill: Fill, seed: u64) -> Vec<Input> {
        Inputs::new(fill, seed)
            .float("logits", &[self.batch, self.classes])
            .labels("labels", self.batch, self.classes.max(2) as u32)
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
    let of = |&(batch, classes)| match classes {
        1 => vec![Loss { batch, classes, kind: ClassLoss::BinaryCrossEntropy }],
        _ => KINDS.map(|kind| Loss { batch, classes, kind }).to_vec(),
    };
    sizes.iter().flat_map(of).collect()
}

op_tests!(small: ops(&[(1, 2), (2, 2), (5, 2), (7, 3), (1, 1), (5, 1)]), large: ops(&[(64, 2), (257, 2), (257, 1)]));

/// Three terms with their factors, and the gradient of the second.
#[derive(Debug)]
struct WeightedSum(usize);

const FACTORS: [f32; 3] = [1.0, -0.75, 1e-3];

impl Op for WeightedSum {
    fn inputs(&self, fill: Fill, seed: u64) -> Vec<Input> {
        let n = [self.0];
        Inputs::new(fill, seed).float("a", &n).float("b", &n).float("c", &n).build()
    }
    fn run<B: Backend>(&self, run: &mut Run<B>) -> Result<()> {
        let (b, terms) = (run.b, [run.input("a")?, run.input("b")?, run.input("c")?]);
        let out = b.weighted_sum(&terms.each_ref(), &FACTORS)?;
        let Some(dout) = run.differentiate(&out)? else { return Ok(()) };
        for (name, factor) in ["da", "db", "dc"].into_iter().zip(FACTORS) {
            run.report(name, &b.weighted_sum(&[&dout], &[factor])?);
        }
        Ok(())
    }
}

mod weighted_sum {
    use super::WeightedSum;
    op_tests!(small: vec![WeightedSum(1), WeightedSum(7)], large: vec![WeightedSum(70_001)]);
}

#[test]
fn a_constant_term_adds_its_value_and_no_gradient() {
    for_each_backend!(|b| {
        let one = |x: f64| b.from_f64(&[x], &[1]).unwrap();
        let mut tape = Tape::evaluation_with_gradients(&b, &b.new_step().unwrap());
        let (x, constant) = (tape.leaf(one(3.0)), Var::constant(one(5.0)));
        let loss = weighted_sum(&mut tape, &[&x, &constant, &x], &[2.0, 1.0, -0.5]).unwrap();
        assert_eq!(b.to_f64(loss.value()).unwrap(), [9.5], "{}", b.name());
        let gradients = tape.backward(&loss, one(1.0)).unwrap();
        assert_eq!(b.to_f64(gradients.of(&x).unwrap()).unwrap(), [1.5], "{}", b.name());
    });
}

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
fn binary_cross_entropy_is_finite_and_exact_at_extreme_logits() {
    for_each_backend!(|b| {
        let t = |x: &[f64]| b.from_f64(x, &[x.len()]).unwrap();
        let logits = b.from_f64(&[80.0, -80.0, 80.0, -80.0, 0.0, 1e4], &[6, 1]).unwrap();
        let (labels, weights) = (t(&[1.0, 1.0, 0.0, 0.0, 1.0, 0.0]), t(&[1.0; 6]));
        let (loss, probabilities) = b.class_loss(&logits, &labels, &weights, ClassLoss::BinaryCrossEntropy).unwrap();
        let expected = (160.0 + 2f64.ln() + 1e4) / 6.0;
        assert!((b.to_f64(&loss).unwrap()[0] - expected).abs() < 1e-6 * expected, "{}", b.name());
        let kind = ClassLoss::BinaryCrossEntropy;
        let dlogits = b.class_loss_backward(&probabilities, &labels, &weights, &t(&[6.0]), kind).unwrap();
        let [right, wrong] = [-(-80f64).exp(), -1.0];
        let slopes = b.to_f64(&dlogits).unwrap();
        for (got, expected) in slopes.iter().zip([right, wrong, -wrong, -right, -0.5, 1.0]) {
            assert!((got - expected).abs() <= 1e-5 * expected.abs(), "{}: {got:e}, expected {expected:e}", b.name());
        }
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
        let binary = ClassLoss::BinaryCrossEntropy;
        assert_refused(b.class_loss(&t(&[3, 2]), &t(&[3]), &t(&[3]), binary), "class_loss");
        assert_refused(b.class_loss_backward(&t(&[3, 1]), &t(&[3]), &t(&[3]), &t(&[1]), binary), "class_loss_backward");
        assert_refused(b.weighted_sum(&[], &[]), "weighted_sum");
        assert_refused(b.weighted_sum(&[&t(&[1])], &[1.0, 2.0]), "weighted_sum");
        assert_refused(b.weighted_sum(&[&t(&[1]), &t(&[2])], &[1.0, 2.0]), "weighted_sum");
    });
}
