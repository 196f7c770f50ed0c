//! The contract between operators and devices: every primitive a backend must offer, with shapes and errors.
//!
//! Letters: `B` batch, `L` length in positions, `P` pooled length, `C` channels, `K` kernel taps, `T` time steps,
//! `H` hidden units, `D` head size, `N` rows, `I`/`O` inputs/outputs of a linear map. Activations are channels-last,
//! `[B,L,C]`; weights have PyTorch's layouts.
//!
//! Two kinds of outputs. *Returned* tensors are fresh and fully written (activation gradients: `=`). *Slots* are tensors
//! handed in by the caller, named `d<parameter>` or `running_*`, and updated in place (parameter gradients: `+=`).
//! Slots never overlap each other nor any other argument of the call.

pub mod cost;
pub mod cpu;
pub mod cuda;
pub mod device;
pub mod dna;
pub mod gather;
mod operands;
pub mod reference;
pub mod tensor;

pub use device::{Device, DeviceChoice};
pub use dna::DnaBatch;
pub use gather::{Gathered, Order, OrderEntry, WindowSet, WindowSide};
pub use operands::{
    Adam, Attention, BatchNorm, ClassLoss, Conv1d, DnaAffine, DnaConv, DnaConvGrads, Gate, LstmWeights, Range,
    ReadoutNorm, StepState,
};
pub use tensor::{DType, Tensor};

use crate::error::Result;
use crate::rng::{Dropout, Noise};
/// A device that can run every primitive. Handles are cheap to clone and share one device context.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Reference-counted memory.
    type Buffer: Clone + Send + Sync;
    /// A batch of packed DNA on the device.
    type Dna: Clone + Send + Sync;
    /// The device-side [`StepState`].
    type Step: Clone + Send + Sync;
    /// What `dna_conv` keeps for its backward pass.
    type DnaConvSaved: Send;
    /// What `max_pool` keeps (the winners' positions).
    type MaxPoolSaved: Send;
    /// What `lstm` keeps.
    type LstmSaved: Send;
    /// Windows of a data set and a list of samples, in the device's own memory.
    type Resident: Clone + Send + Sync;
    /// Work that was recorded once, to be done again and again.
    type Graph: Send;

    // ---- memory -----------------------------------------------------------------------------------------------
    /// Name of the device for people.
    fn name(&self) -> String;
    /// What the device can do at best, measured now (a second or two); `None` where speed means nothing.
    fn ceilings(&self) -> Result<Option<cost::Ceilings>> {
        Ok(None)
    }
    /// The most bytes of device memory that were in use at once; `None` where the memory is the process's own.
    fn peak_memory(&self) -> Option<usize> {
        None
    }
    /// Type of the activations and parameters of this backend.
    fn dtype(&self) -> DType;
    /// A tensor of zeros.
    fn zeros(&self, shape: &[usize]) -> Result<Tensor<Self>>;
    /// Copies host values to the device, rounding to [`Backend::dtype`].
    fn from_f64(&self, values: &[f64], shape: &[usize]) -> Result<Tensor<Self>>;
    /// Copies host values to the device.
    fn from_f32(&self, values: &[f32], shape: &[usize]) -> Result<Tensor<Self>>;
    /// Copies a tensor to the host; waits for it.
    fn to_f32(&self, tensor: &Tensor<Self>) -> Result<Vec<f32>>;
    /// Copies a tensor to the host; waits for it.
    fn to_f64(&self, tensor: &Tensor<Self>) -> Result<Vec<f64>>;
    /// Puts a batch of sequences on the device.
    fn upload_dna(&self, batch: &DnaBatch) -> Result<Self::Dna>;
    /// Allocates a step record on the device.
    fn new_step(&self) -> Result<Self::Step>;
    /// Overwrites a step record.
    fn write_step(&self, step: &Self::Step, state: &StepState) -> Result<()>;
    /// Slot `dst = 0`.
    fn fill_zero(&self, dst: &Tensor<Self>) -> Result<()>;
    /// Slot `dst = src`, equal lengths.
    fn copy(&self, dst: &Tensor<Self>, src: &Tensor<Self>) -> Result<()>;
    /// Slot `dst += src`, equal lengths.
    fn add_assign(&self, dst: &Tensor<Self>, src: &Tensor<Self>) -> Result<()>;
    /// Waits for all work and reports any pending failure.
    fn synchronize(&self) -> Result<()>;

    // ---- recorded steps ---------------------------------------------------------------------------------------
    /// Puts the windows of a data set on the device, to gather batches from; `None` where that is of no use, or where it
    /// would leave less than `reserve` bytes of the device's memory.
    fn upload_windows(&self, _set: &WindowSet<'_>, _reserve: usize) -> Result<Option<Self::Resident>> {
        Ok(None)
    }
    /// The same windows with another list of samples.
    fn with_order(&self, resident: &Self::Resident, order: &Order) -> Result<Self::Resident>;
    /// The `batch` samples from position `batch_cursor` of the step record on, in the order of its `epoch`: bit for bit what
    /// `data::EpochPlan` makes on the host.
    fn gather(&self, resident: &Self::Resident, batch: usize, step: &Self::Step) -> Result<Gathered<Self>>;
    /// Slot `history[philox_step % n] = value`, `history` `[n]`, `value` `[1]`: kept on the device, to be read later.
    fn log_value(&self, history: &Tensor<Self>, value: &Tensor<Self>, step: &Self::Step) -> Result<()>;
    /// Records what `work` asks for without doing it; `None` where the device cannot. Everything `work` uses must have been
    /// there before and stay as long as the graph; it has been done once already, so that its memory is at hand; it reads
    /// nothing back, uploads nothing, and nothing that it makes outlives it. Other memory is never touched by a replay.
    fn capture(&self, _work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Self::Graph>> {
        Ok(None)
    }
    /// Does recorded work, with the same bits as if it were asked for anew.
    fn replay(&self, graph: &Self::Graph) -> Result<()>;

    // ---- DNA convolution block --------------------------------------------------------------------------------
    /// `out[b,p,c] = dropout(max_{j<pool} relu(affine(Σ_{k,a} weight[c,a,k] · onehot[b, p*pool+j+k, a])))`.
    ///
    /// `weight` `[C,4,K]` in the order A,C,G,T; N is all zeros. Returns `out` `[B,P,C]`. Batch statistics run over all
    /// `B * conv_length` outputs, pooled away or not. Ties in the pool go to the first maximum.
    fn dna_conv(
        &self,
        dna: &Self::Dna,
        spec: &DnaConv,
        weight: &Tensor<Self>,
        affine: DnaAffine<'_, Self>,
        step: &Self::Step,
    ) -> Result<(Tensor<Self>, Self::DnaConvSaved)>;
    /// Parameter gradients of [`Backend::dna_conv`] from `dout` `[B,P,C]` (slots, `+=`).
    fn dna_conv_backward(
        &self,
        dna: &Self::Dna,
        spec: &DnaConv,
        weight: &Tensor<Self>,
        affine: DnaAffine<'_, Self>,
        saved: &Self::DnaConvSaved,
        dout: &Tensor<Self>,
        grads: DnaConvGrads<'_, Self>,
        step: &Self::Step,
    ) -> Result<()>;

    // ---- convolution ------------------------------------------------------------------------------------------
    /// `out[b,l,o] = bias[o] + Σ_{i,k} weight[o,i,k] · inp[b, l*stride + k - padding, i]`; `inp` `[B,L,I]`, `weight` `[O,I,K]`.
    /// Then LeakyReLU, if `leaky` names its slope.
    fn conv1d(
        &self,
        inp: &Tensor<Self>,
        weight: &Tensor<Self>,
        bias: Option<&Tensor<Self>>,
        leaky: Option<f32>,
        spec: Conv1d,
    ) -> Result<Tensor<Self>>;
    /// `dinp` `[B,length,I]` of [`Backend::conv1d`].
    fn conv1d_backward_input(
        &self,
        dout: &Tensor<Self>,
        weight: &Tensor<Self>,
        spec: Conv1d,
        length: usize,
    ) -> Result<Tensor<Self>>;
    /// [`Backend::conv1d_backward_input`] and on through the LeakyReLU of slope `slope` that gave `inp` `[B,L,I]`.
    fn conv1d_backward_leaky(
        &self,
        dout: &Tensor<Self>,
        weight: &Tensor<Self>,
        spec: Conv1d,
        inp: &Tensor<Self>,
        slope: f32,
    ) -> Result<Tensor<Self>> {
        let [_, length, _] = inp.dims("conv1d_backward_leaky")?;
        self.leaky_relu_backward(inp, &self.conv1d_backward_input(dout, weight, spec, length)?, slope)
    }
    /// Slots `dweight += …`, `dbias += …` of [`Backend::conv1d`].
    fn conv1d_backward_weight(
        &self,
        inp: &Tensor<Self>,
        dout: &Tensor<Self>,
        spec: Conv1d,
        dweight: Option<&Tensor<Self>>,
        dbias: Option<&Tensor<Self>>,
    ) -> Result<()>;

    /// [`Backend::conv1d`] of one-hot DNA, which is never in memory; `weight` `[O,4,K]` in the order A,C,G,T, N is all zeros.
    fn dna_conv1d(
        &self,
        dna: &Self::Dna,
        weight: &Tensor<Self>,
        bias: Option<&Tensor<Self>>,
        leaky: Option<f32>,
        spec: Conv1d,
    ) -> Result<Tensor<Self>>;
    /// Slots `dweight += …`, `dbias += …` of [`Backend::dna_conv1d`] (before LeakyReLU).
    fn dna_conv1d_backward_weight(
        &self,
        dna: &Self::Dna,
        dout: &Tensor<Self>,
        spec: Conv1d,
        dweight: Option<&Tensor<Self>>,
        dbias: Option<&Tensor<Self>>,
    ) -> Result<()>;
    /// Transposed convolution, the adjoint of [`Backend::conv1d`]: `inp` `[B,L,I]`, `weight` `[I,O,K]` → `[B,length,O]`,
    /// `out[b,x,o] = bias[o] + Σ_{l*stride + k - padding = x} Σ_i weight[i,o,k] · inp[b,l,i]`, then LeakyReLU as there. `length` is
    /// any that [`Backend::conv1d`] turns into `L` (PyTorch's output padding chooses among them). Its input gradient is
    /// [`Backend::conv1d`], its weight gradient [`Backend::conv1d_backward_weight`] with `inp` and `dout` exchanged.
    fn conv_transpose1d(
        &self,
        inp: &Tensor<Self>,
        weight: &Tensor<Self>,
        bias: Option<&Tensor<Self>>,
        leaky: Option<f32>,
        spec: Conv1d,
        length: usize,
    ) -> Result<Tensor<Self>>;
    /// The input gradient of [`Backend::conv_transpose1d`] and on through the LeakyReLU of slope `slope` that gave `inp` `[B,L,I]`.
    fn conv_transpose1d_backward_leaky(
        &self,
        dout: &Tensor<Self>,
        weight: &Tensor<Self>,
        spec: Conv1d,
        inp: &Tensor<Self>,
        slope: f32,
    ) -> Result<Tensor<Self>> {
        self.leaky_relu_backward(inp, &self.conv1d(dout, weight, None, None, spec)?, slope)
    }

    // ---- normalisation and pooling ----------------------------------------------------------------------------
    /// Batch norm of `inp` `[..,C]`. Returns `out` and `saved` `[2,C]`: mean and 1/sqrt(var + eps) that were used.
    /// In training mode the slots `running_mean`, `running_var` `[C]` take the batch's (unbiased) statistics; a batch of
    /// one row is an error there, as in PyTorch.
    fn batch_norm(
        &self,
        inp: &Tensor<Self>,
        gamma: &Tensor<Self>,
        beta: &Tensor<Self>,
        running_mean: &Tensor<Self>,
        running_var: &Tensor<Self>,
        spec: BatchNorm,
    ) -> Result<(Tensor<Self>, Tensor<Self>)>;
    /// Returns `dinp`; slots `dgamma += …`, `dbeta += …`.
    fn batch_norm_backward(
        &self,
        inp: &Tensor<Self>,
        gamma: &Tensor<Self>,
        saved: &Tensor<Self>,
        dout: &Tensor<Self>,
        spec: BatchNorm,
        dgamma: Option<&Tensor<Self>>,
        dbeta: Option<&Tensor<Self>>,
    ) -> Result<Tensor<Self>>;
    /// `out[b,p,c] = max_{j<size} inp[b, p*size + j, c]`; the remainder is dropped, the first maximum wins.
    fn max_pool(&self, inp: &Tensor<Self>, size: usize) -> Result<(Tensor<Self>, Self::MaxPoolSaved)>;
    /// `dinp` `[B,length,C]` of [`Backend::max_pool`].
    fn max_pool_backward(
        &self,
        dout: &Tensor<Self>,
        saved: &Self::MaxPoolSaved,
        size: usize,
        length: usize,
    ) -> Result<Tensor<Self>>;

    // ---- linear -----------------------------------------------------------------------------------------------
    /// `out[n,o] = bias[o] + Σ_i weight[o,i] · inp[n,i]`; `inp` `[..,I]` → `[..,O]`, then ReLU if `relu`.
    fn linear(
        &self,
        inp: &Tensor<Self>,
        weight: &Tensor<Self>,
        bias: Option<&Tensor<Self>>,
        relu: bool,
    ) -> Result<Tensor<Self>>;
    /// `dinp[n,i] = Σ_o dout[n,o] · weight[o,i]` (of the map without ReLU).
    fn linear_backward_input(&self, dout: &Tensor<Self>, weight: &Tensor<Self>) -> Result<Tensor<Self>>;
    /// Slots `dweight[o,i] += Σ_n dout[n,o] · inp[n,i]`, `dbias[o] += Σ_n dout[n,o]`.
    fn linear_backward_weight(
        &self,
        inp: &Tensor<Self>,
        dout: &Tensor<Self>,
        dweight: Option<&Tensor<Self>>,
        dbias: Option<&Tensor<Self>>,
    ) -> Result<()>;

    // ---- LSTM -------------------------------------------------------------------------------------------------
    /// One bidirectional layer, zero initial state. `inp` `[B,T,I]` → `out` `[B,T,2H]`, forward direction first.
    /// With `save` the second result holds what [`Backend::lstm_backward`] needs.
    fn lstm(
        &self,
        inp: &Tensor<Self>,
        weights: &[LstmWeights<Self>; 2],
        gate: Gate,
        save: bool,
    ) -> Result<(Tensor<Self>, Option<Self::LstmSaved>)>;
    /// Returns `dinp` `[B,T,I]` if `need_input`; `grads` are slots of the shapes of `weights`, `None` = not wanted.
    fn lstm_backward(
        &self,
        inp: &Tensor<Self>,
        weights: &[LstmWeights<Self>; 2],
        gate: Gate,
        saved: Self::LstmSaved,
        dout: &Tensor<Self>,
        grads: Option<&[LstmWeights<Self>; 2]>,
        need_input: bool,
    ) -> Result<Option<Tensor<Self>>>;

    // ---- attention --------------------------------------------------------------------------------------------
    /// `out = relu?(dropout(softmax(Q Kᵀ / √D)) V)` per head, heads side by side.
    ///
    /// `qkv` `[B,T,3*heads*D]`: all heads of Q, then of K, then of V. Returns `out` `[B,T,heads*D]` and the row-wise
    /// log-sum-exp of the scaled scores `[B,heads,T]` that backward needs. `T × T` is never stored.
    fn attention(
        &self,
        qkv: &Tensor<Self>,
        spec: &Attention,
        step: &Self::Step,
    ) -> Result<(Tensor<Self>, Tensor<Self>)>;
    /// [`Backend::attention`] of copies of one sample `kept` `[T,3*heads*D]` whose rows `from..from + R` are `changed`
    /// `[B,R,3*heads*D]`: `out` `[B,T,heads*D]`, without dropout. A backend may compute once what copies share.
    fn attention_of_copies(
        &self,
        kept: &Tensor<Self>,
        changed: &Tensor<Self>,
        from: usize,
        spec: &Attention,
    ) -> Result<Tensor<Self>> {
        spec.check_copies(kept, changed, from)?;
        let [batch, rows, width] = changed.dims("attention_of_copies")?;
        let qkv = self.zeros(&[batch, kept.shape()[0], width])?;
        for b in 0..batch {
            self.copy(&qkv.view(b * kept.len(), kept.shape())?, kept)?;
            let place = qkv.view(b * kept.len() + from * width, &[rows, width])?;
            self.copy(&place, &changed.view(b * rows * width, &[rows, width])?)?;
        }
        Ok(self.attention(&qkv, spec, &self.new_step()?)?.0)
    }
    /// `dqkv` of [`Backend::attention`]. Takes `qkv` by value: a backend may write the gradient over it when nobody else
    /// holds that memory.
    fn attention_backward(
        &self,
        qkv: Tensor<Self>,
        out: &Tensor<Self>,
        lse: &Tensor<Self>,
        dout: &Tensor<Self>,
        spec: &Attention,
        step: &Self::Step,
    ) -> Result<Tensor<Self>>;

    // ---- element-wise and layout ------------------------------------------------------------------------------
    /// `max(inp, 0)`.
    fn relu(&self, inp: &Tensor<Self>) -> Result<Tensor<Self>>;
    /// `dinp = dout` where `out > 0`, else 0.
    fn relu_backward(&self, out: &Tensor<Self>, dout: &Tensor<Self>) -> Result<Tensor<Self>>;
    /// `inp` where it is positive, else `slope * inp`.
    fn leaky_relu(&self, inp: &Tensor<Self>, slope: f32) -> Result<Tensor<Self>>;
    /// `dinp = dout` where `out > 0`, else `slope * dout`; `slope` is positive, so that `out` tells the sign of the input.
    fn leaky_relu_backward(&self, out: &Tensor<Self>, dout: &Tensor<Self>, slope: f32) -> Result<Tensor<Self>>;
    /// Zeroes dropped elements and scales the others; its own backward pass.
    fn dropout(&self, inp: &Tensor<Self>, dropout: &Dropout, step: &Self::Step) -> Result<Tensor<Self>>;
    /// Joins `[B,L_i,C]` along positions.
    fn concat_length(&self, parts: &[&Tensor<Self>]) -> Result<Tensor<Self>>;
    /// Positions `start .. start + length` of `[B,L,C]`.
    fn slice_length(&self, inp: &Tensor<Self>, start: usize, length: usize) -> Result<Tensor<Self>>;
    /// `[A,B,C] → [B,A,C]`.
    fn swap_leading(&self, inp: &Tensor<Self>) -> Result<Tensor<Self>>;
    /// `[A,B,C] → [A,C,B]`.
    fn swap_trailing(&self, inp: &Tensor<Self>) -> Result<Tensor<Self>>;
    /// `out[b,c] = Σ_l inp[b,l,c]`.
    fn position_sum(&self, inp: &Tensor<Self>) -> Result<Tensor<Self>>;
    /// `dinp[b,l,c] = dout[b,c]`.
    fn position_sum_backward(&self, dout: &Tensor<Self>, length: usize) -> Result<Tensor<Self>>;

    // ---- readout and loss -------------------------------------------------------------------------------------
    /// Normalises `[B,C]`. Returns `out` and `saved`: per sample `[B,2]`, or `[1,2]` for the whole batch (mean, std).
    fn readout_norm(&self, inp: &Tensor<Self>, mode: ReadoutNorm) -> Result<(Tensor<Self>, Tensor<Self>)>;
    /// `dinp` of [`Backend::readout_norm`].
    fn readout_norm_backward(
        &self,
        out: &Tensor<Self>,
        saved: &Tensor<Self>,
        dout: &Tensor<Self>,
        mode: ReadoutNorm,
    ) -> Result<Tensor<Self>>;
    /// `logits` `[B,K]`, `labels` `[B]` (class numbers as floats), `weights` `[B]` → loss `[1]` =
    /// Σ_b w_b loss_b / Σ_b w_b, and probabilities `[B,K]` (`[B,2]` from the one logit of binary cross entropy).
    fn class_loss(
        &self,
        logits: &Tensor<Self>,
        labels: &Tensor<Self>,
        weights: &Tensor<Self>,
        kind: ClassLoss,
    ) -> Result<(Tensor<Self>, Tensor<Self>)>;
    /// `dlogits` `[B,K]` for `dloss` `[1]`.
    fn class_loss_backward(
        &self,
        probabilities: &Tensor<Self>,
        labels: &Tensor<Self>,
        weights: &Tensor<Self>,
        dloss: &Tensor<Self>,
        kind: ClassLoss,
    ) -> Result<Tensor<Self>>;
    /// Softmax over the last dimension.
    fn softmax(&self, logits: &Tensor<Self>) -> Result<Tensor<Self>>;
    /// `out = Σ_i factors[i] · terms[i]`, element by element and in this order; at least one term, all of one shape.
    fn weighted_sum(&self, terms: &[&Tensor<Self>], factors: &[f32]) -> Result<Tensor<Self>>;
    /// Value `[1]` of the L2 terms, Σ λ‖θ‖² over `ranges` (frozen ones too) of the flat `params` `[n]`.
    fn l2_penalty(&self, params: &Tensor<Self>, ranges: &[Range]) -> Result<Tensor<Self>>;

    // ---- autoencoders -----------------------------------------------------------------------------------------
    /// How `recon` `[B,L,4]` differs from one-hot DNA, which is never in memory: `[3]` = Σ (recon - onehot)² over all elements
    /// (N is all zeros), number of bases whose largest channel (the first of equals) is theirs, number of bases that are not N.
    fn reconstruction(&self, recon: &Tensor<Self>, dna: &Self::Dna) -> Result<Tensor<Self>>;
    /// `drecon = 2 dsquares (recon - onehot)` for the gradient `dsquares` `[1]` of the sum of squares.
    fn reconstruction_backward(
        &self,
        recon: &Tensor<Self>,
        dna: &Self::Dna,
        dsquares: &Tensor<Self>,
    ) -> Result<Tensor<Self>>;
    /// `out = mean + e^(log_variance / 2) noise`, all of one shape.
    fn sample_normal(
        &self,
        mean: &Tensor<Self>,
        log_variance: &Tensor<Self>,
        noise: &Noise,
        step: &Self::Step,
    ) -> Result<Tensor<Self>>;
    /// `dlog_variance = dout e^(log_variance / 2) noise / 2` of [`Backend::sample_normal`]; `dmean` is `dout`.
    fn sample_normal_backward(
        &self,
        log_variance: &Tensor<Self>,
        dout: &Tensor<Self>,
        noise: &Noise,
        step: &Self::Step,
    ) -> Result<Tensor<Self>>;
    /// Kullback-Leibler divergence of N(mean, e^log_variance) from N(0, 1), `[1]`: summed over a row of `[B,D]`, averaged over rows.
    fn kl_divergence(&self, mean: &Tensor<Self>, log_variance: &Tensor<Self>) -> Result<Tensor<Self>>;
    /// `dmean` and `dlog_variance` of [`Backend::kl_divergence`] for `dkl` `[1]`.
    fn kl_divergence_backward(
        &self,
        mean: &Tensor<Self>,
        log_variance: &Tensor<Self>,
        dkl: &Tensor<Self>,
    ) -> Result<(Tensor<Self>, Tensor<Self>)>;

    // ---- optimiser --------------------------------------------------------------------------------------------
    /// Euclidean norm of the gradients `[n]` over the ranges that are not frozen, after adding each range's 2λθ to the
    /// slot `grads`. Returns `[1]`.
    fn finish_gradients(&self, params: &Tensor<Self>, grads: &Tensor<Self>, ranges: &[Range]) -> Result<Tensor<Self>>;
    /// One Adam step on the flat buffers (slots `params`, `m`, `v`), `norm` from [`Backend::finish_gradients`].
    /// A step whose norm is not finite changes nothing, so that the last good parameters survive.
    #[allow(clippy::too_many_arguments)]
    fn adam(
        &self,
        params: &Tensor<Self>,
        grads: &Tensor<Self>,
        m: &Tensor<Self>,
        v: &Tensor<Self>,
        norm: &Tensor<Self>,
        ranges: &[Range],
        adam: &Adam,
        step: &Self::Step,
    ) -> Result<()>;
}
