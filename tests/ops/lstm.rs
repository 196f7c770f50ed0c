//! Bidirectional LSTM layers.

use crate::harness::{Fill, Input, Inputs, Op, Run, assert_refused};
use epi_engine::Result;
use epi_engine::backend::{Backend, Gate, LstmWeights, Tensor};

#[derive(Debug)]
pub struct Lstm {
    batch: usize,
    time: usize,
    inputs: usize,
    hidden: usize,
    two_biases: bool,
    gate: Gate,
}

/// Names of the parameters of direction `d`.
fn names(d: usize) -> [String; 4] {
    ["weight_ih", "weight_hh", "bias_ih", "bias_hh"].map(|name| format!("{name}_{d}"))
}

/// Both directions' weights from tensors by name.
fn weights<B: Backend>(
    two_biases: bool,
    mut tensor: impl FnMut(&str) -> Result<Tensor<B>>,
) -> Result<[LstmWeights<B>; 2]> {
    let mut direction = |d| {
        let [weight_ih, weight_hh, bias_ih, bias_hh] = names(d);
        Ok(LstmWeights {
            weight_ih: tensor(&weight_ih)?,
            weight_hh: tensor(&weight_hh)?,
            bias_ih: tensor(&bias_ih)?,
            bias_hh: if two_biases { Some(tensor(&bias_hh)?) } else { None },
        })
    };
    Ok([direction(0)?, direction(1)?])
}

impl Lstm {
    /// Whether all of its functions have a derivative everywhere.
    pub fn is_smooth(&self) -> bool {
        self.gate == Gate::Sigmoid
    }
}

impl Op for Lstm {
    fn inputs(&self, fill: Fill, seed: u64) -> Vec<Input> {
        let Lstm { batch, time, inputs, hidden, .. } = *self;
        let mut list = Inputs::new(fill, seed).float("inp", &[batch, time, inputs]).per_sample();
        for d in 0..2 {
            let [weight_ih, weight_hh, bias_ih, bias_hh] = names(d);
            list = list
                .weight(&weight_ih, &[4 * hidden, inputs], inputs)
                .weight(&weight_hh, &[4 * hidden, hidden], hidden)
                .weight(&bias_ih, &[4 * hidden], 4);
            if self.two_biases {
                list = list.weight(&bias_hh, &[4 * hidden], 4);
            }
        }
        list.build()
    }
    fn run<B: Backend>(&self, run: &mut Run<B>) -> Result<()> {
        let (b, inp) = (run.b, run.input("inp")?);
        let weights_ = weights(self.two_biases, |name| run.input(name))?;
        let (out, saved) = b.lstm(&inp, &weights_, self.gate, true)?;
        let (unsaved, nothing) = b.lstm(&inp, &weights_, self.gate, false)?;
        assert!(nothing.is_none(), "saved what nobody asked for");
        run.report("unsaved", &unsaved);
        let Some(dout) = run.differentiate(&out)? else { return Ok(()) };
        let grads = weights(self.two_biases, |name| run.slot(name))?;
        let saved = saved.expect("what backward needs");
        let dinp = b.lstm_backward(&inp, &weights_, self.gate, saved, &dout, Some(&grads), true)?;
        run.report("dinp", &dinp.expect("the gradient that was asked for"));
        Ok(())
    }
}

pub fn lstm([batch, time, inputs, hidden]: [usize; 4], two_biases: bool, gate: Gate) -> Lstm {
    Lstm { batch, time, inputs, hidden, two_biases, gate }
}

pub fn small() -> Vec<Lstm> {
    vec![
        lstm([1, 1, 1, 1], true, Gate::Sigmoid),
        lstm([2, 1, 5, 4], true, Gate::Sigmoid),
        lstm([5, 3, 2, 1], false, Gate::Sigmoid),
        lstm([3, 7, 10, 12], true, Gate::Sigmoid),
        lstm([1, 13, 3, 17], false, Gate::Sigmoid),
        lstm([2, 9, 8, 6], false, Gate::HardSigmoid),
        lstm([2, 5, 7, 33], true, Gate::Sigmoid),
    ]
}

pub fn large() -> Vec<Lstm> {
    vec![
        lstm([2, 37, 40, 100], true, Gate::Sigmoid),
        lstm([5, 31, 65, 50], false, Gate::Sigmoid),
        lstm([19, 17, 16, 15], true, Gate::Sigmoid),
        lstm([1, 131, 17, 31], false, Gate::HardSigmoid),
    ]
}

op_tests!(small: small(), large: large());

#[test]
fn unwanted_gradients_are_not_computed() {
    for_each_backend!(|b| {
        let t = |shape: &[usize]| b.zeros(shape).unwrap();
        let w = || LstmWeights { weight_ih: t(&[8, 3]), weight_hh: t(&[8, 2]), bias_ih: t(&[8]), bias_hh: None };
        let (inp, w) = (t(&[1, 4, 3]), [w(), w()]);
        let (out, saved) = b.lstm(&inp, &w, Gate::Sigmoid, true).unwrap();
        let dinp = b.lstm_backward(&inp, &w, Gate::Sigmoid, saved.unwrap(), &out, None, false).unwrap();
        assert!(dinp.is_none());
    });
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    for_each_backend!(|b| {
        let t = |shape: &[usize]| b.zeros(shape).unwrap();
        let w = |inputs, hidden, bias| LstmWeights {
            weight_ih: t(&[8, inputs]),
            weight_hh: t(&[8, hidden]),
            bias_ih: t(&[bias]),
            bias_hh: None,
        };
        let lstm = |shape: &[usize], w: [LstmWeights<_>; 2]| b.lstm(&t(shape), &w, Gate::Sigmoid, true).map(|_| ());
        assert!(lstm(&[1, 4, 3], [w(3, 2, 8), w(3, 2, 8)]).is_ok());
        assert_refused(lstm(&[1, 4, 5], [w(3, 2, 8), w(3, 2, 8)]), "lstm");
        assert_refused(lstm(&[1, 4, 3], [w(3, 2, 8), w(3, 3, 8)]), "lstm");
        assert_refused(lstm(&[1, 4, 3], [w(3, 2, 8), w(3, 2, 4)]), "lstm");
        assert_refused(lstm(&[4, 3], [w(3, 2, 8), w(3, 2, 8)]), "lstm");
    });
}
