//! Products of matrices, linear maps and column sums (kernels/gemm.cu, gemm_bf16.cu, reduce.cu).

use super::params::{Columns, CopyRows, Gemm};
use super::{Cuda, Memory, Precision, T, at, chunks, int, optional};
use crate::error::{Error, Result};

/// How the operands are stored: `Nt` A `[m,k]`, B `[n,k]`; `Nn` A `[m,k]`, B `[k,n]`; `Tn` A `[k,m]`, B `[k,n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    Nt,
    Nn,
    Tn,
}

/// `C[m,n] (+)= relu?(bias[n] + Σ_k A[m,k] B[k,n])` on dense device matrices given by address; `lda` and `ldb` are the
/// row pitches of the stored matrices, that of C is `n`.
pub struct Product {
    pub storage: Storage,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: u64,
    pub lda: usize,
    pub b: u64,
    pub ldb: usize,
    pub bias: u64,
    pub out: u64,
    pub accumulate: bool,
    pub relu: bool,
    /// Rows `k` of A with `k % period == period - 1` count as zero (`Tn` only; 0: none).
    pub mask_period: usize,
}

/// Blocks that keep any card busy; a constant, so that results do not depend on the card.
const BUSY: usize = 128;

impl Cuda {
    /// Runs a product. `Tn` sums over chunks of k whose partial sums are added in order.
    pub fn product(&self, p: &Product) -> Result<()> {
        const OP: &str = "gemm";
        if p.m == 0 || p.n == 0 {
            return Ok(());
        }
        let large = p.m.div_ceil(128) * p.n.div_ceil(128) >= BUSY;
        let (tile, size) = if large { (128, "large") } else { (64, "small") };
        let tiles = p.m.div_ceil(tile) * p.n.div_ceil(tile);
        let (k_chunk, pieces) = match p.storage {
            Storage::Tn => chunks(p.k, (2 * BUSY).div_ceil(tiles), 256, 32),
            _ => (p.k, 1),
        };
        let partial = if pieces > 1 { Some(self.scratch::<f32>(pieces * p.m * p.n)?) } else { None };
        let mut params = Gemm {
            m: int(OP, p.m)?,
            n: int(OP, p.n)?,
            k: int(OP, p.k)?,
            lda: int(OP, p.lda)?,
            ldb: int(OP, p.ldb)?,
            ldc: int(OP, p.n)?,
            k_chunk: int(OP, k_chunk)?,
            mask_period: int(OP, p.mask_period)?,
            accumulate: (p.accumulate && pieces == 1).into(),
            relu: p.relu.into(),
        };
        int(OP, pieces * p.m * p.n)?;
        let out = partial.as_ref().map_or(p.out, Memory::address);
        let grid = [p.n.div_ceil(tile), p.m.div_ceil(tile), pieces];
        let storage = ["nt", "nn", "tn"][p.storage as usize];
        match self.precision() {
            Precision::F32 => {
                let kernel = format!("gemm_{storage}_{size}");
                launch!(self, &kernel, grid, 256, 0; params, p.a, p.b, p.bias, out)?;
            }
            Precision::Bf16 => {
                let (rows_a, width_a) = if p.storage == Storage::Tn { (p.k, p.m) } else { (p.m, p.k) };
                let (rows_b, width_b) = if p.storage == Storage::Nt { (p.n, p.k) } else { (p.k, p.n) };
                let (a, lda) = self.to_bf16(p.a, rows_a, width_a, p.lda)?;
                let (b, ldb) = self.to_bf16(p.b, rows_b, width_b, p.ldb)?;
                (params.lda, params.ldb) = (int(OP, lda)?, int(OP, ldb)?);
                let kernel = format!("gemm_bf16_{storage}_{size}");
                let shared = 3 * 2 * tile * 32 * 2; // stages, operands, tile, bytes
                launch!(self, &kernel, grid, 256, shared; params, a.address(), b.address(), p.bias, out)?;
            }
        }
        if let Some(partial) = partial {
            params.accumulate = p.accumulate.into();
            let grid = [(p.m * p.n).div_ceil(256), 1, 1];
            launch!(self, "gemm_reduce", grid, 256, 0; params, pieces as i32, partial.address(), p.out)?;
        }
        Ok(())
    }

    /// A bf16 copy with rows padded by zeros to a multiple of 8; returns it with its pitch.
    fn to_bf16(&self, inp: u64, rows: usize, width: usize, pitch: usize) -> Result<(Memory, usize)> {
        const OP: &str = "to_bf16_rows";
        let padded = width.next_multiple_of(8);
        let out = self.scratch::<half::bf16>(rows * padded)?;
        int(OP, rows * padded)?;
        let params = CopyRows {
            rows: int(OP, rows)?,
            width: int(OP, width)?,
            src_pitch: int(OP, pitch)?,
            dst_pitch: int(OP, padded)?,
        };
        launch!(self, "to_bf16_rows", Self::spread(rows * padded / 2), 256, 0; params, inp, out.address())?;
        Ok((out, padded))
    }

    /// `out0[c] += Σ_r inp[r,c]`, and `out1` likewise where it is not null.
    pub fn column_sums(&self, inp: u64, rows: usize, columns: usize, out0: u64, out1: u64) -> Result<()> {
        const OP: &str = "column_sum";
        let (chunk, pieces) = chunks(rows, BUSY.div_ceil(columns.div_ceil(32).max(1)), 64, 8);
        let params = Columns { rows: int(OP, rows)?, columns: int(OP, columns)?, chunk: int(OP, chunk)? };
        let partial = self.scratch::<f32>(pieces * columns)?;
        let grid = [columns.div_ceil(32), pieces, 1];
        launch!(self, "column_sum_partial", grid, 256, 0; params, inp, partial.address())?;
        let grid = [columns.div_ceil(256), 1, 1];
        launch!(self, "column_sum_finish", grid, 256, 0; params, pieces as i32, partial.address(), out0, out1)
    }
}

/// `shape` with another last dimension.
fn with_last(shape: &[usize], last: usize) -> Vec<usize> {
    let mut shape = shape.to_vec();
    shape.pop();
    shape.push(last);
    shape
}

/// The last dimension of `tensor`, which must be `size`.
fn expect_last(op: &'static str, what: &str, tensor: &T, size: usize) -> Result<()> {
    if tensor.shape().last() == Some(&size) {
        return Ok(());
    }
    Err(Error::shape(op, format!("{what} must end in {size}, got shape {:?}", tensor.shape())))
}

pub fn forward(cuda: &Cuda, inp: &T, weight: &T, bias: Option<&T>, relu: bool) -> Result<T> {
    const OP: &str = "linear";
    let [outputs, inputs] = weight.dims(OP)?;
    expect_last(OP, "inp", inp, inputs)?;
    bias.map_or(Ok(()), |bias| bias.expect_shape(OP, "bias", &[outputs]))?;
    let out = cuda.empty(&with_last(inp.shape(), outputs))?;
    cuda.product(&Product {
        storage: Storage::Nt,
        m: inp.matrix().0,
        n: outputs,
        k: inputs,
        a: at(inp),
        lda: inputs,
        b: at(weight),
        ldb: inputs,
        bias: optional(bias),
        out: at(&out),
        accumulate: false,
        relu,
        mask_period: 0,
    })?;
    Ok(out)
}

pub fn backward_input(cuda: &Cuda, dout: &T, weight: &T) -> Result<T> {
    const OP: &str = "linear_backward_input";
    let [outputs, inputs] = weight.dims(OP)?;
    expect_last(OP, "dout", dout, outputs)?;
    let dinp = cuda.empty(&with_last(dout.shape(), inputs))?;
    cuda.product(&Product {
        storage: Storage::Nn,
        m: dout.matrix().0,
        n: inputs,
        k: outputs,
        a: at(dout),
        lda: outputs,
        b: at(weight),
        ldb: inputs,
        bias: 0,
        out: at(&dinp),
        accumulate: false,
        relu: false,
        mask_period: 0,
    })?;
    Ok(dinp)
}

pub fn backward_weight(cuda: &Cuda, inp: &T, dout: &T, dweight: Option<&T>, dbias: Option<&T>) -> Result<()> {
    const OP: &str = "linear_backward_weight";
    let (rows, inputs) = inp.matrix();
    let outputs = dout.matrix().1;
    dout.expect_shape(OP, "dout", &with_last(inp.shape(), outputs))?;
    if let Some(slot) = dweight {
        slot.expect_shape(OP, "dweight", &[outputs, inputs])?;
        cuda.product(&Product {
            storage: Storage::Tn,
            m: outputs,
            n: inputs,
            k: rows,
            a: at(dout),
            lda: outputs,
            b: at(inp),
            ldb: inputs,
            bias: 0,
            out: at(slot),
            accumulate: true,
            relu: false,
            mask_period: 0,
        })?;
    }
    if let Some(slot) = dbias {
        slot.expect_shape(OP, "dbias", &[outputs])?;
        cuda.column_sums(at(dout), rows, outputs, at(slot), 0)?;
    }
    Ok(())
}
