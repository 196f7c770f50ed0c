//! Elementary functions on vectors, to one or two units in the last place.

use super::Simd;

/// `2^y`; 0 below the normal numbers (denormals would slow down everything that follows).
#[inline(always)]
pub fn exp2<S: Simd>(s: S, y: S::F) -> S::F {
    let n = s.round(y);
    let r = s.sub(y, n);
    // Minimax on [-1/2, 1/2], relative error 2e-8 (a quarter of a unit in the last place).
    let mut p = s.splat(EXP2[6]);
    for i in (0..6).rev() {
        p = s.fma(p, r, s.splat(EXP2[i]));
    }
    s.ldexp(p, n, y)
}
// The minimax coefficients as they are, close to the Taylor series as they may be.
#[allow(clippy::excessive_precision, clippy::approx_constant)]
const EXP2: [f32; 7] =
    [1.0, 0.693_147_18, 0.240_226_48, 0.055_503_324, 0.009_618_437, 0.001_339_887_5, 0.000_153_533_62];

/// `1 / (1 + e^-x)`
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    // Bounded, so that the reciprocal stays a normal number.
    let y = s.min(s.splat(80.0), s.mul(x, s.splat(-std::f32::consts::LOG2_E)));
    s.recip(s.add(s.splat(1.0), exp2(s, y)))
}

/// Hyperbolic tangent: a polynomial near 0 (Cephes' `tanhf`), else `1 - 2 / (e^2x + 1)`, exact where gates saturate.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let negative = s.sub(s.splat(0.0), x);
    let size = s.max(negative, x);
    let y = s.min(s.splat(80.0), s.mul(size, s.splat(2.0 * std::f32::consts::LOG2_E)));
    let large = s.fnma(s.splat(2.0), s.recip(s.add(exp2(s, y), s.splat(1.0))), s.splat(1.0));
    let large = s.select(s.gt(negative, x), s.sub(s.splat(0.0), large), large);
    let square = s.mul(x, x);
    let mut p = s.splat(TANH[4]);
    for i in (0..4).rev() {
        p = s.fma(p, square, s.splat(TANH[i]));
    }
    let small = s.fma(s.mul(p, square), x, x);
    s.select(s.gt(s.splat(0.625), size), small, large)
}
#[allow(clippy::excessive_precision)]
const TANH: [f32; 5] = [-0.333_332_82, 0.133_314_42, -0.053_739_716, 0.020_639_09, -0.005_704_988_7];
