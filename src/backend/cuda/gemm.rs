//! Products of matrices, linear maps and column sums (kernels/gemm.cu, gemm_bf16.cu, reduce.cu).

use super::params::{Columns, CopyRows, Gemm, GemmBeside};
use super::{Cuda, Memory, Precision, T, at, chunks, int, optional};
use crate::error::{Error, Result};

/// How the operands are stored: `Nt` A `[m,k]`, B `[n,k]`; `Nn` A `[m,k]`, B `[k,n]`; `Tn` A `[k,m]`, B `[k,n]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    #[default]
    Nt,
    Nn,
    Tn,
}

/// `C[m,n] (+)= relu?(bias[n] + Σ_k A[m,k] B[k,n])` on dense device matrices given by address; `lda` and `ldb` are the
/// row pitches of the stored matrices, that of C is `n`.
#[derive(Clone, Copy, Debug, Default)]
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
    /// `Tn` with `lda` = m: `Σ_k A[m,k]` is added to these vectors as well (0: none).
    pub sums: [u64; 2],
    /// What tensor cores do besides.
    pub grouped: Grouped,
}

/// A second B `[k,n]` beside the first one of a `Tn` product, and where its columns go; see [`Cuda::product_beside`].
#[derive(Clone, Copy, Debug)]
pub struct Beside {
    pub b: u64,
    pub ldb: usize,
    pub n: usize,
    pub out: u64,
    /// Rows `k` with `k % period == edge` count as zero, and are not read.
    pub period: usize,
    pub edge: usize,
}

/// Several products as one; in bf16 only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grouped {
    /// A is bf16 already, its pitch and its contiguous extent multiples of 8, its address one of 16.
    pub packed_a: bool,
    /// B is bf16 already, its pitch a multiple of 8 (see [`Cuda::stack_bf16`]).
    pub packed_b: bool,
    /// C is two matrices `[m,n/2]`, one behind the other.
    pub halves: bool,
    /// The sum goes on over a second A and a second B, so many elements behind the first.
    pub second: Option<(usize, usize)>,
}

/// Blocks that keep any card busy; a constant, so that results do not depend on the card.
const BUSY: usize = 128;
/// Blocks of a tensor-core product that is cut along k: whole waves, or nearly, of 82 and of 132 multiprocessors.
const WAVES: usize = 246;
/// k from which on products of few tiles are cut whatever their storage.
const DEEP: usize = 2048;
/// Tile of the kernel with two matrices side by side.
const BESIDE: (usize, usize, usize) = (80, 104, 160);
/// Tiles of the tensor-core kernels: rows, columns, threads.
pub const TILES: [(usize, usize, usize); 3] = [(128, 128, 256), (128, 104, 256), (80, 104, 160)];

/// The tile that pads `m` and `n` least; a larger one before a smaller one.
fn tile(m: usize, n: usize) -> (usize, usize, usize) {
    tile_of(&TILES, m, n)
}

/// The first of `tiles` among those that pad `m` and `n` least.
pub fn tile_of(tiles: &[(usize, usize, usize)], m: usize, n: usize) -> (usize, usize, usize) {
    let padded = |(rows, columns, _): (usize, usize, usize)| m.next_multiple_of(rows) * n.next_multiple_of(columns);
    tiles.iter().copied().min_by_key(|&tile| padded(tile)).unwrap_or(TILES[0])
}

/// Whether the tensor-core kernels can read f32 rows of this address, pitch and width.
pub fn reads_f32(at: u64, pitch: usize, width: usize) -> bool {
    at.is_multiple_of(16) && pitch.is_multiple_of(4) && width.is_multiple_of(4)
}

/// Bytes of two stages of both operands (kernels/gemm_bf16.cu): k contiguous, or an odd number of 16-byte pieces a row.
pub fn shared_bf16(storage: Storage, rows: usize, columns: usize) -> usize {
    let steps = |lines: usize| if lines / 8 % 2 == 1 { lines } else { lines + 8 };
    let a = if storage == Storage::Tn { steps(rows) } else { rows };
    let b = if storage == Storage::Nt { columns } else { steps(columns) };
    2 * 32 * (a + b) * 2
}

impl Product {
    /// Whether the `Tn` product of a bf16 A of m columns and an f32 B of n can give the sums of A.
    pub fn has_room_for_sums(m: usize, b: u64, n: usize) -> bool {
        reads_f32(b, n, n) && !n.is_multiple_of(tile(m, n).1)
    }
    /// Whether a bf16 A of m columns can be multiplied by two f32 matrices at once: so they fit, and leave room for its sums.
    pub fn fits_beside(&self, beside: &Beside) -> bool {
        let n = self.n + beside.n;
        self.grouped.packed_a
            && reads_f32(self.b, self.ldb, self.n)
            && reads_f32(beside.b, beside.ldb, beside.n)
            && tile(self.m, n) == BESIDE
            && !n.is_multiple_of(BESIDE.1)
    }
    /// Rows and columns of A and of B as they are stored.
    fn stored(&self) -> [(usize, usize); 2] {
        let a = if self.storage == Storage::Tn { (self.k, self.m) } else { (self.m, self.k) };
        [a, if self.storage == Storage::Nt { (self.n, self.k) } else { (self.k, self.n) }]
    }
    /// Chunk of k and number of chunks, with about `blocks` blocks in all.
    fn cut(&self, tiles: usize, blocks: usize) -> (usize, usize) {
        let deep = self.k >= DEEP && tiles < BUSY && !self.grouped.halves;
        if self.storage == Storage::Tn || deep { chunks(self.k, blocks / tiles, 256, 32) } else { (self.k, 1) }
    }
    fn params(&self, k_chunk: usize) -> Result<Gemm> {
        const OP: &str = "gemm";
        let columns = if self.grouped.halves { self.n / 2 } else { self.n };
        let (part_a, part_b) = self.grouped.second.unwrap_or_default();
        for size in self.stored().map(|(rows, columns)| rows * columns).into_iter().chain([self.m * self.n]) {
            int(OP, size)?;
        }
        Ok(Gemm {
            m: int(OP, self.m)?,
            n: int(OP, self.n)?,
            k: int(OP, self.k)?,
            lda: int(OP, self.lda)?,
            ldb: int(OP, self.ldb)?,
            ldc: int(OP, columns)?,
            k_chunk: int(OP, k_chunk)?,
            mask_period: int(OP, self.mask_period)?,
            accumulate: self.accumulate.into(),
            relu: self.relu.into(),
            parts: 1 + i32::from(self.grouped.second.is_some()),
            part_a: int(OP, part_a)?,
            part_b: int(OP, part_b)?,
            split: if self.grouped.halves { int(OP, columns)? } else { i32::MAX },
            jump: int(OP, (self.m - 1) * columns)?,
            sums: 0,
        })
    }
}

impl Cuda {
    /// Runs a product. Where k is cut, the partial sums of its chunks are added in order.
    pub fn product(&self, p: &Product) -> Result<()> {
        if p.m == 0 || p.n == 0 {
            return Ok(());
        }
        match self.precision() {
            Precision::F32 => self.product_f32(p),
            Precision::Bf16 => self.product_bf16(p),
        }
    }

    fn product_f32(&self, p: &Product) -> Result<()> {
        let large = p.m.div_ceil(128) * p.n.div_ceil(128) >= BUSY;
        let (tile, size) = if large { (128, "large") } else { (64, "small") };
        let tiles = p.m.div_ceil(tile) * p.n.div_ceil(tile);
        let (k_chunk, pieces) = p.cut(tiles, (2 * BUSY).next_multiple_of(tiles));
        let grid = [p.n.div_ceil(tile), p.m.div_ceil(tile), pieces];
        let kernel = format!("gemm_{}_{size}", ["nt", "nn", "tn"][p.storage as usize]);
        self.in_pieces(
            p,
            p.params(k_chunk)?,
            pieces,
            0,
            |params, bias, out| launch!(self, &kernel, grid, 256, 0; params, p.a, p.b, bias, out),
        )?;
        self.sum_columns(p)
    }

    fn product_bf16(&self, p: &Product) -> Result<()> {
        const OP: &str = "gemm";
        let (rows, columns, threads) = tile(p.m, p.n);
        let tiles = p.m.div_ceil(rows) * p.n.div_ceil(columns);
        let (k_chunk, pieces) = p.cut(tiles, WAVES);
        let grid = [p.n.div_ceil(columns), p.m.div_ceil(rows), pieces];
        let mut params = p.params(k_chunk)?;
        let [stored_a, stored_b] = p.stored();
        let tn = p.storage == Storage::Tn;
        // One row of tiles reads B once: a copy of it would cost more than it spares.
        let once = p.m <= rows && (rows, columns) == (80, 104);
        let reads_b = !p.grouped.packed_b && (tn || once) && reads_f32(p.b, p.ldb, stored_b.1);
        let reads_a = !p.grouped.packed_a && reads_f32(p.a, p.lda, stored_a.1) && (reads_b || !tn);
        // Copies live until their launch was asked for.
        let (mut copy_a, mut copy_b) = (None, None);
        if !p.grouped.packed_a && !reads_a {
            let (copy, pitch) = self.to_bf16(p.a, stored_a, p.lda)?;
            (params.lda, copy_a) = (int(OP, pitch)?, Some(copy));
        }
        let reads_b = reads_b && (reads_a || tn && p.grouped.packed_a);
        if !p.grouped.packed_b && !reads_b {
            let (copy, pitch) = self.to_bf16(p.b, stored_b, p.ldb)?;
            (params.ldb, copy_b) = (int(OP, pitch)?, Some(copy));
        }
        let a = copy_a.as_ref().map_or(p.a, Memory::address);
        let b = copy_b.as_ref().map_or(p.b, Memory::address);
        // A column of ones in the padding of B gives the sums of A; a product in one piece would have to leave its place for it.
        let worth = pieces > 1 || p.grouped.packed_a;
        params.sums = (p.sums[0] != 0 && reads_b && worth && !p.n.is_multiple_of(columns)).into();
        let types = match (reads_a, reads_b) {
            (true, true) if !tn => "_f32",
            (true, _) => "",
            (false, true) => "_mixed",
            (false, false) => "_packed",
        };
        let kernel = format!("gemm_bf16_{}_{rows}x{columns}{types}", ["nt", "nn", "tn"][p.storage as usize]);
        let shared = shared_bf16(p.storage, rows, columns);
        self.in_pieces(
            p,
            params,
            pieces,
            0,
            |params, bias, out| launch!(self, &kernel, grid, threads, shared; params, a, b, bias, out),
        )?;
        if params.sums == 0 { self.sum_columns(p) } else { Ok(()) }
    }

    /// A `Tn` product with sums and, from the same A, that with a second B; [`Product::fits_beside`] says whether it can be.
    pub fn product_beside(&self, p: &Product, beside: &Beside) -> Result<()> {
        const OP: &str = "gemm";
        let (rows, columns, threads) = BESIDE;
        let both = Product { n: p.n + beside.n, ..*p };
        let tiles = both.m.div_ceil(rows) * both.n.div_ceil(columns);
        let (k_chunk, pieces) = both.cut(tiles, WAVES);
        let own = int(OP, p.n)?;
        let params = Gemm { ldc: own, split: own, sums: 1, ..both.params(k_chunk)? };
        let [pitch, period, edge] = [int(OP, beside.ldb)?, int(OP, beside.period)?, int(OP, beside.edge)?];
        let grid = [both.n.div_ceil(columns), both.m.div_ceil(rows), pieces];
        let shared = shared_bf16(Storage::Tn, rows, columns);
        self.in_pieces(&both, params, pieces, beside.out, |gemm, _, partial| {
            let params = GemmBeside { gemm, columns: own, pitch, period, edge };
            launch!(self, "gemm_bf16_tn_80x104_beside", grid, threads, shared; params, p.a, p.b, beside.b, partial)
        })
    }

    /// Launches `product` with parameters, bias and output: straight to the output, or to partial sums that are then added; where
    /// these are split, those of the columns beyond to `beside`.
    fn in_pieces(
        &self,
        p: &Product,
        params: Gemm,
        pieces: usize,
        beside: u64,
        product: impl FnOnce(Gemm, u64, u64) -> Result<()>,
    ) -> Result<()> {
        if pieces == 1 && params.sums == 0 {
            return product(params, p.bias, p.out);
        }
        let width = p.n + params.sums as usize;
        int("gemm", pieces * p.m * width)?;
        let partial = self.scratch::<f32>(pieces * p.m * width)?;
        let whole = Gemm { ldc: width as i32, split: i32::MAX, accumulate: 0, relu: 0, ..params };
        product(whole, 0, partial.address())?;
        let grid = [(p.m * width).div_ceil(256), 1, 1];
        launch!(self, "gemm_reduce", grid, 256, 0;
            params, pieces as i32, partial.address(), p.bias, p.out, beside, p.sums[0], p.sums[1])
    }

    /// The sums of A that a product asks for, by themselves.
    fn sum_columns(&self, p: &Product) -> Result<()> {
        if p.sums[0] == 0 {
            return Ok(());
        }
        if p.grouped.packed_a {
            return Err(Error::Unsupported { op: "gemm", message: "column sums of bf16 by themselves".into() });
        }
        self.column_sums(p.a, p.k, p.m, p.sums[0], p.sums[1])
    }

    /// Matrices `[rows,width]` as one bf16 matrix, one below the other; returns it with its pitch.
    pub fn stack_bf16(&self, matrices: &[u64], rows: usize, width: usize) -> Result<(Memory, usize)> {
        let pitch = width.next_multiple_of(8);
        let out = self.scratch::<half::bf16>(matrices.len() * rows * pitch)?;
        for (i, &matrix) in matrices.iter().enumerate() {
            self.round_rows(matrix, (rows, width), width, out.address() + (i * rows * pitch * 2) as u64)?;
        }
        Ok((out, pitch))
    }

    /// A bf16 copy with rows padded by zeros to a multiple of 8; returns it with its pitch.
    fn to_bf16(&self, inp: u64, size: (usize, usize), pitch: usize) -> Result<(Memory, usize)> {
        let padded = size.1.next_multiple_of(8);
        let out = self.scratch::<half::bf16>(size.0 * padded)?;
        self.round_rows(inp, size, pitch, out.address())?;
        Ok((out, padded))
    }

    fn round_rows(&self, inp: u64, (rows, width): (usize, usize), pitch: usize, out: u64) -> Result<()> {
        const OP: &str = "to_bf16_rows";
        let padded = width.next_multiple_of(8);
        int(OP, rows * padded)?;
        let params = CopyRows {
            rows: int(OP, rows)?,
            width: int(OP, width)?,
            src_pitch: int(OP, pitch)?,
            dst_pitch: int(OP, padded)?,
        };
        launch!(self, "to_bf16_rows", Self::spread(rows * padded / 2), 256, 0; params, inp, out)
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
        relu,
        ..Product::default()
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
        out: at(&dinp),
        ..Product::default()
    })?;
    Ok(dinp)
}

pub fn backward_weight(cuda: &Cuda, inp: &T, dout: &T, dweight: Option<&T>, dbias: Option<&T>) -> Result<()> {
    const OP: &str = "linear_backward_weight";
    let (rows, inputs) = inp.matrix();
    let outputs = dout.matrix().1;
    dout.expect_shape(OP, "dout", &with_last(inp.shape(), outputs))?;
    dbias.map_or(Ok(()), |slot| slot.expect_shape(OP, "dbias", &[outputs]))?;
    let Some(slot) = dweight else {
        return dbias.map_or(Ok(()), |slot| cuda.column_sums(at(dout), rows, outputs, at(slot), 0));
    };
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
        out: at(slot),
        accumulate: true,
        sums: [optional(dbias), 0],
        ..Product::default()
    })
}
