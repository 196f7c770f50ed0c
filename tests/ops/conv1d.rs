//! Strided, padded convolution of channels-last activations.

use crate::harness::{Fill, Input, Inputs, Op, Run, assert_refused};
use epi_engine::Result;
use epi_engine::backend::{Backend, Conv1d};

#[derive(Debug)]
pub struct Conv {
    batch: usize,
    length: usize,
    inputs: usize,
    outputs: usize,
    kernel: usize,
    spec: Conv1d,
    bias: bool,
    /// Slope of the LeakyReLU behind it.
    pub leaky: Option<f32>,
}

impl Op for Conv {
    fn inputs(&self, fill: Fill, seed: u64) -> Vec<Input> {
        let inputs = Inputs::new(fill, seed).float("inp", &[self.batch, self.length, self.inputs]).per_sample().weight(
            "weight",
            &[self.outputs, self.inputs, self.kernel],
            self.inputs * self.kernel,
        );
        if self.bias { inputs.float("bias", &[self.outputs]).build() } else { inputs.build() }
    }
    fn run<B: Backend>(&self, run: &mut Run<B>) -> Result<()> {
        let b = run.b;
        let (inp, weight) = (run.input("inp")?, run.input("weight")?);
        let bias = if self.bias { Some(run.input("bias")?) } else { None };
        let out = b.conv1d(&inp, &weight, bias.as_ref(), self.leaky, self.spec)?;
        let Some(mut dout) = run.differentiate(&out)? else { return Ok(()) };
        if let Some(slope) = self.leaky {
            dout = b.leaky_relu_backward(&out, &dout, slope)?;
        }
        run.report("dinp", &b.conv1d_backward_input(&dout, &weight, self.spec, self.length)?);
        let dweight = run.slot("weight")?;
        let dbias = if self.bias { Some(run.slot("bias")?) } else { None };
        b.conv1d_backward_weight(&inp, &dout, self.spec, Some(&dweight), dbias.as_ref())
    }
}

pub fn conv(sizes: [usize; 5], stride: usize, padding: usize, bias: bool) -> Conv {
    let [batch, length, inputs, outputs, kernel] = sizes;
    Conv { batch, length, inputs, outputs, kernel, spec: Conv1d { stride, padding }, bias, leaky: None }
}

pub fn small() -> Vec<Conv> {
    vec![
        conv([1, 1, 1, 1, 1], 1, 0, false),
        conv([2, 1, 3, 4, 13], 2, 6, true),
        conv([1, 2, 7, 5, 13], 2, 6, true),
        conv([5, 13, 4, 3, 13], 1, 0, false),
        conv([2, 31, 5, 6, 13], 2, 6, true),
        conv([2, 9, 3, 4, 3], 1, 1, true),
        conv([1, 17, 17, 33, 5], 3, 2, true),
        conv([2, 11, 2, 2, 4], 5, 7, false),
        Conv { leaky: Some(0.01), ..conv([2, 9, 3, 10, 13], 2, 6, true) },
        Conv { leaky: Some(0.25), ..conv([1, 2, 3, 4, 13], 2, 6, false) },
    ]
}

pub fn large() -> Vec<Conv> {
    vec![
        conv([2, 67, 17, 33, 13], 2, 6, true),
        conv([1, 129, 32, 65, 13], 2, 6, true),
        conv([5, 83, 4, 19, 40], 1, 0, true),
        // More than one block of outputs a sample.
        Conv { leaky: Some(0.01), ..conv([2, 531, 9, 26, 13], 2, 6, true) },
    ]
}

op_tests!(small: small(), large: large());

#[test]
fn shapes_that_do_not_fit_are_refused() {
    for_each_backend!(|b| {
        let t = |shape: &[usize]| b.zeros(shape).unwrap();
        let spec = Conv1d { stride: 1, padding: 0 };
        assert_refused(b.conv1d(&t(&[1, 12, 4]), &t(&[2, 4, 13]), None, None, spec), "conv1d");
        assert_refused(b.conv1d(&t(&[1, 12, 4]), &t(&[2, 3, 5]), None, None, spec), "conv1d");
        assert_refused(b.conv1d(&t(&[12, 4]), &t(&[2, 4, 5]), None, None, spec), "conv1d");
        assert_refused(b.conv1d(&t(&[1, 12, 4]), &t(&[2, 4, 5]), Some(&t(&[4])), None, spec), "conv1d");
        assert_refused(
            b.conv1d(&t(&[1, 12, 4]), &t(&[2, 4, 5]), None, None, Conv1d { stride: 0, padding: 0 }),
            "conv1d",
        );
        assert_refused(b.conv1d_backward_input(&t(&[1, 9, 2]), &t(&[2, 4, 5]), spec, 12), "conv1d_backward_input");
        assert_refused(
            b.conv1d_backward_weight(&t(&[1, 12, 4]), &t(&[1, 9, 2]), spec, Some(&t(&[2, 4, 5])), None),
            "conv1d_backward_weight",
        );
    });
}
