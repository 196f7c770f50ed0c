//! Strided convolution (kernels/conv1d.cu; on tensor cores conv1d_bf16.cu, where channels are multiples of 4).

use super::dna_conv::Dna;
use super::elementwise::leaky_relu_backward;
use super::gemm::{Product, Storage, TILES, reads_f32, shared_bf16, tile_of};
use super::params::{Conv, ConvGemm, ConvPack, Gemm};
use super::{Cuda, Memory, Precision, T, at, chunks, int, optional};
use crate::backend::Conv1d;
use crate::error::{Error, Result};
use bytemuck::Zeroable;

/// Launch parameters for `inp` `[B,L,I]` and a weight of `[O,I,K]`; the output must have positions.
fn params(op: &'static str, spec: Conv1d, inp: [usize; 3], outputs: usize, kernel: usize) -> Result<Conv> {
    let [batch, length, inputs] = inp;
    if spec.stride == 0 || kernel == 0 {
        return Err(Error::shape(op, format!("stride {} and kernel {kernel} must be at least 1", spec.stride)));
    }
    let out_length = spec.output_length(length, kernel);
    if out_length == 0 {
        let message = format!("{kernel} taps do not fit into {length} positions padded by {}", spec.padding);
        return Err(Error::shape(op, message));
    }
    int(op, batch * length * inputs.max(1))?;
    int(op, batch * out_length * outputs.max(1))?;
    int(op, outputs * inputs * kernel)?;
    Ok(Conv {
        batch: int(op, batch)?,
        length: int(op, length)?,
        inputs: int(op, inputs)?,
        outputs: int(op, outputs)?,
        kernel: int(op, kernel)?,
        stride: int(op, spec.stride)?,
        padding: int(op, spec.padding)?,
        out_length: int(op, out_length)?,
        k_chunk: 0,
        words: 0,
        slope: 1.0,
    })
}

/// Tiles of the kernels on tensor cores; the smallest of the products' is for rows fewer than convolutions have.
const CONV_TILES: &[(usize, usize, usize)] = TILES.split_at(2).0;
/// Blocks of a weight gradient: nearly whole waves of 82 multiprocessors, most of one of 132.
const WEIGHT_BLOCKS: usize = 572;
/// Most numbers an input sends through all taps to be added by `conv1d_fold`; beyond, the product is one for each phase.
const FOLDED: usize = 128;

/// Activations `[B,L,I]`, or DNA as four channels.
struct Inp<'a> {
    dims: [usize; 3],
    address: u64,
    words: usize,
    /// Prefix of the kernels that read it.
    kind: &'a str,
}

impl Inp<'_> {
    /// Its address as activations that tensor cores can read, with the memory that it lives in if it was made for this.
    fn windows(&self, cuda: &Cuda, p: Conv) -> Result<Option<(u64, Option<Memory>)>> {
        let [batch, length, channels] = self.dims;
        if cuda.precision() == Precision::F32 || !reads_f32(self.address, channels, channels) {
            return Ok(None);
        }
        if self.words == 0 {
            return Ok(Some((self.address, None)));
        }
        let one_hot = cuda.scratch::<f32>(batch * length * channels)?;
        launch!(cuda, "dna_one_hot", Cuda::spread(batch * length), 256, 0; p, self.address, one_hot.address())?;
        Ok(Some((one_hot.address(), Some(one_hot))))
    }
}

/// `p` as the product that reads `windows` of `inp` row by row, each `taps` x `channels` numbers.
struct Windows {
    /// Windows of a sequence and elements from one to the next.
    rows: usize,
    pitch: usize,
    /// Where the first one starts.
    origin: i32,
    /// Positions of a sequence.
    positions: usize,
    taps: usize,
    channels: usize,
}

impl Windows {
    /// Of the input of `p`.
    fn of_input(p: &Conv) -> Self {
        Self {
            rows: p.out_length as usize,
            pitch: (p.stride * p.inputs) as usize,
            origin: -p.padding * p.inputs,
            positions: p.length as usize,
            taps: p.kernel as usize,
            channels: p.inputs as usize,
        }
    }
    fn width(&self) -> usize {
        self.taps * self.channels
    }
    /// Parameters of a product that has them as one operand and leaves its rows where they are.
    fn params(&self, op: &'static str, gemm: Gemm, batch: usize) -> Result<ConvGemm> {
        int(op, batch * self.rows)?;
        Ok(ConvGemm {
            gemm: Gemm { split: i32::MAX, parts: 1, ..gemm },
            rows: int(op, self.rows)?,
            origin: self.origin,
            sample: int(op, self.positions * self.channels)?,
            step: 1,
            first: 0,
            length: int(op, self.rows)?,
            slope: 1.0,
        })
    }
}

/// Where the rows of a product go: row r of a sequence to position `r step + first` of `length`.
struct Places {
    step: usize,
    first: i32,
    length: usize,
}

/// What becomes of a result.
#[derive(Clone, Copy)]
pub enum Then<'a> {
    Nothing,
    /// LeakyReLU of this slope.
    Leaky(f32),
    /// It is the gradient of this output of a LeakyReLU of this slope, and goes on through it.
    Through(&'a T, f32),
}

impl Then<'_> {
    pub fn leaky(slope: Option<f32>) -> Self {
        slope.map_or(Then::Nothing, Then::Leaky)
    }
    fn check(&self, op: &'static str, shape: &[usize]) -> Result<()> {
        if let Then::Through(inp, _) = self { inp.expect_shape(op, "inp", shape) } else { Ok(()) }
    }
    /// Slope by the sign of the result itself.
    fn own_slope(&self) -> f32 {
        if let Then::Leaky(slope) = self { *slope } else { 1.0 }
    }
    /// Slope, and what has the sign that decides (0: the result).
    fn slope_and_signs(&self) -> (f32, u64) {
        if let Then::Through(inp, slope) = self { (*slope, at(inp)) } else { (self.own_slope(), 0) }
    }
    /// What is left to do after a kernel that knows `own_slope` alone.
    fn finish(&self, cuda: &Cuda, out: T) -> Result<T> {
        if let Then::Through(inp, slope) = self { leaky_relu_backward(cuda, inp, &out, *slope) } else { Ok(out) }
    }
}

/// `out[b, place(r), o] = leaky(bias[o] + Σ window[b,r] · weight[o])` on tensor cores; `pack` says how the weight is read.
fn rows_bf16(
    cuda: &Cuda,
    op: &'static str,
    windows: &Windows,
    places: &Places,
    pack: ConvPack,
    (batch, then): (usize, Then<'_>),
    (inp, weight, bias, out): (u64, u64, u64, u64),
) -> Result<()> {
    let (m, n, k) = (batch * windows.rows, pack.lines as usize, windows.width());
    let packed = cuda.scratch::<half::bf16>(n * pack.pitch as usize)?;
    launch!(cuda, "conv1d_pack_bf16", Cuda::spread(n * pack.pitch as usize), 256, 0; pack, weight, packed.address())?;
    let gemm = Gemm {
        m: int(op, m)?,
        n: int(op, n)?,
        k: int(op, k)?,
        lda: int(op, windows.pitch)?,
        ldb: pack.pitch,
        ldc: int(op, n)?,
        k_chunk: int(op, k)?,
        ..Gemm::zeroed()
    };
    let (slope, signs) = then.slope_and_signs();
    let p = ConvGemm {
        step: int(op, places.step)?,
        first: places.first,
        length: int(op, places.length)?,
        slope,
        ..windows.params(op, gemm, batch)?
    };
    let (rows, columns, threads) = tile_of(CONV_TILES, m, n);
    let grid = [n.div_ceil(columns), m.div_ceil(rows), 1];
    let name = format!("conv1d_bf16_rows_{rows}x{columns}");
    let shared = shared_bf16(Storage::Nt, rows, columns);
    launch!(cuda, &name, grid, threads, shared; p, inp, packed.address(), bias, signs, out)
}

fn dense(op: &'static str, inp: &T) -> Result<Inp<'static>> {
    Ok(Inp { dims: inp.dims(op)?, address: at(inp), words: 0, kind: "" })
}

fn bases(dna: &Dna) -> Inp<'static> {
    Inp { dims: [dna.batch, dna.length, 4], address: dna.planes.address(), words: dna.words, kind: "dna_" }
}

pub fn forward(
    cuda: &Cuda,
    op: &'static str,
    inp: &T,
    weight: &T,
    bias: Option<&T>,
    then: Then<'_>,
    spec: Conv1d,
) -> Result<T> {
    correlate(cuda, op, dense(op, inp)?, weight, bias, then, spec)
}

pub fn dna_forward(
    cuda: &Cuda,
    dna: &Dna,
    weight: &T,
    bias: Option<&T>,
    leaky: Option<f32>,
    spec: Conv1d,
) -> Result<T> {
    correlate(cuda, "dna_conv1d", bases(dna), weight, bias, Then::leaky(leaky), spec)
}

fn correlate(
    cuda: &Cuda,
    op: &'static str,
    inp: Inp<'_>,
    weight: &T,
    bias: Option<&T>,
    then: Then<'_>,
    spec: Conv1d,
) -> Result<T> {
    let [batch, _, inputs] = inp.dims;
    let [outputs, _, kernel] = weight.dims(op)?;
    weight.expect_shape(op, "weight", &[outputs, inputs, kernel])?;
    bias.map_or(Ok(()), |bias| bias.expect_shape(op, "bias", &[outputs]))?;
    let mut p = params(op, spec, inp.dims, outputs, kernel)?;
    (p.words, p.slope) = (int(op, inp.words)?, then.own_slope());
    let rows = batch * p.out_length as usize;
    let out = cuda.empty(&[batch, p.out_length as usize, outputs])?;
    then.check(op, out.shape())?;
    if let Some((address, _memory)) = inp.windows(cuda, p)? {
        let pack = ConvPack {
            lines: p.outputs,
            taps: p.kernel,
            channels: p.inputs,
            line_stride: p.inputs * p.kernel,
            channel_stride: p.kernel,
            first: 0,
            step: 1,
            pitch: int(op, (kernel * inputs).next_multiple_of(8))?,
        };
        let places = Places { step: 1, first: 0, length: p.out_length as usize };
        let addresses = (address, at(weight), optional(bias), at(&out));
        rows_bf16(cuda, op, &Windows::of_input(&p), &places, pack, (batch, then), addresses)?;
        return Ok(out);
    }
    let grid = [outputs.div_ceil(64), rows.div_ceil(64), 1];
    let name = format!("{}conv1d_forward", inp.kind);
    launch!(cuda, &name, grid, 256, 0; p, inp.address, at(weight), optional(bias), at(&out))?;
    then.finish(cuda, out)
}

/// The transposed convolution, which is also the input gradient of the plain one.
pub fn transposed(
    cuda: &Cuda,
    op: &'static str,
    inp: &T,
    weight: &T,
    bias: Option<&T>,
    then: Then<'_>,
    spec: Conv1d,
    length: usize,
) -> Result<T> {
    let [batch, _, _] = inp.dims(op)?;
    let [inputs, outputs, kernel] = weight.dims(op)?;
    // The plain convolution goes from our outputs to our inputs.
    let mut p = params(op, spec, [batch, length, outputs], inputs, kernel)?;
    p.slope = then.own_slope();
    inp.expect_shape(op, "inp", &[batch, p.out_length as usize, inputs])?;
    bias.map_or(Ok(()), |bias| bias.expect_shape(op, "bias", &[outputs]))?;
    let out = cuda.empty(&[batch, length, outputs])?;
    then.check(op, out.shape())?;
    let sources = p.out_length as usize;
    if outputs * kernel <= FOLDED {
        let taps = cuda.scratch::<f32>(batch * sources * outputs * kernel)?;
        cuda.product(&Product {
            storage: Storage::Nn,
            m: batch * sources,
            n: outputs * kernel,
            k: inputs,
            a: at(inp),
            lda: inputs,
            b: at(weight),
            ldb: outputs * kernel,
            out: taps.address(),
            ..Product::default()
        })?;
        let grid = Cuda::spread(batch * length * outputs);
        launch!(cuda, "conv1d_fold", grid, 256, 0; p, taps.address(), optional(bias), at(&out))?;
        return then.finish(cuda, out);
    }
    let rows = batch * (length + spec.padding).div_ceil(spec.stride);
    int(op, rows)?;
    if cuda.precision() == Precision::Bf16 && reads_f32(at(inp), inputs, inputs) {
        for phase in 0..spec.stride {
            let taps = kernel.saturating_sub(phase).div_ceil(spec.stride);
            // A window goes up in positions, so it meets its taps from the last to the first.
            let back = taps as i32 - 1;
            let windows = Windows {
                rows: rows / batch.max(1),
                pitch: inputs,
                origin: -back * p.outputs,
                positions: sources,
                taps,
                channels: inputs,
            };
            let pack = ConvPack {
                lines: p.inputs,
                taps: int(op, taps)?,
                channels: p.outputs,
                line_stride: p.kernel,
                channel_stride: p.inputs * p.kernel,
                first: phase as i32 + back * p.stride,
                step: -p.stride,
                pitch: int(op, (taps * inputs).next_multiple_of(8))?,
            };
            let places = Places { step: spec.stride, first: phase as i32 - p.padding, length };
            let addresses = (at(inp), at(weight), optional(bias), at(&out));
            rows_bf16(cuda, op, &windows, &places, pack, (batch, then), addresses)?;
        }
        return Ok(out);
    }
    let grid = [outputs.div_ceil(64), rows.div_ceil(64), spec.stride];
    launch!(cuda, "conv1d_transposed", grid, 256, 0; p, at(inp), at(weight), optional(bias), at(&out))?;
    then.finish(cuda, out)
}

pub fn backward_weight(
    cuda: &Cuda,
    inp: &T,
    dout: &T,
    spec: Conv1d,
    dweight: Option<&T>,
    dbias: Option<&T>,
) -> Result<()> {
    const OP: &str = "conv1d_backward_weight";
    weight_gradient(cuda, OP, dense(OP, inp)?, dout, spec, dweight, dbias)
}

pub fn dna_backward_weight(
    cuda: &Cuda,
    dna: &Dna,
    dout: &T,
    spec: Conv1d,
    dweight: Option<&T>,
    dbias: Option<&T>,
) -> Result<()> {
    weight_gradient(cuda, "dna_conv1d_backward_weight", bases(dna), dout, spec, dweight, dbias)
}

fn weight_gradient(
    cuda: &Cuda,
    op: &'static str,
    inp: Inp<'_>,
    dout: &T,
    spec: Conv1d,
    dweight: Option<&T>,
    dbias: Option<&T>,
) -> Result<()> {
    let [batch, _, inputs] = inp.dims;
    let [_, out_length, outputs] = dout.dims(op)?;
    dout.expect_shape(op, "dout", &[batch, out_length, outputs])?;
    if let Some(slot) = dweight {
        let [_, _, kernel] = slot.dims(op)?;
        slot.expect_shape(op, "dweight", &[outputs, inputs, kernel])?;
        let mut p = params(op, spec, inp.dims, outputs, kernel)?;
        p.words = int(op, inp.words)?;
        dout.expect_shape(op, "dout", &[batch, p.out_length as usize, outputs])?;
        let (columns, count) = (kernel * inputs, outputs * inputs * kernel);
        let windows = if reads_f32(at(dout), outputs, outputs) { inp.windows(cuda, p)? } else { None };
        let tile = if windows.is_some() { tile_of(CONV_TILES, outputs, columns) } else { (64, 64, 256) };
        let tiles = columns.div_ceil(tile.1) * outputs.div_ceil(tile.0);
        let blocks = if windows.is_some() { WEIGHT_BLOCKS / tiles.max(1) } else { 256usize.div_ceil(tiles.max(1)) };
        let (chunk, pieces) = chunks(batch * out_length, blocks, 256, 32);
        p.k_chunk = int(op, chunk)?;
        int(op, pieces * count)?;
        let partial = cuda.scratch::<f32>(pieces * count)?;
        let grid = [columns.div_ceil(tile.1), outputs.div_ceil(tile.0), pieces];
        if let Some((address, _memory)) = windows {
            let seen = Windows::of_input(&p);
            let gemm = Gemm {
                m: p.outputs,
                n: int(op, columns)?,
                k: int(op, batch * out_length)?,
                lda: p.outputs,
                ldb: int(op, seen.pitch)?,
                ldc: int(op, columns)?,
                k_chunk: p.k_chunk,
                ..Gemm::zeroed()
            };
            let name = format!("conv1d_bf16_weight_{}x{}", tile.0, tile.1);
            let shared = shared_bf16(Storage::Tn, tile.0, tile.1);
            let product = seen.params(op, gemm, batch)?;
            launch!(cuda, &name, grid, tile.2, shared; product, at(dout), address, partial.address())?;
        } else {
            let name = format!("{}conv1d_backward_weight", inp.kind);
            launch!(cuda, &name, grid, 256, 0; p, inp.address, at(dout), partial.address())?;
        }
        let grid = [count.div_ceil(256), 1, 1];
        launch!(cuda, "conv1d_weight_reduce", grid, 256, 0; p, pieces as i32, partial.address(), at(slot))?;
    }
    if let Some(slot) = dbias {
        slot.expect_shape(op, "dbias", &[outputs])?;
        cuda.column_sums(at(dout), batch * out_length, outputs, at(slot), 0)?;
    }
    Ok(())
}
