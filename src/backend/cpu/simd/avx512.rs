//! AVX-512: 16 lanes, 32 registers.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::Simd;

/// Proof that the machine has AVX-512 F, BW, DQ and VL, and BF16 for products of bf16 (`BF16`).
#[derive(Clone, Copy)]
pub struct Avx512<const BF16: bool>(());

impl<const BF16: bool> Avx512<BF16> {
    /// # Safety
    /// The machine must have those.
    #[inline(always)]
    pub unsafe fn assume() -> Self {
        Avx512(())
    }
}

#[inline(always)]
fn first(n: usize) -> __mmask16 {
    (((1u32 << n) - 1) & 0xFFFF) as u16
}

/// Where [`Simd::zip`] finds each half of its words: lanes of `low`, then of `high`.
static HALVES: [u16; 32] = {
    let mut out = [0; 32];
    let mut i = 0;
    while i < 32 {
        out[i] = (i / 2 + i % 2 * 16) as u16;
        i += 1;
    }
    out
};

// SAFETY (all blocks below): an `Avx512` exists only where the instructions do (those for bf16 where `BF16`); memory is the
// caller's promise.
impl<const BF16: bool> Simd for Avx512<BF16> {
    const N: usize = 16;
    const ROWS: usize = 8;
    const TERMS: usize = if BF16 { 2 } else { 1 };
    type F = __m512;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(first(n), p) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, v: __m512, n: usize) {
        unsafe { _mm512_mask_storeu_ps(p, first(n), v) }
    }
    #[inline(always)]
    fn prefetch(self, p: *mut f32) {
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(p.cast()) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn multiply_add(self, a: __m512, b: __m512, sum: __m512) -> __m512 {
        if !BF16 {
            return self.fma(a, b, sum);
        }
        unsafe { _mm512_dpbf16_ps(sum, transmute::<__m512, __m512bh>(a), transmute::<__m512, __m512bh>(b)) }
    }
    #[inline(always)]
    fn zip(self, low: __m512, high: __m512) -> __m512 {
        assert!(BF16, "only kernels of bf16 products round");
        unsafe {
            let halves = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            let order = _mm512_loadu_si512(HALVES.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, halves))
        }
    }
    #[inline(always)]
    unsafe fn store_half(self, p: *mut u16, v: __m512) {
        assert!(BF16, "only kernels of bf16 products round");
        unsafe { _mm256_storeu_si256(p.cast(), transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v))) }
    }
    #[inline(always)]
    fn fnma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn recip(self, v: __m512) -> __m512 {
        unsafe {
            let guess = _mm512_rcp14_ps(v);
            _mm512_fmadd_ps(guess, _mm512_fnmadd_ps(v, guess, _mm512_set1_ps(1.0)), guess)
        }
    }
    #[inline(always)]
    fn round(self, v: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<0>(v) }
    }
    #[inline(always)]
    fn ldexp(self, p: __m512, n: __m512, y: __m512) -> __m512 {
        unsafe {
            let normal = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(y, _mm512_set1_ps(-126.0));
            _mm512_maskz_scalef_ps(normal, p, n)
        }
    }
    #[inline(always)]
    fn keep(self, v: __m512, bits: u32) -> __m512 {
        unsafe { _mm512_maskz_mov_ps(bits as u16, v) }
    }
    #[inline(always)]
    fn blend_n(self, v: __m512, w: __m512, n: usize) -> __m512 {
        unsafe { _mm512_mask_blend_ps(first(n), w, v) }
    }
    #[inline(always)]
    fn gt(self, a: __m512, b: __m512) -> u32 {
        unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) as u32 }
    }
    #[inline(always)]
    fn select(self, bits: u32, v: __m512, w: __m512) -> __m512 {
        unsafe { _mm512_mask_blend_ps(bits as u16, w, v) }
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(v) }
    }
    #[inline(always)]
    fn largest(self, v: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(v) }
    }
    #[inline(always)]
    fn keep_bits(self, seed: u64, stream: u32, step: u32, first: u64, threshold: u32, out: &mut [u64]) {
        let mut block = first;
        let mut groups = out.chunks_exact_mut(4);
        for group in &mut groups {
            group.copy_from_slice(&unsafe { philox::<4>(seed, stream, step, block, threshold) });
            block += 32;
        }
        for word in groups.into_remainder() {
            *word = unsafe { philox::<1>(seed, stream, step, block, threshold) }[0];
            block += 8;
        }
    }
}

/// `G` groups of 64 elements: eight Philox blocks each, one per 64-bit lane. Only the low halves of the lanes count;
/// `vpmuludq` ignores the rest, so the low word of a product needs no masking.
#[inline(always)]
unsafe fn philox<const G: usize>(seed: u64, stream: u32, step: u32, first: u64, threshold: u32) -> [u64; G] {
    unsafe {
        // Even lanes hold blocks 0..4, odd ones 4..8, so that unpacking words into order keeps blocks in order.
        let order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
        let (m0, m1) = (_mm512_set1_epi64(0xD251_1F53), _mm512_set1_epi64(0xCD9E_8D57));
        let mut c0 = [order; G];
        let mut c1 = [order; G];
        let mut c2 = [_mm512_set1_epi64(stream as i64); G];
        let mut c3 = [_mm512_set1_epi64(step as i64); G];
        for g in 0..G {
            c0[g] = _mm512_add_epi64(order, _mm512_set1_epi64((first + 8 * g as u64) as i64));
            c1[g] = _mm512_srli_epi64::<32>(c0[g]);
        }
        let (mut k0, mut k1) = (seed as u32, (seed >> 32) as u32);
        for _ in 0..10 {
            let (key0, key1) = (_mm512_set1_epi64(k0 as i64), _mm512_set1_epi64(k1 as i64));
            for g in 0..G {
                let p0 = _mm512_mul_epu32(c0[g], m0);
                let p1 = _mm512_mul_epu32(c2[g], m1);
                c0[g] = _mm512_ternarylogic_epi64::<0x96>(_mm512_srli_epi64::<32>(p1), c1[g], key0);
                c2[g] = _mm512_ternarylogic_epi64::<0x96>(_mm512_srli_epi64::<32>(p0), c3[g], key1);
                c1[g] = p1;
                c3[g] = p0;
            }
            k0 = k0.wrapping_add(0x9E37_79B9);
            k1 = k1.wrapping_add(0xBB67_AE85);
        }
        let limit = _mm512_set1_epi16(threshold as i16);
        let mut out = [0; G];
        for g in 0..G {
            let low = _mm512_mask_blend_epi32(0xAAAA, c0[g], _mm512_slli_epi64::<32>(c1[g]));
            let high = _mm512_mask_blend_epi32(0xAAAA, c2[g], _mm512_slli_epi64::<32>(c3[g]));
            let front = _mm512_cmpge_epu16_mask(_mm512_unpacklo_epi64(low, high), limit);
            let back = _mm512_cmpge_epu16_mask(_mm512_unpackhi_epi64(low, high), limit);
            out[g] = front as u64 | (back as u64) << 32;
        }
        out
    }
}
