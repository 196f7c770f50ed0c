//! The register tile of matrix products: 8 rows by 3 vectors, `A` broadcast, `B` in packed panels of 3 vectors. Operands lie in
//! words of 32 bits: floats, or pairs of bf16 ([`Simd::TERMS`]); a step along `k` is a word.

use std::mem::MaybeUninit;

use super::simd::Simd;

/// Vectors of a panel.
pub const VECTORS: usize = 3;

/// `Σ_k a(i,k) b(k,·)` for `M` rows, `V` vectors and `depth` words. `a(i,k)` is `a[i*lda + k]`, or `a[k*lda + i]` if `T`; row
/// `k` of `b` starts at `b[k*ldb]`.
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
        // Where shifts take the place of an instruction for pairs, a step is long enough by itself.
        let unrolled = S::TERMS == 1 || S::ROWS == 8;
        while unrolled && k + 4 <= depth {
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
                sums[i][v] = s.multiply_add(left, right[v], sums[i][v]);
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
