//! A thin layer over vector instructions: kernels are written once, generic over [`Simd`], and compiled for each [`Isa`].

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod math;
mod portable;

pub use portable::Portable;
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
    /// The best one here.
    pub fn detect() -> Isa {
        Isa::ALL.into_iter().find(|isa| isa.is_available()).unwrap_or(Isa::Portable)
    }
}

/// Vectors of `N` floats. A value of an implementing type is the proof that the machine has the instructions, so the
/// methods are safe but for those that touch memory. NaN survives `max` and `min` when it is in the second argument.
pub trait Simd: Copy + Send + Sync + 'static {
    /// Lanes of a vector; a divisor of 16.
    const N: usize;
    /// Rows of the register tile (times three vectors).
    const ROWS: usize;
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

/// Defines a function `name(isa, args..)` whose body is compiled once per instruction set; `s` is the [`Simd`] value.
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
            use $crate::backend::cpu::simd::{Isa, Portable, Simd};
            #[inline(always)]
            $($unsafe)? fn body<$S: Simd>($s: $S $(, $arg: $type)*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::backend::cpu::simd::{Avx2, Avx512};
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,popcnt")]
                unsafe fn avx512($($arg: $type),*) $(-> $out)? {
                    // SAFETY: this function has the features; the rest is the caller's promise.
                    unsafe { body(Avx512::assume() $(, $arg)*) }
                }
                #[target_feature(enable = "avx2,fma,popcnt")]
                unsafe fn avx2($($arg: $type),*) $(-> $out)? {
                    // SAFETY: this function has the features; the rest is the caller's promise.
                    unsafe { body(Avx2::assume() $(, $arg)*) }
                }
                // SAFETY: `Cpu` only holds an `Isa` that it found to be available.
                match isa {
                    Isa::Avx512 => return unsafe { avx512($($arg),*) },
                    Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    Isa::Portable => {}
                }
            }
            debug_assert_eq!(isa, Isa::Portable);
            // SAFETY: the caller's promise, if any.
            #[allow(unused_unsafe)]
            unsafe { body(Portable $(, $arg)*) }
        }
    };
}
pub(crate) use kernel;
