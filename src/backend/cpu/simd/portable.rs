//! Arrays of eight floats that the compiler turns into whatever the target guarantees (SSE2, NEON).

use half::bf16;

use super::Simd;

/// Needs nothing.
#[derive(Clone, Copy)]
pub struct Portable<const BF16: bool>;

type V = [f32; 8];

macro_rules! each {
    ($i:ident => $e:expr) => {{
        let mut out = [0.0f32; 8];
        let mut $i = 0;
        while $i < 8 {
            out[$i] = $e;
            $i += 1;
        }
        out
    }};
}

/// A word of two bf16, rounded to nearest even.
#[inline(always)]
pub fn word(low: f32, high: f32) -> f32 {
    f32::from_bits(u32::from(bf16::from_f32(low).to_bits()) | u32::from(bf16::from_f32(high).to_bits()) << 16)
}

impl<const BF16: bool> Simd for Portable<BF16> {
    const N: usize = 8;
    const ROWS: usize = 4;
    const TERMS: usize = if BF16 { 2 } else { 1 };
    type F = V;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> V {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: V) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> V {
        // SAFETY: the caller's promise for the lanes below `n`.
        each!(i => if i < n { unsafe { *p.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, v: V, n: usize) {
        for (i, x) in v.into_iter().enumerate().take(n) {
            // SAFETY: the caller's promise for the lanes below `n`.
            unsafe { *p.add(i) = x }
        }
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        each!(i => a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        each!(i => a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        each!(i => a[i] * b[i])
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        // Without a fused instruction `mul_add` would be a library call.
        if cfg!(target_feature = "fma") || cfg!(target_arch = "aarch64") {
            each!(i => a[i].mul_add(b[i], c[i]))
        } else {
            each!(i => a[i] * b[i] + c[i])
        }
    }
    #[inline(always)]
    fn multiply_add(self, a: V, b: V, sum: V) -> V {
        if !BF16 {
            return self.fma(a, b, sum);
        }
        let low = |v: V| each!(i => f32::from_bits(v[i].to_bits() << 16));
        let high = |v: V| each!(i => f32::from_bits(v[i].to_bits() & 0xFFFF_0000));
        self.fma(low(a), low(b), self.fma(high(a), high(b), sum))
    }
    #[inline(always)]
    fn zip(self, low: V, high: V) -> V {
        each!(i => word(low[i], high[i]))
    }
    #[inline(always)]
    unsafe fn store_half(self, p: *mut u16, v: V) {
        for (i, x) in v.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { p.add(i).write(bf16::from_f32(x).to_bits()) }
        }
    }
    #[inline(always)]
    fn fnma(self, a: V, b: V, c: V) -> V {
        self.fma(each!(i => -a[i]), b, c)
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        each!(i => if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        each!(i => if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn recip(self, v: V) -> V {
        each!(i => 1.0 / v[i])
    }
    #[inline(always)]
    fn round(self, v: V) -> V {
        // Adding and subtracting 1.5 * 2^23 rounds; larger values are integers already.
        const SHIFT: f32 = 12_582_912.0;
        each!(i => if v[i].abs() < 4_194_304.0 { (v[i] + SHIFT) - SHIFT } else { v[i] })
    }
    #[inline(always)]
    fn ldexp(self, p: V, n: V, y: V) -> V {
        let n: [i32; 8] = {
            let mut out = [0; 8];
            for i in 0..8 {
                out[i] = n[i].clamp(-200.0, 200.0) as i32;
            }
            out
        };
        let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
        // In two factors, so that 2^128 overflows to infinity instead of wrapping around.
        each!(i => if y[i] < -126.0 { 0.0 } else { p[i] * power(n[i] >> 1) * power(n[i] - (n[i] >> 1)) })
    }
    #[inline(always)]
    fn keep(self, v: V, bits: u32) -> V {
        each!(i => if bits >> i & 1 == 1 { v[i] } else { 0.0 })
    }
    #[inline(always)]
    fn blend_n(self, v: V, w: V, n: usize) -> V {
        each!(i => if i < n { v[i] } else { w[i] })
    }
    #[inline(always)]
    fn gt(self, a: V, b: V) -> u32 {
        let mut bits = 0;
        for i in 0..8 {
            bits |= u32::from(a[i] > b[i]) << i;
        }
        bits
    }
    #[inline(always)]
    fn select(self, bits: u32, v: V, w: V) -> V {
        each!(i => if bits >> i & 1 == 1 { v[i] } else { w[i] })
    }
    #[inline(always)]
    fn sum(self, v: V) -> f32 {
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }
    #[inline(always)]
    fn largest(self, v: V) -> f32 {
        let mut out = v[0];
        for x in v {
            if x > out {
                out = x;
            }
        }
        out
    }
    #[inline(always)]
    fn keep_bits(self, seed: u64, stream: u32, step: u32, first: u64, threshold: u32, out: &mut [u64]) {
        keep_bits(seed, stream, step, first, threshold, out)
    }
}

/// Eight Philox blocks side by side, for the compiler to vectorise.
#[inline(always)]
pub fn keep_bits(seed: u64, stream: u32, step: u32, first: u64, threshold: u32, out: &mut [u64]) {
    const LOW: u64 = 0xFFFF_FFFF;
    for (group, word) in out.iter_mut().enumerate() {
        let (mut c0, mut c1, mut c2, mut c3) = ([0u64; 8], [0u64; 8], [stream as u64; 8], [step as u64; 8]);
        for lane in 0..8 {
            let block = first + (8 * group + lane) as u64;
            (c0[lane], c1[lane]) = (block & LOW, block >> 32);
        }
        let (mut k0, mut k1) = (seed as u32, (seed >> 32) as u32);
        for _ in 0..10 {
            for lane in 0..8 {
                let p0 = 0xD251_1F53 * c0[lane];
                let p1 = 0xCD9E_8D57 * c2[lane];
                c0[lane] = (p1 >> 32) ^ c1[lane] ^ k0 as u64;
                c2[lane] = (p0 >> 32) ^ c3[lane] ^ k1 as u64;
                c1[lane] = p1 & LOW;
                c3[lane] = p0 & LOW;
            }
            k0 = k0.wrapping_add(0x9E37_79B9);
            k1 = k1.wrapping_add(0xBB67_AE85);
        }
        let mut bits = 0;
        for lane in 0..8 {
            for (i, c) in [c0[lane], c1[lane], c2[lane], c3[lane]].into_iter().enumerate() {
                bits |= u64::from(c as u32 & 0xFFFF >= threshold) << (8 * lane + 2 * i);
                bits |= u64::from(c as u32 >> 16 >= threshold) << (8 * lane + 2 * i + 1);
            }
        }
        *word = bits;
    }
}
