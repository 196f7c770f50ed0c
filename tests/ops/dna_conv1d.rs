//! Strided, padded convolution of one-hot DNA.

use crate::conv_transpose1d::EPLAE;
use crate::harness::{Fill, Input, Inputs, Op, Run, assert_refused};
use epi_engine::Result;
use epi_engine::backend::{Backend, Conv1d, DnaBatch};

#[derive(Debug)]
pub struct DnaConv1d {
    batch: usize,
    length: usize,
    outputs: usize,
    kernel: usize,
    spec: Conv1d,
    pub leaky: Option<f32>,
}

impl Op for DnaConv1d {
    fn inputs(&self, fill: Fill, seed: u64) -> Vec<Input> {
        Inputs::new(fill, seed)
            .dna("dna", self.batch, self.length)
            .per_sample()
            .weight("weight", &[self.outputs, 4, self.kernel], self.kernel)
            .float("bias", &[self.outputs])
            .build()
    }
    fn run<B: Backend>(&self, run: &mut Run<B>) -> Result<()> {
        let b = run.b;
        let (dna, weight, bias) = (run.dna("dna")?, run.input("weight")?, run.input("bias")?);
        let out = b.dna_conv1d(&dna, &weight, Some(&bias), self.leaky, self.spec)?;
        let Some(mut dout) = run.differentiate(&out)? else { return Ok(()) };
        if let Some(slope) = self.leaky {
            dout = b.leaky_relu_backward(&out, &dout, slope)?;
        }
        let (dweight, dbias) = (run.slot("weight")?, run.slot("bias")?);
        b.dna_conv1d_backward_weight(&dna, &dout, self.spec, Some(&dweight), Some(&dbias))
    }
}

pub fn op([batch, length, outputs, kernel]: [usize; 4], spec: Conv1d, leaky: Option<f32>) -> DnaConv1d {
    DnaConv1d { batch, length, outputs, kernel, spec, leaky }
}

pub fn small() -> Vec<DnaConv1d> {
    vec![
        op([1, 1, 1, 5], Conv1d { stride: 2, padding: 2 }, Some(0.01)),
        op([2, 8, 5, 13], EPLAE, None),
        op([5, 67, 17, 13], EPLAE, Some(0.01)),
        op([1, 64, 4, 5], Conv1d { stride: 3, padding: 1 }, None),
        op([2, 40, 2, 40], Conv1d { stride: 1, padding: 0 }, None),
    ]
}

pub fn large() -> Vec<DnaConv1d> {
    vec![
        // A single base meets one tap of each filter: too few elements for the check of planted errors to find.
        op([1, 1, 3, 13], EPLAE, Some(0.01)),
        op([2, 531, 33, 13], EPLAE, Some(0.01)),
        op([17, 131, 8, 13], EPLAE, None),
    ]
}

op_tests!(small: small(), large: large());

#[test]
fn shapes_that_do_not_fit_are_refused() {
    for_each_backend!(|b| {
        let t = |shape: &[usize]| b.zeros(shape).unwrap();
        let dna = b.upload_dna(&DnaBatch::new(2, 9)).unwrap();
        assert_refused(b.dna_conv1d(&dna, &t(&[3, 5, 13]), None, None, EPLAE), "dna_conv1d");
        assert_refused(b.dna_conv1d(&dna, &t(&[3, 4, 22]), None, None, EPLAE), "dna_conv1d");
        assert_refused(b.dna_conv1d(&dna, &t(&[3, 4, 13]), Some(&t(&[4])), None, EPLAE), "dna_conv1d");
        let refused = b.dna_conv1d_backward_weight(&dna, &t(&[2, 4, 3]), EPLAE, Some(&t(&[3, 4, 13])), None);
        assert_refused(refused, "dna_conv1d_backward_weight");
    });
}
