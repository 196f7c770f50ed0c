//! AVX2 with FMA: 8 lanes, 16 registers.

use std::arch::asm;
use std::arch::x86_64::*;

use super::Simd;

/// Proof that the machine has AVX2 and FMA. Products of bf16 (`BF16`) are shifts and two multiply-adds.
#[derive(Clone, Copy)]
pub struct Avx2<const BF16: bool>(());

impl<const BF16: bool> Avx2<BF16> {
    /// # Safety
    /// The machine must have AVX2 and FMA.
    #[inline(always)]
    pub unsafe fn assume() -> Self {
        Avx2(())
    }
}

static FIRST: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

// SAFETY (these three): only called by the methods of `Avx2`; `n <= 8`.
#[inline(always)]
unsafe fn first(n: usize) -> __m256i {
    unsafe { _mm256_loadu_si256(FIRST.as_ptr().add(8 - n).cast()) }
}
#[inline(always)]
unsafe fn lanes(bits: u32) -> __m256 {
    unsafe {
        let each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        let set = _mm256_and_si256(_mm256_set1_epi32(bits as i32), each);
        _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, each))
    }
}
#[inline(always)]
unsafe fn power(n: __m256i) -> __m256 {
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127)))) }
}

/// In the high halves of the lanes, rounded to nearest even, a NaN quiet; the low halves are unspecified.
#[inline(always)]
unsafe fn rounded(v: __m256) -> __m256i {
    unsafe {
        let bits = _mm256_castps_si256(v);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
        let quiet = _mm256_or_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(0x0040_0000)));
        _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(up), quiet, _mm256_cmp_ps::<_CMP_UNORD_Q>(v, v)))
    }
}
/// The terms in the low and in the high halves of words.
#[inline(always)]
unsafe fn terms(words: __m256) -> (__m256, __m256) {
    unsafe {
        let bits = _mm256_castps_si256(words);
        let high = _mm256_and_si256(bits, _mm256_set1_epi32(0xFFFF_0000_u32 as i32));
        (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits)), _mm256_castsi256_ps(high))
    }
}

/// One step of a tile of four rows by three vectors: its row of `b`, and where `a` has the four factors.
macro_rules! step {
    ($b:literal, $a0:literal, $a1:literal, $a2:literal, $a3:literal) => {
        concat!(
            "vmovups {b0}, [",
            $b,
            "]\nvmovups {b1}, [",
            $b,
            " + 32]\nvmovups {b2}, [",
            $b,
            " + 64]\n",
            "vbroadcastss {a}, dword ptr [",
            $a0,
            "]\n",
            "vfmadd231ps {s00}, {b0}, {a}\nvfmadd231ps {s01}, {b1}, {a}\nvfmadd231ps {s02}, {b2}, {a}\n",
            "vbroadcastss {a}, dword ptr [",
            $a1,
            "]\n",
            "vfmadd231ps {s10}, {b0}, {a}\nvfmadd231ps {s11}, {b1}, {a}\nvfmadd231ps {s12}, {b2}, {a}\n",
            "vbroadcastss {a}, dword ptr [",
            $a2,
            "]\n",
            "vfmadd231ps {s20}, {b0}, {a}\nvfmadd231ps {s21}, {b1}, {a}\nvfmadd231ps {s22}, {b2}, {a}\n",
            "vbroadcastss {a}, dword ptr [",
            $a3,
            "]\n",
            "vfmadd231ps {s30}, {b0}, {a}\nvfmadd231ps {s31}, {b1}, {a}\nvfmadd231ps {s32}, {b2}, {a}\n",
        )
    };
}

/// Four of these: 12 sums, 3 vectors of `b` and one factor are all 16 registers.
macro_rules! four_steps {
    ($sums:ident, [$($steps:expr),*], $($operands:tt)*) => {
        asm!(
            $($steps),*,
            s00 = inout(ymm_reg) $sums[0][0], s01 = inout(ymm_reg) $sums[0][1], s02 = inout(ymm_reg) $sums[0][2],
            s10 = inout(ymm_reg) $sums[1][0], s11 = inout(ymm_reg) $sums[1][1], s12 = inout(ymm_reg) $sums[1][2],
            s20 = inout(ymm_reg) $sums[2][0], s21 = inout(ymm_reg) $sums[2][1], s22 = inout(ymm_reg) $sums[2][2],
            s30 = inout(ymm_reg) $sums[3][0], s31 = inout(ymm_reg) $sums[3][1], s32 = inout(ymm_reg) $sums[3][2],
            b0 = out(ymm_reg) _, b1 = out(ymm_reg) _, b2 = out(ymm_reg) _, a = out(ymm_reg) _,
            $($operands)*
            options(readonly, nostack, preserves_flags)
        )
    };
}

/// [`Simd::four_steps`] of a row-major left side.
///
/// # Safety
/// As there; the machine has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn four_steps_rows(sums: &mut [[__m256; 3]; 4], rows: &[*const f32; 4], k: usize, b: *const f32, ldb: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        four_steps!(
            sums,
            [
                step!("{b}", "{r0} + 4*{k}", "{r1} + 4*{k}", "{r2} + 4*{k}", "{r3} + 4*{k}"),
                step!("{b} + 4*{n}", "{r0} + 4*{k} + 4", "{r1} + 4*{k} + 4", "{r2} + 4*{k} + 4", "{r3} + 4*{k} + 4"),
                step!("{b} + 8*{n}", "{r0} + 4*{k} + 8", "{r1} + 4*{k} + 8", "{r2} + 4*{k} + 8", "{r3} + 4*{k} + 8"),
                step!("{c}", "{r0} + 4*{k} + 12", "{r1} + 4*{k} + 12", "{r2} + 4*{k} + 12", "{r3} + 4*{k} + 12")
            ],
            b = in(reg) b, c = in(reg) b.wrapping_add(3 * ldb), n = in(reg) ldb, k = in(reg) k,
            r0 = in(reg) rows[0], r1 = in(reg) rows[1], r2 = in(reg) rows[2], r3 = in(reg) rows[3],
        )
    }
}

/// [`Simd::four_steps`] of a left side that lies step by step.
///
/// # Safety
/// As there; the machine has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn four_steps_across(sums: &mut [[__m256; 3]; 4], a: *const f32, lda: usize, b: *const f32, ldb: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        four_steps!(
            sums,
            [
                step!("{b}", "{p}", "{p} + 4", "{p} + 8", "{p} + 12"),
                step!("{b} + 4*{n}", "{p} + 4*{m}", "{p} + 4*{m} + 4", "{p} + 4*{m} + 8", "{p} + 4*{m} + 12"),
                step!("{b} + 8*{n}", "{p} + 8*{m}", "{p} + 8*{m} + 4", "{p} + 8*{m} + 8", "{p} + 8*{m} + 12"),
                step!("{c}", "{q}", "{q} + 4", "{q} + 8", "{q} + 12")
            ],
            b = in(reg) b, c = in(reg) b.wrapping_add(3 * ldb), n = in(reg) ldb,
            p = in(reg) a, q = in(reg) a.wrapping_add(3 * lda), m = in(reg) lda,
        )
    }
}

// SAFETY (all blocks below): an `Avx2` exists only where the instructions do; memory is the caller's promise.
impl<const BF16: bool> Simd for Avx2<BF16> {
    const N: usize = 8;
    const ROWS: usize = 4;
    const TERMS: usize = if BF16 { 2 } else { 1 };
    type F = __m256;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> __m256 {
        unsafe { if n == 8 { _mm256_loadu_ps(p) } else { _mm256_maskload_ps(p, first(n)) } }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, v: __m256, n: usize) {
        // A masked store takes a dozen cycles on some processors.
        unsafe { if n == 8 { _mm256_storeu_ps(p, v) } else { _mm256_maskstore_ps(p, first(n), v) } }
    }
    #[inline(always)]
    fn prefetch(self, p: *mut f32) {
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(p.cast()) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn multiply_add(self, a: __m256, b: __m256, sum: __m256) -> __m256 {
        if !BF16 {
            return self.fma(a, b, sum);
        }
        unsafe {
            let ((a0, a1), (b0, b1)) = (terms(a), terms(b));
            _mm256_fmadd_ps(a0, b0, _mm256_fmadd_ps(a1, b1, sum))
        }
    }
    #[inline(always)]
    fn zip(self, low: __m256, high: __m256) -> __m256 {
        unsafe {
            let low = _mm256_srli_epi32::<16>(rounded(low));
            _mm256_castsi256_ps(_mm256_blend_epi16::<0xAA>(low, rounded(high)))
        }
    }
    #[inline(always)]
    unsafe fn store_half(self, p: *mut u16, v: __m256) {
        unsafe {
            let halves = _mm256_srli_epi32::<16>(rounded(v));
            let halves = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(halves, halves));
            _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(halves))
        }
    }
    #[inline(always)]
    fn fnma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    fn recip(self, v: __m256) -> __m256 {
        unsafe { _mm256_div_ps(_mm256_set1_ps(1.0), v) }
    }
    #[inline(always)]
    fn round(self, v: __m256) -> __m256 {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v) }
    }
    #[inline(always)]
    fn ldexp(self, p: __m256, n: __m256, y: __m256) -> __m256 {
        unsafe {
            // 2^128 is infinity, and more must not wrap around.
            let n = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_set1_ps(128.0), n));
            let scaled = _mm256_mul_ps(p, power(n));
            let normal = _mm256_cmp_ps::<_CMP_NLT_UQ>(y, _mm256_set1_ps(-126.0));
            _mm256_and_ps(normal, scaled)
        }
    }
    #[inline(always)]
    fn keep(self, v: __m256, bits: u32) -> __m256 {
        unsafe { _mm256_and_ps(v, lanes(bits)) }
    }
    #[inline(always)]
    fn blend_n(self, v: __m256, w: __m256, n: usize) -> __m256 {
        unsafe { _mm256_blendv_ps(w, v, _mm256_castsi256_ps(first(n))) }
    }
    #[inline(always)]
    fn gt(self, a: __m256, b: __m256) -> u32 {
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) as u32 }
    }
    #[inline(always)]
    fn if_gt(self, a: __m256, b: __m256, v: __m256, w: __m256) -> __m256 {
        unsafe { _mm256_blendv_ps(w, v, _mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) }
    }
    #[inline(always)]
    fn select(self, bits: u32, v: __m256, w: __m256) -> __m256 {
        unsafe { _mm256_blendv_ps(w, v, lanes(bits)) }
    }
    #[inline(always)]
    unsafe fn four_steps<const M: usize, const V: usize, const T: bool>(
        self,
        sums: &mut [[__m256; V]; M],
        rows: &[*const f32; M],
        k0: usize,
        across: *const f32,
        lda: usize,
        down: *const f32,
        ldb: usize,
    ) -> bool {
        if BF16 || M != 4 || V != 3 {
            return false;
        }
        unsafe {
            // The same arrays, with their lengths as literals.
            let sums = &mut *std::ptr::from_mut(sums).cast::<[[__m256; 3]; 4]>();
            if T {
                four_steps_across(sums, across, lda, down, ldb);
            } else {
                four_steps_rows(sums, &*std::ptr::from_ref(rows).cast(), k0, down, ldb);
            }
        }
        true
    }
    #[inline(always)]
    fn sum(self, v: __m256) -> f32 {
        unsafe {
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }
    #[inline(always)]
    fn largest(self, v: __m256) -> f32 {
        unsafe {
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }
    }
    #[inline(always)]
    fn keep_bits(self, seed: u64, stream: u32, step: u32, first: u64, threshold: u32, out: &mut [u64]) {
        for (group, word) in out.iter_mut().enumerate() {
            *word = unsafe { philox(seed, stream, step, first + 8 * group as u64, threshold) };
        }
    }
}

/// 64 elements: eight Philox blocks, one per 64-bit lane. Only the low halves of the lanes count; `vpmuludq` ignores the rest,
/// so the low word of a product needs no masking.
#[inline(always)]
unsafe fn philox(seed: u64, stream: u32, step: u32, first: u64, threshold: u32) -> u64 {
    unsafe {
        let (m0, m1) = (_mm256_set1_epi64x(0xD251_1F53), _mm256_set1_epi64x(0xCD9E_8D57));
        let front = _mm256_add_epi64(_mm256_setr_epi64x(0, 1, 2, 3), _mm256_set1_epi64x(first as i64));
        let mut c0 = [front, _mm256_add_epi64(front, _mm256_set1_epi64x(4))];
        let mut c1 = [_mm256_srli_epi64::<32>(c0[0]), _mm256_srli_epi64::<32>(c0[1])];
        let mut c2 = [_mm256_set1_epi64x(stream.into()); 2];
        let mut c3 = [_mm256_set1_epi64x(step.into()); 2];
        let (mut k0, mut k1) = (seed as u32, (seed >> 32) as u32);
        for _ in 0..10 {
            let (key0, key1) = (_mm256_set1_epi64x(k0.into()), _mm256_set1_epi64x(k1.into()));
            for g in 0..2 {
                let p0 = _mm256_mul_epu32(c0[g], m0);
                let p1 = _mm256_mul_epu32(c2[g], m1);
                c0[g] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64::<32>(p1), c1[g]), key0);
                c2[g] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64::<32>(p0), c3[g]), key1);
                c1[g] = p1;
                c3[g] = p0;
            }
            k0 = k0.wrapping_add(0x9E37_79B9);
            k1 = k1.wrapping_add(0xBB67_AE85);
        }
        let limit = _mm256_set1_epi16(threshold as i16);
        let mut bits = 0;
        for g in 0..2 {
            let low = _mm256_blend_epi32::<0xAA>(c0[g], _mm256_slli_epi64::<32>(c1[g]));
            let high = _mm256_blend_epi32::<0xAA>(c2[g], _mm256_slli_epi64::<32>(c3[g]));
            // Halves of the first and third block, and of the second and fourth, which packing puts in order. A half that is kept
            // is the larger of itself and the limit.
            let (front, back) = (_mm256_unpacklo_epi64(low, high), _mm256_unpackhi_epi64(low, high));
            let front = _mm256_cmpeq_epi16(_mm256_max_epu16(front, limit), front);
            let back = _mm256_cmpeq_epi16(_mm256_max_epu16(back, limit), back);
            let kept = _mm256_movemask_epi8(_mm256_packs_epi16(front, back)) as u32;
            bits |= u64::from(kept) << (32 * g);
        }
        bits
    }
}
