//! The arithmetic the oracle needs of a number: f64 to be right, f32 to show what rounding alone costs.

use crate::backend::DType;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub, SubAssign};

/// A floating-point type of the reference backend.
pub trait Real:
    Copy
    + Default
    + PartialOrd
    + std::fmt::Debug
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + std::iter::Sum
    + Send
    + Sync
    + 'static
{
    /// Tag of tensors that hold this type.
    const DTYPE: DType;
    /// Name for people.
    const NAME: &'static str;
    /// 0
    const ZERO: Self;
    /// 1
    const ONE: Self;
    /// Nearest value to `x`.
    fn of(x: f64) -> Self;
    /// Exact value.
    fn f64(self) -> f64;
    /// e^x
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;
    /// A count or an index.
    fn count(n: usize) -> Self {
        Self::of(n as f64)
    }
    /// Neither infinite nor NaN.
    fn is_finite(self) -> bool {
        self.f64().is_finite()
    }
    /// `max(x, 0)`, except that NaN stays NaN: a broken value must reach the loss.
    fn relu(self) -> Self {
        if self < Self::ZERO { Self::ZERO } else { self }
    }
    /// `x` where it is positive or NaN, else `slope * x`.
    fn leaky_relu(self, slope: Self) -> Self {
        if self <= Self::ZERO { slope * self } else { self }
    }
    /// The larger of the two; NaN wins.
    fn or_larger(self, other: Self) -> Self {
        if other > self || other.f64().is_nan() { other } else { self }
    }
}

macro_rules! real {
    ($type:ident, $dtype:ident) => {
        impl Real for $type {
            const DTYPE: DType = DType::$dtype;
            const NAME: &'static str = stringify!($type);
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            fn of(x: f64) -> Self {
                x as $type
            }
            fn f64(self) -> f64 {
                self.into()
            }
            fn exp(self) -> Self {
                $type::exp(self)
            }
            fn ln(self) -> Self {
                $type::ln(self)
            }
            fn sqrt(self) -> Self {
                $type::sqrt(self)
            }
            fn tanh(self) -> Self {
                $type::tanh(self)
            }
        }
    };
}
real!(f32, F32);
real!(f64, F64);
