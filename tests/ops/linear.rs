//! Linear maps, with and without bias and ReLU.

use crate::harness::{Fill, Input, Inputs, Op, Run, assert_refused};
use epi_engine::Result;
use epi_engine::backend::Backend;

#[derive(Debug)]
pub struct Linear {
    pub rows: &'static [usize],
    pub inputs: usize,
    pub outputs: usize,
    pub bias: bool,
    pub relu: bool,
}

impl Op for Linear {
    fn inputs(&self, fill: Fill, seed: u64) -> Vec<Input> {
        let inputs = Inputs::new(fill, seed).float("inp", &[self.rows, &[self.inputs]].concat()).per_sample().weight(
            "weight",
            &[self.outputs, self.inputs],
            self.inputs,
        );
        if self.bias { inputs.float("bias", &[self.outputs]).build() } else { inputs.build() }
    }
    fn run<B: Backend>(&self, run: &mut Run<B>) -> Result<()> {
        let b = run.b;
        let (inp, weight) = (run.input("inp")?, run.input("weight")?);
        let bias = if self.bias { Some(run.input("bias")?) } else { None };
        let out = b.linear(&inp, &weight, bias.as_ref(), self.relu)?;
        let Some(mut dout) = run.differentiate(&out)? else { return Ok(()) };
        if self.relu {
            dout = b.relu_backward(&out, &dout)?;
        }
        run.report("dinp", &b.linear_backward_input(&dout, &weight)?);
        let dweight = run.slot("weight")?;
        let dbias = if self.bias { Some(run.slot("bias")?) } else { None };
        b.linear_backward_weight(&inp, &dout, Some(&dweight), dbias.as_ref())
    }
}

pub fn small() -> Vec<Linear> {
    let mut list = Vec::new();
    for (rows, inputs, outputs) in
        [(&[1][..], 1, 1), (&[1], 17, 5), (&[5], 33, 19), (&[2, 7], 8, 1), (&[2, 3], 31, 65), (&[5, 1], 2, 16)]
    {
        for (bias, relu) in [(true, false), (false, true)] {
            list.push(Linear { rows, inputs, outputs, bias, relu });
        }
    }
    list
}

pub fn large() -> Vec<Linear> {
    // The last two have weights that are too large to pack.
    [(&[2, 131][..], 200, 400), (&[829], 256, 100), (&[5, 29], 127, 129), (&[3], 20_000, 53), (&[5], 97, 11_000)]
        .map(|(rows, inputs, outputs)| Linear { rows, inputs, outputs, bias: true, relu: true })
        .into()
}

op_tests!(small: small(), large: large());

#[test]
fn shapes_that_do_not_fit_are_refused() {
    for_each_backend!(|b| {
        let t = |shape: &[usize]| b.zeros(shape).unwrap();
        assert_refused(b.linear(&t(&[2, 3]), &t(&[4, 5]), None, false), "linear");
        assert_refused(b.linear(&t(&[2, 3]), &t(&[4, 3]), Some(&t(&[3])), false), "linear");
        assert_refused(b.linear(&t(&[2, 3]), &t(&[4, 3, 1]), None, false), "linear");
        assert_refused(b.linear_backward_input(&t(&[2, 3]), &t(&[4, 3])), "linear_backward_input");
        let (inp, dout) = (t(&[2, 3]), t(&[2, 4]));
        assert_refused(b.linear_backward_weight(&inp, &dout, Some(&t(&[3, 4])), None), "linear_backward_weight");
        assert_refused(b.linear_backward_weight(&inp, &t(&[3, 4]), None, None), "linear_backward_weight");
    });
}
