//! Matrix products on the register tile, `B` packed into panels. Products of floats read `A` where it lies; those of bf16
//! round blocks of it into words first.
//!
//! Every element is one chain of multiply-adds in the order of `k` (cut every [`DEPTH`] words), whatever the tile or the shard it
//! falls into: a row's bits do not depend on the other rows.

#[cfg(test)]
mod tests;

use super::Cpu;
use super::memory::Buffer;
use super::parallel::{Ptr, shards, shards_with};
use super::simd::{Simd, kernel, word};
use super::tile::{VECTORS, tile};
use crate::error::Result;

/// Words of a row of `A` and of a column of `B` between two visits of `C`.
const DEPTH: usize = 512;
/// Rows of `C` that one shard of [`multiply`] computes.
pub const ROWS: usize = 128;
/// Words along the sum that one packed block of [`accumulate_transposed`] covers, and columns of `A` that it packs at a time.
pub const BLOCK: usize = 256;

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

/// The left side of a product.
#[derive(Clone, Copy)]
pub struct Left {
    at: Ptr,
    row: usize,
    space: Option<Ptr>,
}

impl Left {
    /// Rows of floats that are `row` apart (they may overlap); bf16 needs [`left_scratch`] of `space`.
    pub fn floats(at: Ptr, row: usize, space: Ptr) -> Self {
        Left { at, row, space: Some(space) }
    }
    /// Rows that lie as words already, `row` words apart.
    pub fn words(at: Ptr, row: usize) -> Self {
        Left { at, row, space: None }
    }
}

/// Floats of scratch that a left side of `m` rows of `k` floats needs.
pub fn left_scratch(cpu: &Cpu, m: usize, k: usize) -> usize {
    if cpu.target().bf16 { m * half_row(k.min(2 * DEPTH), 16) } else { 0 }
}

/// Words that a row of `k` bf16 takes, in whole vectors of `lanes`.
pub fn half_row(k: usize, lanes: usize) -> usize {
    k.next_multiple_of(lanes) / 2
}

/// Rounds `rows` rows of `k` floats, `row` apart, to rows of bf16 that are `pitch` words apart ([`half_row`] at least).
///
/// # Safety
/// The pointers cover those rows.
#[inline(always)]
pub unsafe fn halve<S: Simd>(s: S, rows: usize, k: usize, from: *const f32, row: usize, to: *mut f32, pitch: usize) {
    for r in 0..rows {
        // SAFETY: the caller's promise.
        unsafe {
            let (from, to) = (from.add(r * row), to.add(r * pitch).cast::<u16>());
            for i in (0..k).step_by(S::N) {
                s.store_half(to.add(i), s.load_n(from.add(i), S::N.min(k - i)));
            }
        }
    }
}

kernel! {
    /// Turns floats into words where they lie, for bf16.
    ///
    /// # Safety
    /// The floats are the caller's alone, whole vectors of them.
    pub unsafe fn halve_in_place<S: Product>(s, floats: Ptr, len: usize) {
        if S::TERMS == 2 {
            // SAFETY: the caller's promise; what is written lies before what is still to be read.
            unsafe { halve(s, 1, len, floats.0, 0, floats.0, 0) }
        }
    }
}

/// `B` `[k,n]` in panels of `VECTORS` vectors, each `[words of k, width]` and zero-padded.
pub struct Panels {
    data: Buffer,
    pub k: usize,
    pub n: usize,
    width: usize,
    terms: usize,
}

impl Panels {
    /// Memory for a matrix whose rows [`Panels::fill`] will write.
    pub fn new(cpu: &Cpu, k: usize, n: usize) -> Result<Self> {
        let (width, terms) = (cpu.panel(), cpu.target().terms());
        let data = cpu.take(n.next_multiple_of(width) * k.div_ceil(terms))?;
        Ok(Panels { data, k, n, width, terms })
    }
    /// Rows `k0..k0 + rows`, of which the first begins a word and what the last leaves of one is 0: element `(k,n)` is
    /// `source[(k - k0) * k_step + n * n_step]`.
    pub fn fill(&self, k0: usize, rows: usize, source: &[f32], k_step: usize, n_step: usize) {
        assert!(k0 + rows <= self.k && k0.is_multiple_of(self.terms));
        if rows == 0 || self.n == 0 {
            return;
        }
        assert!((rows - 1) * k_step + (self.n - 1) * n_step < source.len());
        let (out, terms, words) = (Ptr(self.data.as_ptr()), self.terms, self.k.div_ceil(self.terms));
        shards(self.n.div_ceil(self.width), |panel| {
            let columns = self.width.min(self.n - panel * self.width);
            let (first, count) = (panel * words + k0 / terms, rows.div_ceil(terms));
            // SAFETY: each panel is written by one shard; the source was checked above.
            let panel_out = unsafe { out.slice(first * self.width, count * self.width) };
            for (r, row) in panel_out.chunks_exact_mut(self.width).enumerate() {
                let (r, at) = (r * terms, r * terms * k_step + panel * self.width * n_step);
                row[columns..].fill(0.0);
                for (c, x) in row[..columns].iter_mut().enumerate() {
                    let at = at + c * n_step;
                    *x = match terms {
                        1 => source[at],
                        _ => word(source[at], if r + 1 < rows { source[at + k_step] } else { 0.0 }),
                    };
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
pub unsafe fn multiply(
    cpu: &Cpu,
    m: usize,
    a: Ptr,
    lda: usize,
    b: &Panels,
    c: Ptr,
    ldc: usize,
    epilogue: Epilogue,
) -> Result<()> {
    let (k, n, data, width) = (b.k, b.n, b.ptr(), b.width);
    let (target, words) = (cpu.target(), k.div_ceil(b.terms));
    // Few rows: share the columns among the cores instead. Neither cut changes any element's bits.
    let columns = if m <= ROWS { 8 * width } else { n.max(1) };
    let across = n.div_ceil(columns);
    shards_with(cpu, m.div_ceil(ROWS) * across, left_scratch(cpu, ROWS.min(m), k), |shard, space| {
        let (row, column) = (shard / across * ROWS, shard % across * columns);
        let bias = epilogue.bias.map(|bias| bias.skip(column));
        // SAFETY: the caller's promise; shards are disjoint parts of `C`.
        unsafe {
            block(
                target,
                [ROWS.min(m - row), k, columns.min(n - column)],
                Left::floats(Ptr(a.at(row * lda)), lda, space),
                Ptr(data.at(column * words)),
                Ptr(c.at(row * ldc + column)),
                ldc,
                Epilogue { bias, ..epilogue },
            )
        }
    })
}

kernel! {
    /// [`multiply`] on one core: `[m, k, n]`, `b` as [`Panels`] lay it out.
    pub unsafe fn block<S: Product>(s, size: [usize; 3], a: Left, b: Ptr, c: Ptr, ldc: usize, epilogue: Epilogue) {
        // SAFETY: the caller's promise.
        unsafe { product(s, size, a, b, c, ldc, epilogue) }
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
    left: Left,
    b: Ptr,
    c: Ptr,
    ldc: usize,
    epilogue: Epilogue,
) {
    let (width, words) = (VECTORS * S::N, k.div_ceil(S::TERMS));
    let mut k0 = 0;
    loop {
        let depth = DEPTH.min(words - k0);
        let part = Epilogue {
            accumulate: epilogue.accumulate || k0 > 0,
            bias: epilogue.bias.filter(|_| k0 == 0),
            relu: epilogue.relu && k0 + depth == words,
            leaky: epilogue.leaky.filter(|_| k0 + depth == words),
        };
        let (mut a, mut lda) = (left.at.skip(k0), left.row);
        if let Some(space) = left.space.filter(|_| S::TERMS == 2) {
            let floats = (2 * depth).min(k - 2 * k0);
            let from = left.at.skip(2 * k0);
            (a, lda) = (space, half_row(floats, S::N));
            // SAFETY: the caller's promise.
            unsafe { halve(s, m, floats, from.0, left.row, space.0, lda) }
        }
        let mut column = 0;
        while column < n {
            let columns = width.min(n - column);
            // SAFETY: the caller's promise.
            unsafe {
                let panel = b.at(column * words + k0 * width);
                let mut row = 0;
                while row < m {
                    let (a, c) = (a.at(row * lda), c.at(row * ldc + column));
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
        if k0 >= words {
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
    pub unsafe fn accumulate_transposed<S: Product>(s, rows: usize, m: usize, n: usize, a: Ptr, lda: usize, b: Ptr, ldb: usize, c: Ptr, ldc: usize, scratch: Ptr) {
        let width = VECTORS * S::N;
        // Blocks of equal size, so that the last one is not a stub.
        let depth = rows.div_ceil(rows.div_ceil(BLOCK * S::TERMS).max(1));
        // SAFETY: the caller's promise.
        unsafe {
            let (left, right) = (scratch.0, scratch.at(BLOCK * m.min(BLOCK).next_multiple_of(8)));
            let mut row = 0;
            while row < rows {
                let count = depth.min(rows - row);
                let depth = count.div_ceil(S::TERMS);
                for column in (0..n).step_by(width) {
                    let to = right.add(column * depth);
                    for r in 0..depth {
                        for v in 0..VECTORS {
                            let at = column + v * S::N;
                            let lanes = S::N.min(n.saturating_sub(at));
                            let from = b.0.wrapping_add((row + r * S::TERMS) * ldb + at);
                            s.store(to.add(r * width + v * S::N), down(s, from, ldb, count - r * S::TERMS, lanes));
                        }
                    }
                }
                // Columns of `a` are packed in parts that stay in the second-level cache while all of `b` passes by.
                let mut first = 0;
                while first < m {
                    let part = BLOCK.min(m - first);
                    pack_left(s, left, count, part, a.skip(row * lda + first), lda);
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
                row += count;
            }
        }
    }
}

/// Words of `lanes` columns at `from` and, for bf16, of the row below if `rows` are left.
#[inline(always)]
unsafe fn down<S: Simd>(s: S, from: *const f32, row: usize, rows: usize, lanes: usize) -> S::F {
    // SAFETY: the caller of `accumulate_transposed` promised.
    unsafe {
        let x = s.load_n(from, lanes);
        if S::TERMS == 1 {
            return x;
        }
        s.zip(x, if rows > 1 { s.load_n(from.add(row), lanes) } else { s.splat(0.0) })
    }
}

/// `m` columns of `rows` rows of `a`, in groups of eight columns, each `[words of rows, 8]` and zero-padded.
#[inline(always)]
unsafe fn pack_left<S: Simd>(s: S, left: *mut f32, rows: usize, m: usize, a: Ptr, lda: usize) {
    let depth = rows.div_ceil(S::TERMS);
    // SAFETY: the caller of `accumulate_transposed` promised.
    unsafe {
        for i in (0..m).step_by(8) {
            let (count, to) = (8.min(m - i), left.add(i * depth));
            for r in 0..depth {
                let from = a.at(r * S::TERMS * lda + i);
                if S::TERMS == 2 {
                    s.store_n(to.add(r * 8), down(s, from, lda, rows - 2 * r, count), 8);
                } else if count == 8 {
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
    let (target, out) = (cpu.target(), Ptr(partial.as_ptr()));
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
                target,
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
