//! Multi-head attention over projected queries, keys and values.

use crate::harness::compare::largest;
use crate::harness::run::{cotangent, test_dropout, test_step};
use crate::harness::{Fill, Input, Inputs, Op, Run, SEED, assert_refused};
use epi_engine::Result;
use epi_engine::backend::{Attention, Backend};

#[derive(Debug)]
pub struct Heads {
    batch: usize,
    time: usize,
    heads: usize,
    head_size: usize,
    relu: bool,
    dropout: f32,
}

impl Heads {
    pub fn spec(&self) -> Attention {
        let dropout = (self.dropout > 0.0).then(|| test_dropout(self.dropout, 5));
        Attention { heads: self.heads, head_size: self.head_size, relu: self.relu, dropout }
    }
}

impl Op for Heads {
    fn inputs(&self, fill: Fill, seed: u64) -> Vec<Input> {
        Inputs::new(fill, seed)
            .float("qkv", &[self.batch, self.time, 3 * self.heads * self.head_size])
            .per_sample()
            .build()
    }
    fn run<B: Backend>(&self, run: &mut Run<B>) -> Result<()> {
        let (b, qkv, step, spec) = (run.b, run.input("qkv")?, run.step()?, self.spec());
        let (out, lse) = b.attention(&qkv, &spec, &step)?;
        run.report("lse", &lse);
        let Some(dout) = run.differentiate(&out)? else { return Ok(()) };
        run.report("dqkv", &b.attention_backward(qkv.clone(), &out, &lse, &dout, &spec, &step)?);
        Ok(())
    }
}

pub fn attention([batch, time, heads, head_size]: [usize; 4], relu: bool, dropout: f32) -> Heads {
    Heads { batch, time, heads, head_size, relu, dropout }
}

/// Two precisions of one backend. Rounding moves outputs across zero, so both get the same outputs to cut by.
pub fn check_cuts<B: Backend>(f32: &B, bf16: &B) {
    let heads = attention([1, 65, 2, 32], true, 0.2);
    let inputs = heads.inputs(Fill::Randn, SEED);
    let (qkv, step) = (f32.from_f64(inputs[0].float(), &inputs[0].shape).unwrap(), f32.new_step().unwrap());
    f32.write_step(&step, &test_step()).unwrap();
    let (out, lse) = f32.attention(&qkv, &heads.spec(), &step).unwrap();
    let dout = f32.from_f64(&cotangent(out.len()), out.shape()).unwrap();
    let [exact, rough] = [f32, bf16].map(|b| {
        b.to_f64(&b.attention_backward(qkv.clone(), &out, &lse, &dout, &heads.spec(), &step).unwrap()).unwrap()
    });
    let limit = 0.03 * largest(&exact);
    for (n, (x, y)) in rough.iter().zip(&exact).enumerate() {
        assert!((x - y).abs() <= limit, "dqkv[{n}] = {x} on {} in bf16, {y} in f32", bf16.name());
    }
}

pub fn small() -> Vec<Heads> {
    vec![
        attention([1, 1, 1, 1], false, 0.0),
        attention([2, 1, 3, 5], true, 0.2),
        attention([2, 17, 2, 8], true, 0.0),
        attention([5, 7, 3, 7], false, 0.4),
        attention([1, 31, 1, 33], true, 0.2),
        attention([2, 5, 2, 64], false, 0.2),
    ]
}

pub fn large() -> Vec<Heads> {
    vec![
        attention([1, 63, 2, 32], true, 0.2),
        attention([2, 64, 1, 32], false, 0.2),
        attention([1, 65, 8, 32], true, 0.2),
        attention([1, 129, 2, 17], true, 0.0),
        attention([2, 131, 1, 64], true, 0.5),
    ]
}

op_tests!(small: small(), large: large());

#[test]
fn large_scores_stay_finite() {
    for_each_backend!(|b| {
        let values: Vec<f64> = (0..3 * 12).map(|i| if i % 3 == 0 { 60.0 } else { -60.0 }).collect();
        let (spec, step) = (attention([1, 3, 1, 4], false, 0.0).spec(), b.new_step().unwrap());
        let qkv = b.from_f64(&values, &[1, 3, 12]).unwrap();
        let (out, lse) = b.attention(&qkv, &spec, &step).unwrap();
        let dqkv = b.attention_backward(qkv.clone(), &out, &lse, &out, &spec, &step).unwrap();
        for t in [out, lse, dqkv] {
            assert!(b.to_f64(&t).unwrap().iter().all(|v| v.is_finite()), "{}", b.name());
        }
    });
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    for_each_backend!(|b| {
        let t = |shape: &[usize]| b.zeros(shape).unwrap();
        let step = b.new_step().unwrap();
        let spec = |heads, head_size| attention([1, 1, heads, head_size], false, 0.0).spec();
        assert_refused(b.attention(&t(&[1, 4, 12]), &spec(2, 3), &step), "attention");
        assert_refused(b.attention(&t(&[4, 18]), &spec(2, 3), &step), "attention");
        assert_refused(b.attention(&t(&[1, 4, 3 * 65]), &spec(1, 65), &step), "attention");
        let (qkv, out) = (t(&[1, 4, 18]), t(&[1, 4, 6]));
        let backward = |lse, dout| b.attention_backward(qkv.clone(), &out, &t(lse), &t(dout), &spec(2, 3), &step);
        assert_refused(backward(&[1, 4, 2], &[1, 4, 6]), "attention_backward");
        assert_refused(backward(&[1, 2, 4], &[1, 6, 4]), "attention_backward");
    });
}

/// Copies `[batch,rows]` of one sample of `time` positions, changed from position `from` on.
#[derive(Debug)]
pub struct Copies {
    heads: Heads,
    rows: usize,
    from: usize,
}

impl Op for Copies {
    fn inputs(&self, fill: Fill, seed: u64) -> Vec<Input> {
        let width = 3 * self.heads.heads * self.heads.head_size;
        Inputs::new(fill, seed)
            .float("kept", &[self.heads.time, width])
            .float("changed", &[self.heads.batch, self.rows, width])
            .build()
    }
    fn run<B: Backend>(&self, run: &mut Run<B>) -> Result<()> {
        let (kept, changed) = (run.input("kept")?, run.input("changed")?);
        let out = run.b.attention_of_copies(&kept, &changed, self.from, &self.heads.spec())?;
        run.report("out", &out);
        Ok(())
    }
}

pub fn copies() -> Vec<Copies> {
    let shapes = [
        ([1, 1, 1, 1], 1, 0),
        ([3, 17, 2, 8], 4, 0),
        ([2, 17, 3, 7], 5, 12),
        ([2, 31, 1, 33], 9, 11),
        ([4, 5, 2, 64], 5, 0),
        ([2, 131, 2, 32], 70, 33),
        ([3, 65, 8, 32], 1, 64),
    ];
    shapes.map(|(shape, rows, from)| Copies { heads: attention(shape, from % 2 == 0, 0.0), rows, from }).into()
}

mod of_copies {
    use super::copies;

    property_tests!(copies());
}
