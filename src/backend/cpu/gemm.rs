//! Matrix products on a register tile of 8 rows by 3 vectors: `A` is broadcast, `B` lies in packed panels of 3 vectors.
//!
//! Every element is one chain of multiply-adds in the order of `k` (cut every [`DEPTH`]), whatever the tile or the shard it
//! falls into: a row's bits do not depend on the other rows.

use std::mem::MaybeUninit;

use super::Cpu;
use super::memory::Buffer;
use super::parallel::{Ptr, shards};
use super::simd::{Simd, kernel};
use crate::error::Result;

/// Vectors of a panel.
pub const VECTORS: usize = 3;
/// Rows of `A` and of `B` between two visits of `C`.
const DEPTH: usize = 512;
/// Rows of `C` that one shard of [`multiply`] computes.
pub const ROWS: usize = 128;
/// Rows of the sum that one packed block of [`accumulate_transposed`] covers, and columns of `A` that it packs at a time.
pub const BLOCK: usize = 256;

/// `Σ_k a(i,k) b(k,·)` for `M` rows and `V` vectors. `a(i,k)` is `a[i*lda + k]`, or `a[k*lda + i]` if `T`; row `k` of `b` starts
/// at `b[k*ldb]`.
///
/// # Safety
/// All of that is readable.
#[inline(always)]
pub unsafe fn tile<S: Simd, const M: usize, const V: usize, const T: bool>(
    s: S,
    depth: usize,
    a: *const f32,
    lda: usize,
    b: *const f32,
    ldb: usize,
) -> [[S::F; V]; M] {
    // SAFETY: the caller's promise.
    unsafe {
        if M * V <= S::ROWS * VECTORS {
            return piece::<S, M, V, T>(s, depth, a, lda, b, ldb);
        }
        // Fewer registers: the same tile in two halves. Nothing is written first: that would be a call of `memset`.
        let mut out = MaybeUninit::<[[S::F; V]; M]>::uninit();
        let rows = out.as_mut_ptr().cast::<[S::F; V]>();
        let skip = if T { 4 } else { 4 * lda };
        assert!(M == 8, "a tile has one row or eight");
        let upper = piece::<S, 4, V, T>(s, depth, a, lda, b, ldb);
        for i in 0..4 {
            rows.add(i).write(upper[i]);
        }
        let lower = piece::<S, 4, V, T>(s, depth, a.add(skip), lda, b, ldb);
        for i in 0..4 {
            rows.add(4 + i).write(lower[i]);
        }
        out.assume_init()
    }
}

#[inline(always)]
unsafe fn piece<S: Simd, const M: usize, const V: usize, const T: bool>(
    s: S,
    depth: usize,
    a: *const f32,
    lda: usize,
    b: *const f32,
    ldb: usize,
) -> [[S::F; V]; M] {
    // SAFETY: the caller of `tile` promised.
    unsafe {
        let mut sums = [[s.splat(0.0); V]; M];
        let mut rows = [a; M];
        if !T {
            // One register a row: without `opaque` the compiler derives each row from the one before, and those
            // additions take the ports of the multiply-adds.
            for i in 0..M {
                rows[i] = opaque(a.add(i * lda));
            }
        }
        let mut k = 0;
        let (mut across, mut down) = (a, b);
        while k + 4 <= depth {
            if !s.four_steps::<M, V, T>(&mut sums, &rows, k, across, lda, down, ldb) {
                for u in 0..4 {
                    step::<S, M, V, T>(s, &mut sums, &rows, k + u, across.wrapping_add(u * lda), down.add(u * ldb));
                }
            }
            k += 4;
            across = across.wrapping_add(4 * lda);
            down = down.add(4 * ldb);
        }
        while k < depth {
            step::<S, M, V, T>(s, &mut sums, &rows, k, across, down);
            k += 1;
            across = across.wrapping_add(lda);
            down = down.add(ldb);
        }
        sums
    }
}

/// One step along `k`.
#[inline(always)]
unsafe fn step<S: Simd, const M: usize, const V: usize, const T: bool>(
    s: S,
    sums: &mut [[S::F; V]; M],
    rows: &[*const f32; M],
    k: usize,
    across: *const f32,
    down: *const f32,
) {
    // SAFETY: the caller of `tile` promised.
    unsafe {
        let mut right = [s.splat(0.0); V];
        for v in 0..V {
            right[v] = s.load(down.add(v * S::N));
        }
        for i in 0..M {
            let left = s.splat(if T { *across.add(i) } else { *rows[i].add(k) });
            for v in 0..V {
                sums[i][v] = s.fma(left, right[v], sums[i][v]);
            }
        }
    }
}

/// The same pointer, of which the compiler knows nothing.
// The empty block looks at the address only, never at what it points to.
#[allow(clippy::pointers_in_nomem_asm_block)]
#[inline(always)]
fn opaque(p: *const f32) -> *const f32 {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        let mut p = p;
        // SAFETY: no instruction.
        unsafe { std::arch::asm!("/* {0} */", inout(reg) p, options(pure, nomem, nostack, preserves_flags)) };
        p
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    p
}

/// What happens to a product on its way to memory.
#[derive(Clone, Copy)]
pub struct Epilogue {
    /// `C += …` instead of `C = …`.
    pub accumulate: bool,
    /// Added to every row.
    pub bias: Option<Ptr>,
    pub relu: bool,
    /// Slope of a LeakyReLU, in (0, 1].
    pub leaky: Option<f32>,
}

impl Epilogue {
    pub const STORE: Epilogue = Epilogue { accumulate: false, bias: None, relu: false, leaky: None };
    pub const ADD: Epilogue = Epilogue { accumulate: true, bias: None, relu: false, leaky: None };
}

/// `B` `[k,n]` in panels of `VECTORS` vectors, each `[k, width]` and zero-padded.
pub struct Panels {
    data: Buffer,
    pub k: usize,
    pub n: usize,
    width: usize,
}

impl Panels {
    /// Floats that a packed `k × n` matrix takes.
    fn size(cpu: &Cpu, k: usize, n: usize) -> usize {
        n.div_ceil(cpu.panel()) * cpu.panel() * k
    }
    /// Memory for a matrix whose rows [`Panels::fill`] will write.
    pub fn new(cpu: &Cpu, k: usize, n: usize) -> Result<Self> {
        let data = cpu.take(Self::size(cpu, k, n))?;
        Ok(Panels { data, k, n, width: cpu.panel() })
    }
    /// Rows `k0..k0 + rows`: element `(k,n)` is `source[(k - k0) * k_step + n * n_step]`.
    pub fn fill(&self, k0: usize, rows: usize, source: &[f32], k_step: usize, n_step: usize) {
        assert!(k0 + rows <= self.k);
        if rows == 0 || self.n == 0 {
            return;
        }
        assert!((rows - 1) * k_step + (self.n - 1) * n_step < source.len());
        let out = Ptr(self.data.as_ptr());
        shards(self.n.div_ceil(self.width), |panel| {
            let columns = self.width.min(self.n - panel * self.width);
            // SAFETY: each panel is written by one shard; the source was checked above.
            let panel_out = unsafe { out.slice((panel * self.k + k0) * self.width, rows * self.width) };
            for (r, row) in panel_out.chunks_exact_mut(self.width).enumerate() {
                for (c, x) in row.iter_mut().enumerate() {
                    *x = if c < columns { source[r * k_step + (panel * self.width + c) * n_step] } else { 0.0 };
                }
            }
        });
    }
    /// The weight `[n,k]` of a linear map, to be multiplied from the right as `[k,n]`.
    pub fn transposed(cpu: &Cpu, weight: &[f32], n: usize, k: usize) -> Result<Self> {
        let out = Self::new(cpu, k, n)?;
        out.fill(0, k, weight, 1, k);
        Ok(out)
    }
    /// A row-major matrix `[k,n]`.
    pub fn plain(cpu: &Cpu, matrix: &[f32], k: usize, n: usize) -> Result<Self> {
        let out = Self::new(cpu, k, n)?;
        out.fill(0, k, matrix, n, 1);
        Ok(out)
    }
    /// Start of the packed data.
    pub fn ptr(&self) -> Ptr {
        Ptr(self.data.as_ptr())
    }
}

/// `C [m,n] = A [m,k] · B` over all cores; rows of `A` are `lda` apart (they may overlap), those of `C` `ldc`.
///
/// # Safety
/// `a` and `c` cover those rows, and `c` is the caller's alone.
pub unsafe fn multiply(cpu: &Cpu, m: usize, a: Ptr, lda: usize, b: &Panels, c: Ptr, ldc: usize, epilogue: Epilogue) {
    let (k, n, data, width) = (b.k, b.n, b.ptr(), b.width);
    let isa = cpu.isa();
    // Few rows: share the columns among the cores instead. Neither cut changes any element's bits.
    let columns = if m <= ROWS { 8 * width } else { n.max(1) };
    let across = n.div_ceil(columns);
    shards(m.div_ceil(ROWS) * across, |shard| {
        let (row, column) = (shard / across * ROWS, shard % across * columns);
        let bias = epilogue.bias.map(|bias| bias.skip(column));
        // SAFETY: the caller's promise; shards are disjoint parts of `C`.
        unsafe {
            block(
                isa,
                [ROWS.min(m - row), k, columns.min(n - column)],
                Ptr(a.at(row * lda)),
                lda,
                Ptr(data.at(column * k)),
                Ptr(c.at(row * ldc + column)),
                ldc,
                Epilogue { bias, ..epilogue },
            )
        }
    });
}

kernel! {
    /// [`multiply`] on one core: `[m, k, n]`, `b` as [`Panels`] lay it out.
    pub unsafe fn block<S>(s, size: [usize; 3], a: Ptr, lda: usize, b: Ptr, c: Ptr, ldc: usize, epilogue: Epilogue) {
        // SAFETY: the caller's promise.
        unsafe { product(s, size, a, lda, b, c, ldc, epilogue) }
    }
}

/// The body of [`block`], for other kernels.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
pub unsafe fn product<S: Simd>(
    s: S,
    [m, k, n]: [usize; 3],
    a: Ptr,
    lda: usize,
    b: Ptr,
    c: Ptr,
    ldc: usize,
    epilogue: Epilogue,
) {
    let width = VECTORS * S::N;
    let mut k0 = 0;
    loop {
        let depth = DEPTH.min(k - k0);
        let part = Epilogue {
            accumulate: epilogue.accumulate || k0 > 0,
            bias: epilogue.bias.filter(|_| k0 == 0),
            relu: epilogue.relu && k0 + depth == k,
            leaky: epilogue.leaky.filter(|_| k0 + depth == k),
        };
        let mut column = 0;
        while column < n {
            let columns = width.min(n - column);
            // SAFETY: the caller's promise.
            unsafe {
                let panel = b.at(column * k + k0 * width);
                let mut row = 0;
                while row < m {
                    let (a, c) = (a.at(row * lda + k0), c.at(row * ldc + column));
                    if m - row >= 8 {
                        strip::<S, 8, false>(s, depth, a, lda, panel, c, ldc, columns, part, column);
                        row += 8;
                    } else {
                        strip::<S, 1, false>(s, depth, a, lda, panel, c, ldc, columns, part, column);
                        row += 1;
                    }
                }
            }
            column += width;
        }
        k0 += depth;
        if k0 >= k {
            return;
        }
    }
}

/// One tile of `M` rows with as many vectors as `columns` need.
#[inline(always)]
unsafe fn strip<S: Simd, const M: usize, const T: bool>(
    s: S,
    depth: usize,
    a: *const f32,
    lda: usize,
    panel: *const f32,
    c: *mut f32,
    ldc: usize,
    columns: usize,
    epilogue: Epilogue,
    column: usize,
) {
    let width = VECTORS * S::N;
    // SAFETY: the caller of `product` promised.
    unsafe {
        for i in 0..M {
            for v in 0..columns.div_ceil(16) {
                s.prefetch(c.wrapping_add(i * ldc + v * 16));
            }
        }
        match columns.div_ceil(S::N) {
            1 => {
                let sums = tile::<S, M, 1, T>(s, depth, a, lda, panel, width);
                finish(s, sums, c, ldc, columns, epilogue, column)
            }
            2 => {
                let sums = tile::<S, M, 2, T>(s, depth, a, lda, panel, width);
                finish(s, sums, c, ldc, columns, epilogue, column)
            }
            _ => {
                let sums = tile::<S, M, 3, T>(s, depth, a, lda, panel, width);
                finish(s, sums, c, ldc, columns, epilogue, column)
            }
        }
    }
}

#[inline(always)]
unsafe fn finish<S: Simd, const M: usize, const V: usize>(
    s: S,
    sums: [[S::F; V]; M],
    c: *mut f32,
    ldc: usize,
    columns: usize,
    epilogue: Epilogue,
    column: usize,
) {
    // SAFETY: the caller of `product` promised; the bias has as many elements as `C` has columns.
    unsafe {
        for v in 0..V {
            let n = S::N.min(columns - v * S::N);
            let mut bias = s.splat(0.0);
            if let Some(all) = epilogue.bias {
                bias = s.load_n(all.at(column + v * S::N), n);
            }
            for i in 0..M {
                let to = c.add(i * ldc + v * S::N);
                let mut x = sums[i][v];
                if epilogue.accumulate {
                    x = s.add(s.load_n(to, n), x);
                }
                x = s.add(x, bias);
                if epilogue.relu {
                    x = s.max(s.splat(0.0), x);
                }
                if let Some(slope) = epilogue.leaky {
                    x = s.max(s.mul(s.splat(slope), x), x);
                }
                s.store_n(to, x, n);
            }
        }
    }
}

/// Floats of scratch that [`accumulate_transposed`] needs.
pub fn transposed_scratch(cpu: &Cpu, m: usize, n: usize) -> usize {
    BLOCK * (m.min(BLOCK).next_multiple_of(8) + n.next_multiple_of(cpu.panel()))
}

kernel! {
    /// `C [m,n] += Σ_r a[r,·] b[r,·]` over `rows` rows, on one core.
    ///
    /// # Safety
    /// The pointers cover their matrices; `c` and `scratch` ([`transposed_scratch`]) are the caller's alone.
    pub unsafe fn accumulate_transposed<S>(s, rows: usize, m: usize, n: usize, a: Ptr, lda: usize, b: Ptr, ldb: usize, c: Ptr, ldc: usize, scratch: Ptr) {
        let width = VECTORS * S::N;
        // Blocks of equal size, so that the last one is not a stub.
        let depth = rows.div_ceil(rows.div_ceil(BLOCK).max(1));
        // SAFETY: the caller's promise.
        unsafe {
            let (left, right) = (scratch.0, scratch.at(BLOCK * m.min(BLOCK).next_multiple_of(8)));
            let mut row = 0;
            while row < rows {
                let depth = depth.min(rows - row);
                for column in (0..n).step_by(width) {
                    let to = right.add(column * depth);
                    for r in 0..depth {
                        for v in 0..VECTORS {
                            let at = column + v * S::N;
                            let count = S::N.min(n.saturating_sub(at));
                            let x = s.load_n(b.0.wrapping_add((row + r) * ldb + at), count);
                            s.store(to.add(r * width + v * S::N), x);
                        }
                    }
                }
                // Columns of `a` are packed in parts that stay in the second-level cache while all of `b` passes by.
                let mut first = 0;
                while first < m {
                    let part = BLOCK.min(m - first);
                    pack_left(left, depth, part, a.skip(row * lda + first), lda);
                    // A right side that fits the first-level cache stays there, and rows of `c` are walked along.
                    let inner = if depth * n <= 1 << 13 { n } else { width };
                    for outer in (0..n).step_by(inner.max(1)) {
                        for i in (0..part).step_by(8) {
                            for column in (outer..n.min(outer + inner)).step_by(width) {
                                let (a, b) = (left.add(i * depth), right.add(column * depth));
                                let columns = width.min(n - column);
                                let to = c.at((first + i) * ldc + column);
                                if part - i >= 8 {
                                    strip::<S, 8, true>(s, depth, a, 8, b, to, ldc, columns, Epilogue::ADD, 0);
                                } else {
                                    for j in 0..part - i {
                                        strip::<S, 1, true>(s, depth, a.add(j), 8, b, to.add(j * ldc), ldc, columns, Epilogue::ADD, 0);
                                    }
                                }
                            }
                        }
                    }
                    first += part;
                }
                row += depth;
            }
        }
    }
}

/// `m` columns of `depth` rows of `a`, in groups of eight columns, each `[depth, 8]` and zero-padded.
#[inline(always)]
unsafe fn pack_left(left: *mut f32, depth: usize, m: usize, a: Ptr, lda: usize) {
    // SAFETY: the caller of `accumulate_transposed` promised.
    unsafe {
        for i in (0..m).step_by(8) {
            let (count, to) = (8.min(m - i), left.add(i * depth));
            for r in 0..depth {
                let from = a.at(r * lda + i);
                if count == 8 {
                    to.add(r * 8).cast::<[f32; 8]>().write_unaligned(from.cast::<[f32; 8]>().read_unaligned());
                } else {
                    for j in 0..8 {
                        *to.add(r * 8 + j) = if j < count { *from.add(j) } else { 0.0 };
                    }
                }
            }
        }
    }
}

/// `Σ_r a[r,·] b[r,·]` `[m,n]` of two row-major matrices over all cores, in shards of rows that are added in order.
///
/// # Safety
/// The pointers cover `rows` rows of `m` and `n` elements, `lda` and `ldb` apart.
pub unsafe fn multiply_transposed(
    cpu: &Cpu,
    rows: usize,
    m: usize,
    n: usize,
    a: Ptr,
    lda: usize,
    b: Ptr,
    ldb: usize,
) -> Result<Buffer> {
    // Enough shards for many cores, unless the partial sums would take more memory than the matrices themselves.
    let split = (rows / 512).clamp(1, 32).min(((1 << 24) / (m * n).max(1)).max(1));
    // With few row shards, cut the rows of the result too.
    let stripe = if split >= 8 { m } else { m.div_ceil(8).next_multiple_of(8).max(64) };
    let stripes = m.div_ceil(stripe.max(1));
    let length = rows.div_ceil(split);
    let partial = cpu.take(split * m * n)?;
    let need = transposed_scratch(cpu, stripe, n);
    let (isa, out) = (cpu.isa(), Ptr(partial.as_ptr()));
    let scratch = cpu.take(need * split * stripes)?;
    let space = Ptr(scratch.as_ptr());
    shards(split * stripes, |shard| {
        let (part, i) = (shard / stripes, shard % stripes * stripe);
        let (first, count) = (part * length, stripe.min(m - i));
        let length = length.min(rows.saturating_sub(first));
        // SAFETY: the caller's promise; each shard has its own rows of its own partial sum, and its own scratch.
        unsafe {
            let c = out.slice(part * m * n + i * n, count * n);
            c.fill(0.0);
            let (a, b) = (a.skip(first * lda + i), b.skip(first * ldb));
            accumulate_transposed(
                isa,
                length,
                count,
                n,
                a,
                lda,
                b,
                ldb,
                Ptr(c.as_mut_ptr()),
                n,
                Ptr(space.at(shard * need)),
            );
        }
    });
    add_parts(out, split, m * n);
    Ok(partial)
}

/// Adds `parts` consecutive arrays of `len` into the first, in order.
pub fn add_parts(parts: Ptr, count: usize, len: usize) {
    const CHUNK: usize = 1 << 14;
    shards(len.div_ceil(CHUNK), |chunk| {
        let (start, size) = (chunk * CHUNK, CHUNK.min(len - chunk * CHUNK));
        // SAFETY: chunks are disjoint.
        let sum = unsafe { parts.slice(start, size) };
        for part in 1..count {
            // SAFETY: another part than the one that is written.
            let more = unsafe { parts.slice(part * len + start, size) };
            for (s, x) in sum.iter_mut().zip(more) {
                *s += *x;
            }
        }
    });
}
