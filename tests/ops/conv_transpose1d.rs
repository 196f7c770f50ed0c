//! Transposed convolution: the adjoint of the plain one, at every length that one maps to its input.

use crate::harness::{Fill, Input, Inputs, Op, Run, assert_refused};
use epi_engine::Result;
use epi_engine::backend::{Backend, Conv1d};

#[derive(Debug)]
pub struct ConvTranspose {
    batch: usize,
    /// Positions of the output.
    length: usize,
    inputs: usize,
    outputs: usize,
    kernel: usize,
    spec: Conv1d,
    pub leaky: Option<f32>,
}

impl Op for ConvTranspose {
    fn inputs(&self, fill: Fill, seed: u64) -> Vec<Input> {
        let length = self.spec.output_length(self.length, self.kernel);
        Inputs::new(fill, seed)
            .float("inp", &[self.batch, length, self.inputs])
            .per_sample()
            .weight("weight", &[self.inputs, self.outputs, self.kernel], self.inputs * self.kernel)
            .float("bias", &[self.outputs])
            .build()
    }
    fn run<B: Backend>(&self, run: &mut Run<B>) -> Result<()> {
        let b = run.b;
        let (inp, weight, bias) = (run.input("inp")?, run.input("weight")?, run.input("bias")?);
        let out = b.conv_transpose1d(&inp, &weight, Some(&bias), self.leaky, self.spec, self.length)?;
        let Some(mut dout) = run.differentiate(&out)? else { return Ok(()) };
        if let Some(slope) = self.leaky {
            dout = b.leaky_relu_backward(&out, &dout, slope)?;
        }
        run.report("dinp", &b.conv1d(&dout, &weight, None, None, self.spec)?);
        let (dweight, dbias) = (run.slot("weight")?, run.slot("bias")?);
        b.conv1d_backward_weight(&dout, &inp, self.spec, Some(&dweight), None)?;
        b.linear_backward_weight(&dout, &dout, None, Some(&dbias))
    }
}

/// EPLAE's stride and padding.
pub const EPLAE: Conv1d = Conv1d { stride: 2, padding: 6 };

pub fn op([batch, length, inputs, outputs, kernel]: [usize; 5], spec: Conv1d, leaky: Option<f32>) -> ConvTranspose {
    ConvTranspose { batch, length, inputs, outputs, kernel, spec, leaky }
}

pub fn small() -> Vec<ConvTranspose> {
    vec![
        // One column to one base and to two; then on to 4 and 8.
        op([2, 1, 3, 4, 13], EPLAE, Some(0.01)),
        op([2, 2, 3, 4, 13], EPLAE, None),
        op([1, 4, 5, 3, 13], EPLAE, Some(0.01)),
        op([5, 8, 4, 4, 13], EPLAE, None),
        op([1, 7, 6, 2, 13], EPLAE, Some(0.2)),
        op([2, 31, 5, 33, 13], EPLAE, Some(0.01)),
        op([2, 13, 3, 2, 5], Conv1d { stride: 3, padding: 2 }, None),
        // Some outputs meet no tap: bias alone.
        op([1, 12, 2, 3, 2], Conv1d { stride: 5, padding: 1 }, Some(0.5)),
        op([1, 9, 2, 3, 4], Conv1d { stride: 1, padding: 0 }, None),
        op([1, 10, 3, 2, 7], Conv1d { stride: 4, padding: 4 }, None),
    ]
}

pub fn large() -> Vec<ConvTranspose> {
    vec![
        op([2, 67, 17, 33, 13], EPLAE, Some(0.01)),
        op([1, 1030, 9, 4, 13], EPLAE, None),
        op([2, 517, 5, 26, 13], EPLAE, Some(0.01)),
    ]
}

op_tests!(small: small(), large: large());

#[test]
fn shapes_that_do_not_fit_are_refused() {
    const OP: &str = "conv_transpose1d";
    for_each_backend!(|b| {
        let t = |shape: &[usize]| b.zeros(shape).unwrap();
        let (inp, weight) = (t(&[1, 5, 3]), t(&[3, 4, 13]));
        for length in [8, 11] {
            assert_refused(b.conv_transpose1d(&inp, &weight, None, None, EPLAE, length), OP);
        }
        assert!(b.conv_transpose1d(&inp, &weight, None, None, EPLAE, 9).is_ok());
        assert_refused(b.conv_transpose1d(&inp, &t(&[4, 3, 13]), None, None, EPLAE, 9), OP);
        assert_refused(b.conv_transpose1d(&inp, &weight, Some(&t(&[3])), None, EPLAE, 9), OP);
        assert_refused(b.conv_transpose1d(&t(&[5, 3]), &weight, None, None, EPLAE, 9), OP);
    });
}
