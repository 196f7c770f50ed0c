//! Reconstruction of DNA, and normal latent variables.

use crate::harness::run::test_step;
use crate::harness::{Fill, Input, Inputs, Op, Run, SEED, assert_refused};
use epi_engine::Result;
use epi_engine::backend::{Backend, DnaBatch};
use epi_engine::rng::{Noise, stream};

const NOISE: Noise = Noise { seed: SEED, stream: stream::LATENT };

#[derive(Debug)]
enum Autoencoder {
    /// `[B,L]`
    SquaredError([usize; 2]),
    /// `[B,D]`
    Sample([usize; 2]),
    Divergence([usize; 2]),
}
use Autoencoder::*;

impl Op for Autoencoder {
    fn inputs(&self, fill: Fill, seed: u64) -> Vec<Input> {
        let inputs = Inputs::new(fill, seed);
        match *self {
            SquaredError([batch, length]) => {
                inputs.dna("dna", batch, length).float("recon", &[batch, length, 4]).build()
            }
            Sample(shape) => {
                inputs.float("mean", &shape).per_sample().float("log_variance", &shape).per_sample().build()
            }
            Divergence(shape) => inputs.float("mean", &shape).float("log_variance", &shape).build(),
        }
    }
    fn run<B: Backend>(&self, run: &mut Run<B>) -> Result<()> {
        let b = run.b;
        if let SquaredError(_) = self {
            let (recon, dna) = (run.input("recon")?, run.dna("dna")?);
            let found = b.reconstruction(&recon, &dna)?;
            run.report("right", &found.view(1, &[1])?);
            run.report("known", &found.view(2, &[1])?);
            let Some(dsquares) = run.differentiate(&found.view(0, &[1])?)? else { return Ok(()) };
            run.report("drecon", &b.reconstruction_backward(&recon, &dna, &dsquares)?);
            return Ok(());
        }
        let (mean, log_variance, step) = (run.input("mean")?, run.input("log_variance")?, run.step()?);
        if let Sample(_) = self {
            let out = b.sample_normal(&mean, &log_variance, &NOISE, &step)?;
            let Some(dout) = run.differentiate(&out)? else { return Ok(()) };
            run.report("dmean", &dout);
            run.report("dlog_variance", &b.sample_normal_backward(&log_variance, &dout, &NOISE, &step)?);
            return Ok(());
        }
        let out = b.kl_divergence(&mean, &log_variance)?;
        let Some(dkl) = run.differentiate(&out)? else { return Ok(()) };
        let (dmean, dlog_variance) = b.kl_divergence_backward(&mean, &log_variance, &dkl)?;
        run.report("dmean", &dmean);
        run.report("dlog_variance", &dlog_variance);
        Ok(())
    }
}

fn ops(shapes: &[[usize; 2]]) -> Vec<Autoencoder> {
    shapes.iter().flat_map(|&shape| [SquaredError(shape), Sample(shape), Divergence(shape)]).collect()
}

op_tests!(small: ops(&[[1, 1], [2, 7], [5, 66]]), large: ops(&[[3, 1031], [64, 130]]));

#[test]
fn a_perfect_reconstruction_has_no_error_and_n_is_no_base() {
    for_each_backend!(|b| {
        let codes = [0u8, 1, 2, 3, 4, 3];
        let dna = b.upload_dna(&DnaBatch::from_codes(&codes, 1, 6)).unwrap();
        let onehot: Vec<f64> =
            codes.iter().flat_map(|&c| (0..4).map(move |a| if a == c { 1.0 } else { 0.0 })).collect();
        let found = |values: &[f64]| {
            b.to_f64(&b.reconstruction(&b.from_f64(values, &[1, 6, 4]).unwrap(), &dna).unwrap()).unwrap()
        };
        assert_eq!(found(&onehot), [0.0, 5.0, 5.0], "{}", b.name());
        // Of equal channels the first wins: only A is right.
        assert_eq!(found(&[0.5; 24]), [6.0, 1.0, 5.0], "{}", b.name());
    });
}

#[test]
fn noise_is_that_of_the_contract() {
    for_each_backend!(|b| {
        let (n, state, step) = (1027, test_step(), b.new_step().unwrap());
        b.write_step(&step, &state).unwrap();
        let zeros = b.zeros(&[n]).unwrap();
        let sample = b.to_f64(&b.sample_normal(&zeros, &zeros, &NOISE, &step).unwrap()).unwrap();
        for (e, x) in sample.into_iter().enumerate() {
            let expected = NOISE.at(state.philox_step, e as u64);
            assert!((x - expected).abs() < 4e-6, "{}: element {e} is {x}, not {expected}", b.name());
        }
    });
}

#[test]
fn the_standard_normal_does_not_diverge_from_itself() {
    for_each_backend!(|b| {
        let zeros = b.zeros(&[3, 5]).unwrap();
        assert_eq!(b.to_f64(&b.kl_divergence(&zeros, &zeros).unwrap()).unwrap(), [0.0]);
        // By hand: (1 + e - 1 - 1) / 2 a dimension.
        let ones = b.from_f64(&[1.0; 15], &[3, 5]).unwrap();
        let kl = b.to_f64(&b.kl_divergence(&ones, &ones).unwrap()).unwrap()[0];
        assert!((kl - 5.0 * (std::f64::consts::E - 1.0) / 2.0).abs() < 1e-5, "{}: {kl}", b.name());
    });
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    for_each_backend!(|b| {
        let t = |shape: &[usize]| b.zeros(shape).unwrap();
        let (dna, step) = (b.upload_dna(&DnaBatch::new(2, 9)).unwrap(), b.new_step().unwrap());
        assert_refused(b.reconstruction(&t(&[2, 9, 3]), &dna), "reconstruction");
        assert_refused(b.reconstruction(&t(&[2, 8, 4]), &dna), "reconstruction");
        assert_refused(b.reconstruction_backward(&t(&[2, 9, 4]), &dna, &t(&[2])), "reconstruction_backward");
        assert_refused(b.sample_normal(&t(&[2, 3]), &t(&[3, 2]), &NOISE, &step), "sample_normal");
        assert_refused(b.sample_normal_backward(&t(&[2, 3]), &t(&[6]), &NOISE, &step), "sample_normal_backward");
        assert_refused(b.kl_divergence(&t(&[2, 3]), &t(&[2, 2])), "kl_divergence");
        assert_refused(b.kl_divergence(&t(&[6]), &t(&[6])), "kl_divergence");
        assert_refused(b.kl_divergence_backward(&t(&[2, 3]), &t(&[2, 3]), &t(&[2])), "kl_divergence_backward");
    });
}
