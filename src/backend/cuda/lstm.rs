//! Bidirectional LSTM layers (kernels/lstm.cu, lstm_resident.cu, lstm_mma.cu; products by gemm).

use super::gemm::{Beside, Grouped, Product, Storage};
use super::params::LstmParams;
use super::{Cuda, Memory, Precision, T, at, int, optional};
use crate::backend::{Gate, LstmWeights};
use crate::error::{Error, Result};

type Weights = [LstmWeights<Cuda>; 2];

/// Which recurrence runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LstmVariant {
    /// The fastest one for the shape and the card.
    #[default]
    Auto,
    /// Any number of hidden units; weights are read every step.
    General,
    /// Weights in registers, one or two sequences a block, for some shapes. Both give the same bits.
    Resident1,
    Resident2,
    /// On tensor cores, eight sequences a block, for some shapes in bf16: few blocks, for several models on one card.
    TensorCores,
}

/// A variant for a layer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Recurrence {
    General,
    /// Sequences a block.
    Resident(usize),
    TensorCores,
}

/// Hidden units that the register-resident recurrence was made for, with sigmoid gates.
const RESIDENT: [usize; 2] = [100, 50];
/// Hidden units and sequences per block of that on tensor cores.
const TENSOR_CORES: (usize, usize) = (100, 8);
/// Sequences per block of the general recurrence.
const SEQUENCES: usize = 4;
/// What the general backward recurrence can hold in shared memory.
const MAX_HIDDEN: usize = (99 << 10) / (SEQUENCES * 6 * 4);

/// What backward needs; it overwrites `gates`.
pub struct Saved {
    /// `[2,B,T,4H]` activated gates.
    gates: Memory,
    /// `[2,B,T,H]` cell states.
    cells: Memory,
    /// `[B,T,2H]`, what the layer gave.
    out: T,
}

/// Sizes of a layer.
#[derive(Clone, Copy)]
struct Dims {
    batch: usize,
    time: usize,
    inputs: usize,
    hidden: usize,
}

impl Dims {
    fn of(op: &'static str, inp: &T, weights: &Weights) -> Result<Self> {
        let [batch, time, inputs] = inp.dims(op)?;
        let [_, hidden] = weights[0].weight_hh.dims(op)?;
        if time == 0 || hidden == 0 {
            return Err(Error::shape(op, format!("{time} time steps of {hidden} hidden units")));
        }
        if hidden > MAX_HIDDEN {
            return Err(Error::Unsupported { op, message: format!("{hidden} hidden units; at most {MAX_HIDDEN}") });
        }
        let dims = Dims { batch, time, inputs, hidden };
        dims.check(op, weights)?;
        Ok(dims)
    }
    fn check(&self, op: &'static str, weights: &Weights) -> Result<()> {
        let rows = 4 * self.hidden;
        for w in weights {
            w.weight_ih.expect_shape(op, "weight_ih", &[rows, self.inputs])?;
            w.weight_hh.expect_shape(op, "weight_hh", &[rows, self.hidden])?;
            w.bias_ih.expect_shape(op, "bias_ih", &[rows])?;
            w.bias_hh.as_ref().map_or(Ok(()), |bias| bias.expect_shape(op, "bias_hh", &[rows]))?;
        }
        Ok(())
    }
    fn rows(&self) -> usize {
        self.batch * self.time
    }
    /// Address of direction `d` of a `[2,B,T,4H]` buffer.
    fn gates_at(&self, gates: &Memory, d: usize) -> u64 {
        gates.address() + (d * self.rows() * 4 * self.hidden * 4) as u64
    }
    fn params(&self, op: &'static str, gate: Gate, save: bool) -> Result<LstmParams> {
        Ok(LstmParams {
            batch: int(op, self.batch)?,
            time: int(op, self.time)?,
            hidden: int(op, self.hidden)?,
            hard: (gate == Gate::HardSigmoid).into(),
            save: save.into(),
        })
    }
    fn recurrence(&self, cuda: &Cuda, gate: Gate) -> Recurrence {
        let tensor_cores = cuda.precision() == Precision::Bf16 && self.hidden == TENSOR_CORES.0;
        match cuda.lstm {
            _ if !RESIDENT.contains(&self.hidden) || gate == Gate::HardSigmoid => Recurrence::General,
            LstmVariant::General => Recurrence::General,
            LstmVariant::Resident1 => Recurrence::Resident(1),
            LstmVariant::Resident2 => Recurrence::Resident(2),
            LstmVariant::TensorCores if tensor_cores => Recurrence::TensorCores,
            LstmVariant::Auto if tensor_cores && cuda.models > 1 => Recurrence::TensorCores,
            // One block fills a multiprocessor: one sequence a block as long as all blocks of all models run at once.
            _ if 2 * self.batch * cuda.models <= cuda.device().multiprocessors() => Recurrence::Resident(1),
            _ => Recurrence::Resident(2),
        }
    }
    /// Kernel of a pass of a recurrence with its weights on chip, its blocks and its threads; none of the general one.
    fn on_chip(&self, recurrence: Recurrence, pass: &str) -> Option<(String, [usize; 3], usize)> {
        let blocks = |sequences| [self.batch.div_ceil(sequences), 2, 1];
        match recurrence {
            Recurrence::General => None,
            // Four threads for two units.
            Recurrence::Resident(sequences) => Some((
                format!("lstm_resident_{pass}_{}_{sequences}", self.hidden),
                blocks(sequences),
                (2 * self.hidden).next_multiple_of(32),
            )),
            // A warp for eight units; backward two warps for sixteen.
            Recurrence::TensorCores => {
                let warps = if pass == "forward" { self.hidden.div_ceil(8) } else { 2 * self.hidden.div_ceil(16) };
                Some((format!("lstm_mma_{pass}"), blocks(TENSOR_CORES.1), 32 * warps))
            }
        }
    }
    /// Threads of the general recurrence.
    fn threads(&self) -> usize {
        self.hidden.next_multiple_of(32).min(512)
    }
}

pub fn forward(cuda: &Cuda, inp: &T, weights: &Weights, gate: Gate, save: bool) -> Result<(T, Option<Saved>)> {
    const OP: &str = "lstm";
    let dims = Dims::of(OP, inp, weights)?;
    let Dims { batch, time, hidden, .. } = dims;
    let (rows, columns) = (dims.rows(), 4 * hidden);
    let p = dims.params(OP, gate, save)?;
    let gates = cuda.scratch::<f32>(2 * rows * columns)?;
    let cells = cuda.scratch::<f32>(if save { 2 * rows * hidden } else { 1 })?;
    project(cuda, dims, inp, weights, &gates)?;
    let out = cuda.empty(&[batch, time, 2 * hidden])?;
    let [w0, w1] = [at(&weights[0].weight_hh), at(&weights[1].weight_hh)];
    if let Some((kernel, grid, threads)) = dims.on_chip(dims.recurrence(cuda, gate), "forward") {
        launch!(cuda, &kernel, grid, threads, 0; p, w0, w1, gates.address(), cells.address(), at(&out))?;
    } else {
        let packed = cuda.scratch::<f32>(2 * columns * hidden)?;
        launch!(cuda, "lstm_pack", [(hidden * hidden).div_ceil(256), 2, 1], 256, 0; p, w0, w1, packed.address())?;
        let shared = 2 * (SEQUENCES * hidden * 4).next_multiple_of(16) + (SEQUENCES * hidden * 4);
        launch!(cuda, "lstm_forward", [batch.div_ceil(SEQUENCES), 2, 1], dims.threads(), shared;
            p, packed.address(), gates.address(), cells.address(), at(&out))?;
    }
    let saved = save.then(|| Saved { gates, cells, out: out.clone() });
    Ok((out, saved))
}

pub fn backward(
    cuda: &Cuda,
    inp: &T,
    weights: &Weights,
    gate: Gate,
    saved: Saved,
    dout: &T,
    grads: Option<&Weights>,
    need_input: bool,
) -> Result<Option<T>> {
    const OP: &str = "lstm_backward";
    let dims = Dims::of(OP, inp, weights)?;
    let Dims { batch, time, hidden, .. } = dims;
    dout.expect_shape(OP, "dout", &[batch, time, 2 * hidden])?;
    grads.map_or(Ok(()), |grads| dims.check(OP, grads))?;
    let p = dims.params(OP, gate, true)?;
    let Saved { gates, cells, out } = saved;
    let [w0, w1] = [at(&weights[0].weight_hh), at(&weights[1].weight_hh)];
    // Products round the gradients of the gates to bf16: where the recurrence can, it does so itself.
    let on_chip = dims.on_chip(dims.recurrence(cuda, gate), "backward");
    let rounded = cuda.precision() == Precision::Bf16
        && on_chip.is_some()
        && Product::has_room_for_sums(4 * hidden, at(inp), dims.inputs);
    let mut dgates = DGates { rounded, memory: gates };
    if let Some((mut kernel, grid, threads)) = on_chip {
        kernel.push_str(if rounded { "_bf16" } else { "" });
        let gates = dgates.memory.address();
        if rounded {
            let result = cuda.scratch::<half::bf16>(2 * dims.rows() * 4 * hidden)?;
            launch!(cuda, &kernel, grid, threads, 0; p, w0, w1, gates, cells.address(), at(dout), result.address())?;
            dgates.memory = result;
        } else {
            launch!(cuda, &kernel, grid, threads, 0; p, w0, w1, gates, cells.address(), at(dout))?;
        }
    } else {
        let shared = SEQUENCES * 6 * hidden * 4;
        launch!(cuda, "lstm_backward", [batch.div_ceil(SEQUENCES), 2, 1], dims.threads(), shared;
            p, w0, w1, dgates.memory.address(), cells.address(), at(dout))?;
    }
    if let Some(grads) = grads {
        for (d, slots) in grads.iter().enumerate() {
            weight_gradients(cuda, dims, d, inp, &out, &dgates, slots)?;
        }
    }
    if !need_input {
        return Ok(None);
    }
    let dinp = cuda.empty(inp.shape())?;
    input_gradient(cuda, dims, weights, &dgates, &dinp)?;
    Ok(Some(dinp))
}

/// `[2,B,T,4H]` gradients of the gates before activation, in f32 or rounded to bf16.
struct DGates {
    memory: Memory,
    rounded: bool,
}

impl DGates {
    /// Address of row `row` of direction `d`.
    fn at(&self, dims: Dims, d: usize, row: usize) -> u64 {
        let size = if self.rounded { 2 } else { 4 };
        self.memory.address() + ((d * dims.rows() + row) * 4 * dims.hidden * size) as u64
    }
}

/// `gates[d] = inp W_ih[d]ᵀ + bias`; on tensor cores both directions as one product, so that `inp` is read once.
fn project(cuda: &Cuda, dims: Dims, inp: &T, weights: &Weights, gates: &Memory) -> Result<()> {
    let (rows, columns) = (dims.rows(), 4 * dims.hidden);
    let bias = cuda.scratch::<f32>(2 * columns)?;
    let bias_of = |d: usize| bias.address() + (d * columns * 4) as u64;
    for (d, w) in weights.iter().enumerate() {
        let grid = Cuda::spread(columns);
        launch!(cuda, "add_vectors", grid, 256, 0;
            columns as i32, at(&w.bias_ih), optional(w.bias_hh.as_ref()), bias_of(d))?;
    }
    let one = |d: usize| Product {
        m: rows,
        n: columns,
        k: dims.inputs,
        a: at(inp),
        lda: dims.inputs,
        b: at(&weights[d].weight_ih),
        ldb: dims.inputs,
        bias: bias_of(d),
        out: dims.gates_at(gates, d),
        ..Product::default()
    };
    if cuda.precision() == Precision::F32 {
        return [0, 1].into_iter().try_for_each(|d| cuda.product(&one(d)));
    }
    let (stacked, pitch) = stack(cuda, dims, weights)?;
    let grouped = Grouped { packed_b: true, halves: true, ..Grouped::default() };
    cuda.product(&Product { n: 2 * columns, b: stacked.address(), ldb: pitch, grouped, ..one(0) })
}

/// `dinp = Σ_d dgates[d] W_ih[d]`; on tensor cores as one sum over both directions.
fn input_gradient(cuda: &Cuda, dims: Dims, weights: &Weights, dgates: &DGates, dinp: &T) -> Result<()> {
    let (rows, columns) = (dims.rows(), 4 * dims.hidden);
    let one = |d: usize| Product {
        storage: Storage::Nn,
        m: rows,
        n: dims.inputs,
        k: columns,
        a: dgates.at(dims, d, 0),
        lda: columns,
        b: at(&weights[d].weight_ih),
        ldb: dims.inputs,
        out: at(dinp),
        accumulate: d == 1,
        ..Product::default()
    };
    if cuda.precision() == Precision::F32 {
        return [0, 1].into_iter().try_for_each(|d| cuda.product(&one(d)));
    }
    let (stacked, pitch) = stack(cuda, dims, weights)?;
    let second = Some((rows * columns, columns * pitch));
    let grouped = Grouped { packed_a: dgates.rounded, packed_b: true, second, halves: false };
    cuda.product(&Product { b: stacked.address(), ldb: pitch, grouped, ..one(0) })
}

/// `W_ih` of both directions in bf16, one below the other, and the pitch.
fn stack(cuda: &Cuda, dims: Dims, weights: &Weights) -> Result<(Memory, usize)> {
    cuda.stack_bf16(&[at(&weights[0].weight_ih), at(&weights[1].weight_ih)], 4 * dims.hidden, dims.inputs)
}

/// `dW_ih += dgatesᵀ inp`, `dW_hh += dgatesᵀ h_before`, `dbias += Σ dgates`, at once where tensor cores can. The state before
/// row (b,t) is the neighbouring row of `out`; the pair that straddles two sequences (the first step of one) is masked.
fn weight_gradients(
    cuda: &Cuda,
    dims: Dims,
    d: usize,
    inp: &T,
    out: &T,
    dgates: &DGates,
    slots: &LstmWeights<Cuda>,
) -> Result<()> {
    let Dims { time, inputs, hidden, .. } = dims;
    let (rows, columns) = (dims.rows(), 4 * hidden);
    let ih = Product {
        storage: Storage::Tn,
        m: columns,
        n: inputs,
        k: rows,
        a: dgates.at(dims, d, 0),
        lda: columns,
        b: at(inp),
        ldb: inputs,
        out: at(&slots.weight_ih),
        accumulate: true,
        sums: [at(&slots.bias_ih), optional(slots.bias_hh.as_ref())],
        grouped: Grouped { packed_a: dgates.rounded, ..Grouped::default() },
        ..Product::default()
    };
    // Direction 0 pairs gates row r + 1 with out row r, direction 1 the reverse.
    let (states, row) = (at(out) + (d * hidden * 4) as u64, (2 * hidden * 4) as u64);
    let beside = Beside {
        b: if d == 0 { states.wrapping_sub(row) } else { states + row },
        ldb: 2 * hidden,
        n: hidden,
        out: at(&slots.weight_hh),
        period: time,
        edge: if d == 0 { 0 } else { time - 1 },
    };
    if cuda.precision() == Precision::Bf16 && ih.fits_beside(&beside) {
        return cuda.product_beside(&ih, &beside);
    }
    cuda.product(&ih)?;
    if time == 1 {
        return Ok(());
    }
    cuda.product(&Product {
        n: hidden,
        k: rows - 1,
        a: dgates.at(dims, d, usize::from(d == 0)),
        b: if d == 0 { states } else { beside.b },
        ldb: beside.ldb,
        out: beside.out,
        mask_period: time,
        sums: [0, 0],
        ..ih
    })
}
