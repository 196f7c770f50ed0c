use crate::autograd::{Backward, Inputs, Tape, Var};
use crate::backend::{Backend, Tensor};
use crate::error::Result;
use crate::rng::Noise;

/// Squared error `[1]` of `recon` `[B,L,4]` from one-hot DNA, and how well it gives back the sequence; see
/// [`Backend::reconstruction`].
pub fn squared_error<B: Backend>(tape: &mut Tape<B>, recon: &Var<B>, dna: &B::Dna) -> Result<(Var<B>, Tensor<B>)> {
    let quality = tape.backend().reconstruction(recon.value(), dna)?;
    let (value, dna) = (recon.value().clone(), dna.clone());
    let squares = quality.view(0, &[1])?;
    Ok((tape.record(squares, &[recon], || SquaredErrorBackward { recon: value, dna }), quality))
}

struct SquaredErrorBackward<B: Backend> {
    recon: Tensor<B>,
    dna: B::Dna,
}

impl<B: Backend> Backward<B> for SquaredErrorBackward<B> {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        grads.accumulate(0, backend.reconstruction_backward(&self.recon, &self.dna, &dout)?)
    }
}

/// A sample of N(mean, e^log_variance) in training mode, the mean itself otherwise; see [`Backend::sample_normal`].
pub fn sample_normal<B: Backend>(
    tape: &mut Tape<B>,
    mean: &Var<B>,
    log_variance: &Var<B>,
    stream: u32,
) -> Result<Var<B>> {
    let Some(noise) = tape.noise(stream) else { return Ok(mean.clone()) };
    let step = tape.step().clone();
    let out = tape.backend().sample_normal(mean.value(), log_variance.value(), &noise, &step)?;
    let value = log_variance.value().clone();
    Ok(tape.record(out, &[mean, log_variance], || SampleNormalBackward { log_variance: value, noise, step }))
}

struct SampleNormalBackward<B: Backend> {
    log_variance: Tensor<B>,
    noise: Noise,
    step: B::Step,
}

impl<B: Backend> Backward<B> for SampleNormalBackward<B> {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        let dlog_variance = backend.sample_normal_backward(&self.log_variance, &dout, &self.noise, &self.step)?;
        grads.accumulate(1, dlog_variance)?;
        // A copy: what is handed over may be added to.
        let dmean = backend.zeros(dout.shape())?;
        backend.copy(&dmean, &dout)?;
        grads.accumulate(0, dmean)
    }
}

/// Divergence `[1]` of N(mean, e^log_variance) from N(0, 1); see [`Backend::kl_divergence`].
pub fn kl_divergence<B: Backend>(tape: &mut Tape<B>, mean: &Var<B>, log_variance: &Var<B>) -> Result<Var<B>> {
    let out = tape.backend().kl_divergence(mean.value(), log_variance.value())?;
    let (m, v) = (mean.value().clone(), log_variance.value().clone());
    Ok(tape.record(out, &[mean, log_variance], || KlDivergenceBackward { mean: m, log_variance: v }))
}

struct KlDivergenceBackward<B: Backend> {
    mean: Tensor<B>,
    log_variance: Tensor<B>,
}

impl<B: Backend> Backward<B> for KlDivergenceBackward<B> {
    fn backward(self: Box<Self>, backend: &B, dout: Tensor<B>, grads: &mut Inputs<'_, B>) -> Result<()> {
        let (dmean, dlog_variance) = backend.kl_divergence_backward(&self.mean, &self.log_variance, &dout)?;
        grads.accumulate(0, dmean)?;
        grads.accumulate(1, dlog_variance)
    }
}
