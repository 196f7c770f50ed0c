//! Layer fixtures. They are channels-first; our activations are channels-last.

use super::fixture::Case;
use super::{Array, Fixture, Judge, for_each_golden_backend};
use crate::harness::compare::largest;
use crate::harness::note;
use epi_engine::Result;
use epi_engine::backend::{
    Adam, Attention, Backend, BatchNorm, ClassLoss, Conv1d, DnaAffine, DnaBatch, DnaConv, Gate, LstmWeights, Range,
    ReadoutNorm, StepState, Tensor,
};
use std::collections::BTreeSet;

/// Uploads an array.
fn up<B: Backend>(b: &B, array: &Array) -> Result<Tensor<B>> {
    b.from_f64(&array.values, &array.shape)
}

/// One layer file on every backend; `check` handles one case and says whether it knew it.
macro_rules! layer {
    ($name:ident, $check:path) => {
        #[test]
        fn $name() {
            let Some(fixture) = Fixture::find(concat!("layer_", stringify!($name))) else { return };
            let mut unknown = BTreeSet::new();
            for_each_golden_backend!(|b| {
                let mut judge = Judge::new(&b, &fixture, false);
                for case in fixture.cases() {
                    let gradients = case.file.below(case.name).filter(|(key, _)| key.starts_with('g') && *key != "gy");
                    judge.gradients_up_to(gradients.map(|(_, g)| largest(&g.values)).fold(0.0, f64::max));
                    let known = $check(&b, &case, &mut judge).unwrap_or_else(|e| panic!("{}: {e}", case.name));
                    if !known {
                        unknown.insert(case.name);
                    }
                }
                judge.verdict();
            });
            if !unknown.is_empty() {
                note(format!("golden: {} cases of {} not checked yet: {unknown:?}", unknown.len(), fixture.name));
            }
        }
    };
}

layer!(attention, check_attention);
layer!(batchnorm, check_batch_norm);
layer!(bilstm, check_bilstm);
layer!(conv1d, check_conv1d);
layer!(conv_transpose1d, check_conv_transpose1d);
layer!(linear, check_linear);
layer!(maxpool1d, check_max_pool);
layer!(misc, check_misc);

fn check_linear<B: Backend>(b: &B, case: &Case, judge: &mut Judge<B>) -> Result<bool> {
    let [x, w, bias, dout] = ["x", "w", "b", "gy"].map(|key| up(b, case.get(key)));
    let (x, w, bias, dout) = (x?, w?, bias?, dout?);
    judge.output(&format!("{}.y", case.name), &b.linear(&x, &w, Some(&bias), false)?, case.get("y"));
    let (dw, db) = (b.zeros(w.shape())?, b.zeros(bias.shape())?);
    b.linear_backward_weight(&x, &dout, Some(&dw), Some(&db))?;
    let dx = b.linear_backward_input(&dout, &w)?;
    for (key, got) in [("gx", dx), ("gw", dw), ("gb", db)] {
        judge.gradient(&format!("{}.{key}", case.name), &got, case.get(key));
    }
    Ok(true)
}

fn check_conv1d<B: Backend>(b: &B, case: &Case, judge: &mut Judge<B>) -> Result<bool> {
    let spec = Conv1d { stride: case.size("stride"), padding: case.size("pad") };
    let (x, w) = (up(b, &case.get("x").swap_last())?, up(b, case.get("w"))?);
    let bias = case.try_get("b").map(|bias| up(b, bias)).transpose()?;
    let out = b.conv1d(&x, &w, bias.as_ref(), None, spec)?;
    judge.output(&format!("{}.y", case.name), &out, &case.get("y").swap_last());
    let dout = up(b, &case.get("gy").swap_last())?;
    let dw = b.zeros(w.shape())?;
    let db = bias.as_ref().map(|bias| b.zeros(bias.shape())).transpose()?;
    b.conv1d_backward_weight(&x, &dout, spec, Some(&dw), db.as_ref())?;
    let dx = b.conv1d_backward_input(&dout, &w, spec, x.shape()[1])?;
    judge.gradient(&format!("{}.gx", case.name), &dx, &case.get("gx").swap_last());
    judge.gradient(&format!("{}.gw", case.name), &dw, case.get("gw"));
    if let Some(db) = db {
        judge.gradient(&format!("{}.gb", case.name), &db, case.get("gb"));
    }
    if let Some(codes) = case.try_get("codes") {
        // The same convolution from codes: without pooling, the DNA block is its ReLU.
        let dna = b.upload_dna(&DnaBatch::from_codes(&codes.codes(), codes.shape[0], codes.shape[1]))?;
        let [channels, _, kernel] = w.dims("golden")?;
        let bias = bias.map_or_else(|| b.zeros(&[channels]), Ok)?;
        let spec = DnaConv { channels, kernel, pool: 1, train: false, eps: 0.0, momentum: 0.0, dropout: None };
        let (out, _) = b.dna_conv(&dna, &spec, &w, DnaAffine::Bias(&bias), &b.new_step()?)?;
        let mut expected = case.get("y").swap_last();
        expected.values.iter_mut().for_each(|y| *y = y.max(0.0));
        judge.output(&format!("{}.y from codes", case.name), &out, &expected);
    }
    if let Some(codes) = case.try_get("codes") {
        let dna = b.upload_dna(&DnaBatch::from_codes(&codes.codes(), codes.shape[0], codes.shape[1]))?;
        let out = b.dna_conv1d(&dna, &w, bias_of(b, case)?.as_ref(), None, spec)?;
        judge.output(&format!("{}.y by dna_conv1d", case.name), &out, &case.get("y").swap_last());
        let dw = b.zeros(w.shape())?;
        b.dna_conv1d_backward_weight(&dna, &dout, spec, Some(&dw), None)?;
        judge.gradient(&format!("{}.gw by dna_conv1d", case.name), &dw, case.get("gw"));
    }
    Ok(true)
}

fn bias_of<B: Backend>(b: &B, case: &Case) -> Result<Option<Tensor<B>>> {
    case.try_get("b").map(|bias| up(b, bias)).transpose()
}

fn check_conv_transpose1d<B: Backend>(b: &B, case: &Case, judge: &mut Judge<B>) -> Result<bool> {
    let spec = Conv1d { stride: case.size("stride"), padding: case.size("pad") };
    let (x, w, bias) = (up(b, &case.get("x").swap_last())?, up(b, case.get("w"))?, up(b, case.get("b"))?);
    let y = case.get("y").swap_last();
    judge.output(&format!("{}.y", case.name), &b.conv_transpose1d(&x, &w, Some(&bias), None, spec, y.shape[1])?, &y);
    let dout = up(b, &case.get("gy").swap_last())?;
    let (dw, db) = (b.zeros(w.shape())?, b.zeros(bias.shape())?);
    b.conv1d_backward_weight(&dout, &x, spec, Some(&dw), None)?;
    b.linear_backward_weight(&dout, &dout, None, Some(&db))?;
    let dx = b.conv1d(&dout, &w, None, None, spec)?;
    judge.gradient(&format!("{}.gx", case.name), &dx, &case.get("gx").swap_last());
    judge.gradient(&format!("{}.gw", case.name), &dw, case.get("gw"));
    judge.gradient(&format!("{}.gb", case.name), &db, case.get("gb"));
    Ok(true)
}

fn check_batch_norm<B: Backend>(b: &B, case: &Case, judge: &mut Judge<B>) -> Result<bool> {
    let named = |key: &str| format!("{}.{key}", case.name);
    let x = up(b, &case.get("x").channels_last())?;
    let [gamma, beta, mean, var] = ["gamma", "beta", "running_mean", "running_var"].map(|key| up(b, case.get(key)));
    let (gamma, beta, mean, var) = (gamma?, beta?, mean?, var?);
    let spec = |train| BatchNorm { train, eps: case.number("eps") as f32, momentum: case.number("momentum") as f32 };
    let (out, _) = b.batch_norm(&x, &gamma, &beta, &mean, &var, spec(false))?;
    judge.output(&named("eval_y"), &out, &case.get("eval_y").channels_last());
    let (out, saved) = b.batch_norm(&x, &gamma, &beta, &mean, &var, spec(true))?;
    judge.output(&named("y"), &out, &case.get("y").channels_last());
    judge.output(&named("new_mean"), &mean, case.get("new_mean"));
    judge.output(&named("new_var"), &var, case.get("new_var"));
    judge.output(&named("batch_mean"), &saved.view(0, mean.shape())?, case.get("batch_mean"));
    let dout = up(b, &case.get("gy").channels_last())?;
    let (dgamma, dbeta) = (b.zeros(gamma.shape())?, b.zeros(beta.shape())?);
    let dx = b.batch_norm_backward(&x, &gamma, &saved, &dout, spec(true), Some(&dgamma), Some(&dbeta))?;
    judge.gradient(&named("gx"), &dx, &case.get("gx").channels_last());
    judge.gradient(&named("ggamma"), &dgamma, case.get("ggamma"));
    judge.gradient(&named("gbeta"), &dbeta, case.get("gbeta"));
    Ok(true)
}

fn check_max_pool<B: Backend>(b: &B, case: &Case, judge: &mut Judge<B>) -> Result<bool> {
    let (x, size) = (up(b, &case.get("x").swap_last())?, case.size("pool"));
    let (out, saved) = b.max_pool(&x, size)?;
    judge.output(&format!("{}.y", case.name), &out, &case.get("y").swap_last());
    let dout = up(b, &case.get("gy").swap_last())?;
    let dx = b.max_pool_backward(&dout, &saved, size, x.shape()[1])?;
    judge.gradient(&format!("{}.gx", case.name), &dx, &case.get("gx").swap_last());
    Ok(true)
}

fn check_bilstm<B: Backend>(b: &B, case: &Case, judge: &mut Judge<B>) -> Result<bool> {
    let gate = match case.text("gate") {
        "sigmoid" => Gate::Sigmoid,
        "hard_sigmoid" => Gate::HardSigmoid,
        _ => return Ok(false),
    };
    let single = case.of["single_bias"].as_bool().expect("a truth value");
    let bias_ih = if single { "bias" } else { "bias_ih" };
    let weights = |layer, suffix: &str| -> Result<LstmWeights<B>> {
        let tensor = |part: &str| up(b, case.get(&format!("{part}_l{layer}{suffix}")));
        Ok(LstmWeights {
            weight_ih: tensor("weight_ih")?,
            weight_hh: tensor("weight_hh")?,
            bias_ih: tensor(bias_ih)?,
            bias_hh: if single { None } else { Some(tensor("bias_hh")?) },
        })
    };
    let mut x = up(b, case.get("x"))?;
    let mut layers = Vec::new();
    for layer in 0..case.size("layers") {
        let weights = [weights(layer, "")?, weights(layer, "_reverse")?];
        let (out, saved) = b.lstm(&x, &weights, gate, true)?;
        layers.push((layer, std::mem::replace(&mut x, out), weights, saved.expect("saved")));
    }
    judge.output(&format!("{}.y", case.name), &x, case.get("y"));
    let mut dout = up(b, case.get("gy"))?;
    for (layer, inp, weights, saved) in layers.into_iter().rev() {
        let zeros = |w: &LstmWeights<B>| -> Result<LstmWeights<B>> {
            let zeros = |t: &Tensor<B>| b.zeros(t.shape());
            Ok(LstmWeights {
                weight_ih: zeros(&w.weight_ih)?,
                weight_hh: zeros(&w.weight_hh)?,
                bias_ih: zeros(&w.bias_ih)?,
                bias_hh: w.bias_hh.as_ref().map(zeros).transpose()?,
            })
        };
        let grads = [zeros(&weights[0])?, zeros(&weights[1])?];
        let dinp = b.lstm_backward(&inp, &weights, gate, saved, &dout, Some(&grads), true)?;
        dout = dinp.expect("the gradient of the input");
        for (grads, suffix) in grads.iter().zip(["", "_reverse"]) {
            let mut check = |part: &str, got: &Tensor<B>| {
                let key = format!("g{part}_l{layer}{suffix}");
                judge.gradient(&format!("{}.{key}", case.name), got, case.get(&key));
            };
            check("weight_ih", &grads.weight_ih);
            check("weight_hh", &grads.weight_hh);
            check(bias_ih, &grads.bias_ih);
            if let Some(bias_hh) = &grads.bias_hh {
                check("bias_hh", bias_hh);
            }
        }
    }
    judge.gradient(&format!("{}.gx", case.name), &dout, case.get("gx"));
    Ok(true)
}

/// Several arrays with the same inner dimensions, one behind the other.
fn stacked(parts: [&Array; 3]) -> Array {
    let mut shape = parts[0].shape.clone();
    shape[0] *= 3;
    Array { shape, values: parts.iter().flat_map(|part| part.values.clone()).collect() }
}

fn check_attention<B: Backend>(b: &B, case: &Case, judge: &mut Judge<B>) -> Result<bool> {
    let named = |key: &str| format!("{}.{key}", case.name);
    let (heads, head_size) = (case.size("heads"), case.size("head_dim"));
    let (x, step) = (up(b, case.get("x"))?, b.new_step()?);
    let weight = up(b, &stacked(["wq", "wk", "wv"].map(|key| case.get(key))))?;
    let bias = up(b, &stacked(["bq", "bk", "bv"].map(|key| case.get(key))))?;
    let qkv = b.linear(&x, &weight, Some(&bias), false)?;
    // The fixture's q, k and v are [B,h,T,D], ours lie side by side in [B,T,3hD].
    let projected = judge.fetch(&qkv);
    let [batch, time, _] = x.dims("golden")?;
    for (part, key) in ["q", "k", "v"].into_iter().enumerate() {
        let at = |n: usize, h: usize, t: usize, d: usize| {
            projected.values[((n * time + t) * 3 + part) * heads * head_size + h * head_size + d]
        };
        let expected = case.get(key);
        let values = (0..expected.values.len()).map(|i| {
            let (d, t) = (i % head_size, i / head_size % time);
            at(i / (head_size * time * heads), i / (head_size * time) % heads, t, d)
        });
        let got = Array { shape: vec![batch, heads, time, head_size], values: values.collect() };
        judge.close(&named(key), &got, expected, judge.limits.output);
    }
    let spec = |relu| Attention { heads, head_size, relu, dropout: None };
    judge.output(&named("pre_relu"), &b.attention(&qkv, &spec(false), &step)?.0, case.get("pre_relu"));
    let (out, lse) = b.attention(&qkv, &spec(true), &step)?;
    judge.output(&named("y"), &out, case.get("y"));
    let dout = up(b, case.get("gy"))?;
    let dqkv = b.attention_backward(qkv.clone(), &out, &lse, &dout, &spec(true), &step)?;
    let (dweight, dbias) = (b.zeros(weight.shape())?, b.zeros(bias.shape())?);
    b.linear_backward_weight(&x, &dqkv, Some(&dweight), Some(&dbias))?;
    judge.gradient(&named("gx"), &b.linear_backward_input(&dqkv, &weight)?, case.get("gx"));
    for (part, key) in ["q", "k", "v"].into_iter().enumerate() {
        let (gw, gb) = (case.get(&format!("gw{key}")), case.get(&format!("gb{key}")));
        judge.gradient(&named(&format!("gw{key}")), &dweight.view(part * gw.values.len(), &gw.shape)?, gw);
        judge.gradient(&named(&format!("gb{key}")), &dbias.view(part * gb.values.len(), &gb.shape)?, gb);
    }
    Ok(true)
}

fn check_misc<B: Backend>(b: &B, case: &Case, judge: &mut Judge<B>) -> Result<bool> {
    match case.text("op") {
        "readout" => check_readout(b, case, judge),
        "cross_entropy" => check_cross_entropy(b, case, judge),
        "bce_with_logits" => check_bce(b, case, judge),
        "adam" => check_adam(b, case, judge),
        "leaky_relu" => {
            let slope = case.number("slope") as f32;
            let out = b.leaky_relu(&up(b, case.get("x"))?, slope)?;
            judge.output(&format!("{}.y", case.name), &out, case.get("y"));
            let dx = b.leaky_relu_backward(&out, &up(b, case.get("gy"))?, slope)?;
            judge.gradient(&format!("{}.gx", case.name), &dx, case.get("gx"));
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn check_readout<B: Backend>(b: &B, case: &Case, judge: &mut Judge<B>) -> Result<bool> {
    let mode = match (case.text("mode"), case.number("eps")) {
        ("sample", 1e-5) => ReadoutNorm::Sample,
        ("batch", _) => ReadoutNorm::Batch,
        _ => return Ok(false),
    };
    let (out, saved) = b.readout_norm(&up(b, case.get("x"))?, mode)?;
    judge.output(&format!("{}.y", case.name), &out, case.get("y"));
    let dx = b.readout_norm_backward(&out, &saved, &up(b, case.get("gy"))?, mode)?;
    judge.gradient(&format!("{}.gx", case.name), &dx, case.get("gx"));
    Ok(true)
}

fn check_cross_entropy<B: Backend>(b: &B, case: &Case, judge: &mut Judge<B>) -> Result<bool> {
    let (x, labels, kind) = (up(b, case.get("x"))?, up(b, case.get("label"))?, ClassLoss::CrossEntropy);
    let weights = b.from_f64(&vec![1.0; labels.len()], labels.shape())?;
    let (loss, probabilities) = b.class_loss(&x, &labels, &weights, kind)?;
    judge.output(&format!("{}.loss", case.name), &loss, case.get("loss"));
    judge.output(&format!("{}.prob", case.name), &probabilities, case.get("prob"));
    judge.output(&format!("{}.prob by softmax", case.name), &b.softmax(&x)?, case.get("prob"));
    let dx = b.class_loss_backward(&probabilities, &labels, &weights, &up(b, case.get("gy"))?, kind)?;
    judge.gradient(&format!("{}.gx", case.name), &dx, case.get("gx"));
    Ok(true)
}

fn check_bce<B: Backend>(b: &B, case: &Case, judge: &mut Judge<B>) -> Result<bool> {
    let (x, labels, kind) = (up(b, case.get("x"))?, up(b, case.get("label"))?, ClassLoss::BinaryCrossEntropy);
    let n = labels.len();
    let (x, labels, weights) = (x.view(0, &[n, 1])?, labels.view(0, &[n])?, b.from_f64(&vec![1.0; n], &[n])?);
    let (loss, probabilities) = b.class_loss(&x, &labels, &weights, kind)?;
    judge.output(&format!("{}.loss", case.name), &loss, case.get("loss"));
    let prob = case.get("prob");
    let both = prob.values.iter().flat_map(|p| [1.0 - p, *p]).collect();
    judge.output(&format!("{}.prob", case.name), &probabilities, &Array { shape: vec![n, 2], values: both });
    let dx = b.class_loss_backward(&probabilities, &labels, &weights, &up(b, case.get("gy"))?, kind)?;
    judge.gradient(&format!("{}.gx", case.name), &dx, case.get("gx"));
    Ok(true)
}

fn check_adam<B: Backend>(b: &B, case: &Case, judge: &mut Judge<B>) -> Result<bool> {
    let params = up(b, case.get("w"))?;
    let n = params.len();
    let (m, v, step) = (b.zeros(&[n])?, b.zeros(&[n])?, b.new_step()?);
    let [beta1, beta2, eps, lr] = ["beta1", "beta2", "eps", "lr"].map(|key| case.number(key) as f32);
    let ranges = [Range { offset: 0, len: n, l2: 0.0, frozen: false }];
    let (g, after) = (case.get("g"), case.get("w_after"));
    let row = |array: &Array, i: usize| Array { shape: vec![n], values: array.values[i * n..(i + 1) * n].to_vec() };
    for i in 0..g.shape[0] {
        let correction = |beta: f32| (1.0 - f64::from(beta).powi(i as i32 + 1)) as f32;
        let (bias_correction1, bias_correction2) = (correction(beta1), correction(beta2));
        let count = i as u32 + 1;
        let state = StepState { step: count, lr, bias_correction1, bias_correction2, ..StepState::default() };
        b.write_step(&step, &state)?;
        let grads = up(b, &row(g, i))?;
        let norm = b.finish_gradients(&params, &grads, &ranges)?;
        b.adam(&params, &grads, &m, &v, &norm, &ranges, &Adam { beta1, beta2, eps, clip: None }, &step)?;
        // An update moves a weight by about 1e-3: a millionth of the largest weight is a thousandth of that.
        let moved = judge.fetch(&params);
        judge.close(&format!("{}.w_after[{i}]", case.name), &moved, &row(after, i), judge.limits.output / 10.0);
    }
    Ok(true)
}
