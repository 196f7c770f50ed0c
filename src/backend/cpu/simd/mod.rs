//! A thin layer over vector instructions: kernels are written once, generic over [`Simd`], and compiled for each [`Isa`].

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod math;
mod portable;

pub use portable::{Portable, word};
#[cfg(target_arch = "x86_64")]
pub use {avx2::Avx2, avx512::Avx512};

/// Instruction sets that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX2 and FMA.
    Avx2,
    /// Whatever the target guarantees.
    Portable,
}

impl Isa {
    /// All of them, best first.
    pub const ALL: [Isa; 3] = [Isa::Avx512, Isa::Avx2, Isa::Portable];

    /// Name as typed in `EPI_CPU_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Portable => "portable",
        }
    }
    /// Whether this machine can run it.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        match self {
            Isa::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && Isa::Avx2.is_available()
            }
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            Isa::Portable => true,
        }
        #[cfg(not(target_arch = "x86_64"))]
        (self == Isa::Portable)
    }
    /// Whether this machine multiplies pairs of bf16 in one instruction of this set.
    pub fn has_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Isa::Avx512 && self.is_available() && is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }
    /// The best one here.
    pub fn detect() -> Isa {
        Isa::ALL.into_iter().find(|isa| isa.is_available()).unwrap_or(Isa::Portable)
    }
}

/// What kernels of matrix products are compiled for: an instruction set, and whether operands are rounded to bf16 (AVX-512 only
/// with its instruction for them).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub isa: Isa,
    pub bf16: bool,
}

impl Target {
    /// [`Simd::TERMS`]
    pub fn terms(self) -> usize {
        if self.bf16 { 2 } else { 1 }
    }
}

/// Vectors of `N` floats. A value of an implementing type is the proof that the machine has the instructions, so the
/// methods are safe but for those that touch memory. NaN survives `max` and `min` when it is in the second argument.
pub trait Simd: Copy + Send + Sync + 'static {
    /// Lanes of a vector; a divisor of 16.
    const N: usize;
    /// Rows of the register tile (times three vectors).
    const ROWS: usize;
    /// Terms of a sum in a word, 32 bits of an operand of a matrix product: one float, or two of bf16, the earlier one in the
    /// low half.
    const TERMS: usize;
    type F: Copy;

    fn splat(self, x: f32) -> Self::F;
    /// # Safety
    /// `p..p + N` must be readable.
    unsafe fn load(self, p: *const f32) -> Self::F;
    /// # Safety
    /// `p..p + N` must be writable.
    unsafe fn store(self, p: *mut f32, v: Self::F);
    /// The first `n <= N` lanes; the others are 0.
    /// # Safety
    /// `p..p + n` must be readable.
    unsafe fn load_n(self, p: *const f32, n: usize) -> Self::F;
    /// # Safety
    /// `p..p + n` must be writable.
    unsafe fn store_n(self, p: *mut f32, v: Self::F, n: usize);
    /// Hints that the cache line at `p` (which may be anything) is about to be written.
    fn prefetch(self, p: *mut f32) {
        let _ = p;
    }
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `sum` and the products of the terms in the words of `a` and `b`, the later term first.
    fn multiply_add(self, a: Self::F, b: Self::F, sum: Self::F) -> Self::F;
    /// Words of two bf16, each lane of `low` and `high` rounded to nearest, ties to even.
    fn zip(self, low: Self::F, high: Self::F) -> Self::F;
    /// Stores all lanes as bf16, rounded likewise.
    /// # Safety
    /// `p..p + N` must be writable.
    unsafe fn store_half(self, p: *mut u16, v: Self::F);
    /// `c - a * b`
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `b` where `b > a` or either is NaN, else `a`.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `b` where `b < a` or either is NaN, else `a`.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `1 / v` to about one unit in the last place, for normal results.
    fn recip(self, v: Self::F) -> Self::F;
    /// To the nearest integer.
    fn round(self, v: Self::F) -> Self::F;
    /// `p * 2^n`, and 0 where `y < -126`; `n` is integral and is `y` rounded, `|p|` near 1.
    fn ldexp(self, p: Self::F, n: Self::F, y: Self::F) -> Self::F;
    /// Lanes whose bit is set (lane 0 = bit 0); the others become 0.
    fn keep(self, v: Self::F, bits: u32) -> Self::F;
    /// Lane `i < n` of `v`, else of `w`.
    fn blend_n(self, v: Self::F, w: Self::F, n: usize) -> Self::F;
    /// Bits of the lanes where `a > b`.
    fn gt(self, a: Self::F, b: Self::F) -> u32;
    /// `v` where `a > b`, else `w`.
    #[inline(always)]
    fn if_gt(self, a: Self::F, b: Self::F, v: Self::F, w: Self::F) -> Self::F {
        self.select(self.gt(a, b), v, w)
    }
    /// `v` where the lane's bit is set, else `w`.
    fn select(self, bits: u32, v: Self::F, w: Self::F) -> Self::F;
    /// Four steps of a register tile at once, for instruction sets whose registers a tile fills to the last, so that the
    /// compiler's order of loads would spill some: `sums[i][v] += a(i,k) * b(k,v)` for `k` in `k0..k0 + 4`, in that order, with
    /// `a(i,k)` at `rows[i] + k`, or at `across + (k - k0) * lda + i` if `T`, and `b(k,·)` at `down + (k - k0) * ldb`.
    /// Returns whether it did; `false` asks the caller to.
    ///
    /// # Safety
    /// All of that is readable.
    #[inline(always)]
    unsafe fn four_steps<const M: usize, const V: usize, const T: bool>(
        self,
        sums: &mut [[Self::F; V]; M],
        rows: &[*const f32; M],
        k0: usize,
        across: *const f32,
        lda: usize,
        down: *const f32,
        ldb: usize,
    ) -> bool {
        let _ = (sums, rows, k0, across, lda, down, ldb);
        false
    }
    fn sum(self, v: Self::F) -> f32;
    fn largest(self, v: Self::F) -> f32;
    /// For each 64 elements from block `first` (8 elements a block) on, which of them dropout keeps.
    fn keep_bits(self, seed: u64, stream: u32, step: u32, first: u64, threshold: u32, out: &mut [u64]);
}

/// Defines a function `name(isa, args..)` whose body is compiled once per instruction set; `s` is the [`Simd`] value. With
/// `<S: Product>` it is `name(target, args..)`, compiled for both kinds of operands of matrix products.
///
/// Bodies must not hide work in closures: those would not inherit the instruction set.
macro_rules! kernel {
    ($(#[$meta:meta])* $vis:vis unsafe fn $($rest:tt)*) => {
        kernel!(@ [$(#[$meta])* $vis] [unsafe] $($rest)*);
    };
    ($(#[$meta:meta])* $vis:vis fn $($rest:tt)*) => {
        kernel!(@ [$(#[$meta])* $vis] [] $($rest)*);
    };
    (@ [$($head:tt)*] [$($unsafe:tt)?] $name:ident<$S:ident>($s:ident $(, $arg:ident: $type:ty)* $(,)?) $(-> $out:ty)? $body:block) => {
        $($head)* $($unsafe)? fn $name(isa: $crate::backend::cpu::simd::Isa $(, $arg: $type)*) $(-> $out)? {
            #[inline(always)]
            $($unsafe)? fn body<$S: $crate::backend::cpu::simd::Simd>($s: $S $(, $arg: $type)*) $(-> $out)? $body
            kernel!(@run isa, false, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,popcnt", [$($arg: $type),*] [$($out)?])
        }
    };
    (@ [$($head:tt)*] [$($unsafe:tt)?] $name:ident<$S:ident: Product>($s:ident $(, $arg:ident: $type:ty)* $(,)?) $(-> $out:ty)? $body:block) => {
        $($head)* $($unsafe)? fn $name(target: $crate::backend::cpu::simd::Target $(, $arg: $type)*) $(-> $out)? {
            #[inline(always)]
            $($unsafe)? fn body<$S: $crate::backend::cpu::simd::Simd>($s: $S $(, $arg: $type)*) $(-> $out)? $body
            let isa = target.isa;
            if target.bf16 {
                kernel!(@run isa, true, "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,popcnt", [$($arg: $type),*] [$($out)?])
            } else {
                kernel!(@run isa, false, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,popcnt", [$($arg: $type),*] [$($out)?])
            }
        }
    };
    (@run $isa:ident, $bf16:tt, $features:tt, [$($arg:ident: $type:ty),*] [$($out:ty)?]) => {{
        use $crate::backend::cpu::simd::{Isa, Portable};
        #[cfg(target_arch = "x86_64")]
        {
            use $crate::backend::cpu::simd::{Avx2, Avx512};
            #[target_feature(enable = $features)]
            unsafe fn avx512($($arg: $type),*) $(-> $out)? {
                // SAFETY: this function has the features; the rest is the caller's promise.
                unsafe { body(Avx512::<$bf16>::assume() $(, $arg)*) }
            }
            #[target_feature(enable = "avx2,fma,popcnt")]
            unsafe fn avx2($($arg: $type),*) $(-> $out)? {
                // SAFETY: this function has the features; the rest is the caller's promise.
                unsafe { body(Avx2::<$bf16>::assume() $(, $arg)*) }
            }
            // SAFETY: `Cpu` only holds an `Isa` and a `Target` that it found to be available.
            match $isa {
                Isa::Avx512 => return unsafe { avx512($($arg),*) },
                Isa::Avx2 => return unsafe { avx2($($arg),*) },
                Isa::Portable => {}
            }
        }
        debug_assert_eq!($isa, Isa::Portable);
        // SAFETY: the caller's promise, if any.
        #[allow(unused_unsafe)]
        unsafe { body(Portable::<$bf16> $(, $arg)*) }
    }};
}
pub(crate) use kernel;

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::{Isa, Target};

    fn targets() -> impl Iterator<Item = Target> {
        let bf16 = |isa: Isa| Target { isa, bf16: isa != Isa::Avx512 || isa.has_bf16() };
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).map(bf16).filter(|target| target.bf16)
    }

    kernel! {
        /// Words of `low` and `high`, and `low` as bf16.
        fn round<S: Product>(s, low: &[f32], high: &[f32], words: &mut [f32], halves: &mut [u16]) {
            for i in (0..low.len()).step_by(S::N) {
                // SAFETY: all slices hold a multiple of 16.
                unsafe {
                    let (a, b) = (s.load(low[i..].as_ptr()), s.load(high[i..].as_ptr()));
                    s.store(words[i..].as_mut_ptr(), s.zip(a, b));
                    s.store_half(halves[i..].as_mut_ptr(), a);
                }
            }
        }
    }
    kernel! {
        fn multiply_add<S: Product>(s, a: &[f32], b: &[f32], sums: &mut [f32]) {
            for i in (0..a.len()).step_by(S::N) {
                // SAFETY: all slices hold a multiple of 16.
                unsafe {
                    let (a, b) = (s.load(a[i..].as_ptr()), s.load(b[i..].as_ptr()));
                    s.store(sums[i..].as_mut_ptr(), s.multiply_add(a, b, s.load(sums[i..].as_ptr())));
                }
            }
        }
    }

    /// Numbers of all sizes, ties, what overflows, and what is none; no denormals, which AVX-512 takes for zero.
    fn numbers() -> Vec<f32> {
        let mut bits: Vec<u32> = (0..4096u32).map(|i| i.wrapping_mul(0x9E37_79B9)).collect();
        for high in [0x3F80, 0x3F81, 0xC07F, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x0080] {
            bits.extend([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF].map(|low| high << 16 | low));
        }
        let numbers = bits.into_iter().map(f32::from_bits).filter(|x| !x.is_subnormal());
        let mut numbers: Vec<f32> = numbers.chain([0.0, -0.0, 1.0]).collect();
        numbers.resize(numbers.len().next_multiple_of(16), 2.0);
        numbers
    }

    #[test]
    fn bf16_are_the_nearest() {
        let low = numbers();
        let high: Vec<f32> = low.iter().rev().copied().collect();
        for target in targets() {
            let (mut words, mut halves) = (vec![0.0; low.len()], vec![0; low.len()]);
            round(target, &low, &high, &mut words, &mut halves);
            for i in 0..low.len() {
                let [a, b] = [low[i], high[i]].map(|x| bf16::from_f32(x).to_bits());
                assert_eq!(halves[i], a, "{target:?}: {:e}", low[i]);
                assert_eq!(
                    words[i].to_bits(),
                    u32::from(a) | u32::from(b) << 16,
                    "{target:?}: {:e}, {:e}",
                    low[i],
                    high[i]
                );
            }
        }
    }

    #[test]
    fn words_multiply_term_by_term() {
        let numbers: Vec<f32> = numbers().into_iter().filter(|x| (1e-9..1e9).contains(&x.abs())).collect();
        let n = numbers.len() / 64 * 16;
        let [a0, a1, b0, b1] = [0, 1, 2, 3].map(|part| &numbers[part * n..][..n]);
        let start: Vec<f32> = a0.iter().rev().copied().collect();
        for target in targets() {
            let (mut a, mut b, mut halves) = (vec![0.0; n], vec![0.0; n], vec![0; n]);
            round(target, a0, a1, &mut a, &mut halves);
            round(target, b0, b1, &mut b, &mut halves);
            let mut sums = start.clone();
            multiply_add(target, &a, &b, &mut sums);
            for i in 0..n {
                let [a0, a1, b0, b1] = [a0[i], a1[i], b0[i], b1[i]].map(|x| bf16::from_f32(x).to_f64());
                let terms = [f64::from(start[i]), a0 * b0, a1 * b1];
                let (want, size) = (terms.iter().sum::<f64>(), terms.iter().map(|x| x.abs()).sum::<f64>());
                let error = (f64::from(sums[i]) - want).abs();
                // Two roundings; three where a product is rounded by itself.
                assert!(error <= 3.0 * size * f64::from(f32::EPSILON) / 2.0, "{target:?}: {} is not {want}", sums[i]);
            }
        }
    }
}
