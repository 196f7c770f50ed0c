//! The DNA block: every mode, every kind of window, against the naive composition.

use crate::harness::run::test_dropout;
use crate::harness::{Fill, Input, Inputs, Op, Run, assert_refused};
use epi_engine::Result;
use epi_engine::backend::{Backend, DnaAffine, DnaBatch, DnaConv, DnaConvGrads};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Train,
    Evaluate,
    Bias,
}

#[derive(Debug)]
struct Block {
    batch: usize,
    length: usize,
    channels: usize,
    kernel: usize,
    pool: usize,
    mode: Mode,
    dropout: f32,
}

impl Block {
    fn spec(&self) -> DnaConv {
        DnaConv {
            channels: self.channels,
            kernel: self.kernel,
            pool: self.pool,
            train: self.mode == Mode::Train,
            eps: 1e-5,
            momentum: 0.1,
            dropout: (self.dropout > 0.0).then(|| test_dropout(self.dropout, 0)),
        }
    }
}

impl Op for Block {
    fn inputs(&self, fill: Fill, seed: u64) -> Vec<Input> {
        let channels = [self.channels];
        let inputs = Inputs::new(fill, seed).dna("dna", self.batch, self.length);
        let inputs = if self.mode == Mode::Train { inputs } else { inputs.per_sample() };
        let inputs = inputs.weight("weight", &[self.channels, 4, self.kernel], self.kernel).float("beta", &channels);
        if self.mode == Mode::Bias {
            return inputs.build();
        }
        inputs.float("gamma", &channels).float("running_mean", &channels).positive("running_var", &channels).build()
    }
    fn run<B: Backend>(&self, run: &mut Run<B>) -> Result<()> {
        let (b, spec, dna, step) = (run.b, self.spec(), run.dna("dna")?, run.step()?);
        let (weight, beta) = (run.input("weight")?, run.input("beta")?);
        let norm = match self.mode {
            Mode::Bias => None,
            _ => Some((run.input("gamma")?, run.input("running_mean")?, run.input("running_var")?)),
        };
        let affine = || match &norm {
            None => DnaAffine::Bias(&beta),
            Some((gamma, running_mean, running_var)) => {
                DnaAffine::BatchNorm { gamma, beta: &beta, running_mean, running_var }
            }
        };
        let (out, saved) = b.dna_conv(&dna, &spec, &weight, affine(), &step)?;
        if let Some((_, mean, var)) = &norm {
            run.report("running_mean", mean);
            run.report("running_var", var);
        }
        let Some(dout) = run.differentiate(&out)? else { return Ok(()) };
        let (dweight, dbeta) = (run.slot("weight")?, run.slot("beta")?);
        let dgamma = if norm.is_some() { Some(run.slot("gamma")?) } else { None };
        let grads = DnaConvGrads { dweight: Some(&dweight), dgamma: dgamma.as_ref(), dbeta: Some(&dbeta) };
        b.dna_conv_backward(&dna, &spec, &weight, affine(), &saved, &dout, grads, &step)
    }
}

fn blocks(sizes: &[[usize; 5]]) -> Vec<Block> {
    let each = |&[batch, length, channels, kernel, pool]: &[usize; 5]| {
        [(Mode::Train, 0.2), (Mode::Train, 0.0), (Mode::Evaluate, 0.0), (Mode::Bias, 0.4)]
            .map(|(mode, dropout)| Block { batch, length, channels, kernel, pool, mode, dropout })
    };
    sizes.iter().flat_map(each).collect()
}

fn small() -> Vec<Block> {
    blocks(&[
        [1, 18, 1, 13, 6],
        [2, 79, 19, 13, 6],
        [5, 31, 3, 1, 1],
        [1, 59, 5, 40, 20],
        [2, 67, 4, 64, 2],
        [3, 64, 17, 5, 7],
    ])
}

fn large() -> Vec<Block> {
    blocks(&[[2, 331, 200, 13, 6], [5, 257, 33, 13, 6], [2, 499, 100, 40, 20], [1, 128, 65, 17, 3]])
}

op_tests!(small: small(), large: large());

#[test]
fn a_batch_of_unknown_bases_is_only_the_affine_map() {
    for_each_backend!(|b| {
        let block = Block { batch: 2, length: 30, channels: 2, kernel: 13, pool: 6, mode: Mode::Bias, dropout: 0.0 };
        let dna = b.upload_dna(&DnaBatch::new(2, 30)).unwrap();
        let (weight, bias) = (b.from_f64(&[1.0; 104], &[2, 4, 13]).unwrap(), b.from_f64(&[0.5, -0.5], &[2]).unwrap());
        let step = b.new_step().unwrap();
        let (out, _) = b.dna_conv(&dna, &block.spec(), &weight, DnaAffine::Bias(&bias), &step).unwrap();
        assert_eq!(out.shape(), [2, 3, 2]);
        assert_eq!(b.to_f64(&out).unwrap(), [0.5, 0.0].repeat(6));
    });
}

#[test]
fn frozen_parameters_need_no_slots() {
    for_each_backend!(|b| {
        let block = Block { batch: 1, length: 40, channels: 3, kernel: 5, pool: 2, mode: Mode::Bias, dropout: 0.0 };
        let dna = b.upload_dna(&DnaBatch::from_codes(&[1; 40], 1, 40)).unwrap();
        let (weight, bias, step) = (b.zeros(&[3, 4, 5]).unwrap(), b.zeros(&[3]).unwrap(), b.new_step().unwrap());
        let (out, saved) = b.dna_conv(&dna, &block.spec(), &weight, DnaAffine::Bias(&bias), &step).unwrap();
        let grads = DnaConvGrads { dweight: None, dgamma: None, dbeta: None };
        let affine = DnaAffine::Bias(&bias);
        b.dna_conv_backward(&dna, &block.spec(), &weight, affine, &saved, &out, grads, &step).unwrap();
    });
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    for_each_backend!(|b| {
        let t = |shape: &[usize]| b.zeros(shape).unwrap();
        let step = b.new_step().unwrap();
        let forward = |length, kernel, pool, weight: &[usize], bias: &[usize]| {
            let block = Block { batch: 2, length, channels: 3, kernel, pool, mode: Mode::Bias, dropout: 0.0 };
            let dna = b.upload_dna(&DnaBatch::new(2, length)).unwrap();
            b.dna_conv(&dna, &block.spec(), &t(weight), DnaAffine::Bias(&t(bias)), &step).map(|_| ())
        };
        assert!(forward(18, 13, 6, &[3, 4, 13], &[3]).is_ok());
        assert_refused(forward(17, 13, 6, &[3, 4, 13], &[3]), "dna_conv");
        assert_refused(forward(12, 13, 1, &[3, 4, 13], &[3]), "dna_conv");
        assert_refused(forward(80, 65, 1, &[3, 4, 65], &[3]), "dna_conv");
        assert_refused(forward(18, 13, 0, &[3, 4, 13], &[3]), "dna_conv");
        assert_refused(forward(18, 13, 6, &[3, 13, 4], &[3]), "dna_conv");
        assert_refused(forward(18, 13, 6, &[3, 4, 13], &[4]), "dna_conv");
    });
}
