//! How far a result may be from the reference: the only place with bounds.
//!
//! A reference gives each element a [`Want`]: its value in f64 on the inputs as stored, and `error`, a bound on
//! what f32 arithmetic and permitted intermediate roundings can add. An output is accepted if both hold:
//!
//! 1. Component-wise: it lies between the roundings of `value − error` and `value + error` to the output's
//!    type. This is the bound `|y − ŷ| ≤ error + u_out·(|y| + error) + half the smallest subnormal`, without
//!    loss where a result overflows or is exact. The last rounding must therefore be to nearest; only the
//!    arithmetic before it has slack.
//! 2. Normwise: the normalised mean square error of the case stays under [`nmse_bound`]. The component-wise
//!    bound of a sum of K terms grows with K and with what cancels, so that it alone would let a half-precision
//!    accumulator pass.
//!
//! The unit roundoff of f32 is u = 2^-24, and γ_n = n·u / (1 − n·u) bounds a sum of n rounded terms in any
//! order (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1).

use backend_api::DType;

use crate::host::{round, smallest};

/// Unit roundoff of f32.
pub const U: f64 = DType::F32.unit_roundoff();

/// What error bounds are multiplied by. 2 covers adders that cut instead of rounding, as those of tensor cores
/// do: their unit roundoff is 2u. A missing term, a wrong index or a half-precision accumulator costs far more.
pub const SLACK: f64 = 2.0;

/// Results below this may be flushed to zero where the type is as wide in exponent as f32.
const FLUSH: f64 = f32::MIN_POSITIVE as f64;

/// Cases with fewer elements than this are judged component by component alone: their mean square is chance.
pub const NMSE_MIN_ELEMENTS: usize = 32;

/// γ_n of f32.
pub fn gamma(n: usize) -> f64 {
    let nu = n as f64 * U;
    nu / (1.0 - nu).max(0.5)
}

/// Relative error of `exp(x)` in f32: 4u for the fastest instruction of a GPU (2^-22), and |x|·u because its
/// argument is rounded.
pub fn exp(x: f64) -> f64 {
    (4.0 + x.abs()) * U
}

/// A reference value with the error that its computation in f32 may have before the last rounding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Want {
    /// In f64, on the inputs as stored.
    pub value: f64,
    /// Absolute, slack included.
    pub error: f64,
}

impl Want {
    /// A value that is only rounded to the output's type.
    pub fn exact(value: f64) -> Self {
        Self { value, error: 0.0 }
    }

    /// A value with a relative error.
    pub fn relative(value: f64, error: f64) -> Self {
        Self { value, error: SLACK * error * value.abs() }
    }

    /// A value that may also come out as zero, for a quotient whose divisor overflows in f32.
    pub fn vanishing(value: f64) -> Self {
        Self { value, error: value.abs() }
    }

    /// A sum of `n` products whose absolute values add up to `magnitude`.
    pub fn sum(value: f64, n: usize, magnitude: f64) -> Self {
        Self { value, error: SLACK * gamma(n) * magnitude }
    }

    /// The same with an error more; `error` comes without slack.
    pub fn plus(self, error: f64) -> Self {
        Self { error: self.error + SLACK * error, ..self }
    }

    /// The same stored in `dtype` in between.
    pub fn stored(self, dtype: DType) -> Self {
        let rounding = dtype.unit_roundoff() * (self.value.abs() + self.error) + smallest(dtype) / 2.0;
        Self { error: self.error + rounding, ..self }
    }

    /// The least and the largest result that is accepted.
    pub fn range(&self, dtype: DType) -> (f64, f64) {
        if !self.value.is_finite() {
            return (self.value, self.value);
        }
        let error = self.error + if dtype == DType::F16 { 0.0 } else { FLUSH };
        (round(dtype, self.value - error), round(dtype, self.value + error))
    }

    /// Whether a result of type `dtype` is within the component-wise bound. NaN is wanted, or not, exactly.
    pub fn accepts(&self, dtype: DType, got: f64) -> bool {
        let (low, high) = self.range(dtype);
        if self.value.is_nan() { got.is_nan() } else { low <= got && got <= high }
    }
}

/// How the elements of an output are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    /// Copies and ids: the bits of the rounded value; any NaN for NaN.
    Bits,
    /// One value from a few.
    Elementwise,
    /// Sums over a row.
    Reduction,
    /// Several operations, between which results may be stored in this type.
    Fused(DType),
}

/// The largest normalised mean square error of an output of type `dtype`.
///
/// Rounding to nearest errs by at most u_out·|y|, so 4/3·u_out² leaves room for the arithmetic: 2.0e-5 for
/// bf16, 3.2e-7 for f16, and what f32 arithmetic adds: 1e-12 for elementwise functions, 1e-10 for sums, whose
/// error grows with their length. A fused operation may round three times more on the way; rounding errs by
/// u²/6 in the mean, and inner errors average out in the sums, so twice the bound covers it.
pub fn nmse_bound(dtype: DType, judge: Judge) -> f64 {
    let of_rounding = |t: DType| if t == DType::F32 { 0.0 } else { t.unit_roundoff().powi(2) * 4.0 / 3.0 };
    let out = of_rounding(dtype);
    match judge {
        Judge::Bits => 0.0,
        Judge::Elementwise => out + 1e-12,
        Judge::Reduction => out + 1e-10,
        Judge::Fused(stored) => 2.0 * (out.max(of_rounding(stored)) + 1e-10),
    }
}

/// The largest normalised mean square error of a model's logits, against the reference with weights rounded to this type.
///
/// What lies between the residual stream and the logits may be stored in the type, too.
pub fn nmse_of_logits(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 1e-10,
        DType::F16 => 1e-6,
        _ => 2e-5,
    }
}

/// Normalised mean square error: `Σ (got − want)² / Σ want²`; 0 if both are zero throughout.
pub fn nmse(got: &[f64], want: &[f64]) -> f64 {
    ratio(got.iter().zip(want).map(|(g, w)| (g - w, *w)))
}

/// [`nmse`] of a case: without what overflows, and without what the gap at zero explains.
pub fn nmse_of_case(dtype: DType, got: &[f64], want: &[Want]) -> f64 {
    let gap = smallest(dtype) / 2.0 + if dtype == DType::F16 { 0.0 } else { FLUSH };
    let finite = got.iter().zip(want).filter(|(g, w)| g.is_finite() && w.value.is_finite());
    ratio(finite.map(|(g, w)| (((g - w.value).abs() - gap).max(0.0), w.value)))
}

fn ratio(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (error, power) = pairs.fold((0.0, 0.0), |(e, p), (d, w)| (e + d * d, p + w * w));
    if error == 0.0 { 0.0 } else { error / power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_values_accept_their_rounding_alone() {
        let third = Want::exact(1.0 / 3.0);
        for dtype in [DType::F16, DType::BF16] {
            let best = round(dtype, 1.0 / 3.0);
            assert!(third.accepts(dtype, best));
            let next = best + dtype.unit_roundoff();
            assert!(!third.accepts(dtype, next), "{dtype}");
        }
        assert!(!third.accepts(DType::F32, f64::NAN));
        assert!(Want::exact(f64::NAN).accepts(DType::F32, f64::NAN));
        assert!(!Want::exact(f64::NAN).accepts(DType::F32, 0.0));
        assert!(Want::exact(f64::INFINITY).accepts(DType::F16, f64::INFINITY));
    }

    #[test]
    fn overflow_is_infinite_in_the_type_that_overflows() {
        let large = Want::relative(70_000.0, U);
        assert!(large.accepts(DType::F16, f64::INFINITY));
        assert!(!large.accepts(DType::F16, 65_504.0));
        assert!(!large.accepts(DType::F32, f64::INFINITY));
    }

    #[test]
    fn rounding_to_nearest_passes_and_cutting_fails_the_nmse() {
        let values: Vec<Want> = (0..4096).map(|i| Want::relative(1.0 + f64::from(i) / 4099.0, U)).collect();
        for dtype in [DType::F16, DType::BF16] {
            let step = 2.0 * dtype.unit_roundoff();
            let nearest: Vec<f64> = values.iter().map(|w| round(dtype, w.value)).collect();
            let twice_off: Vec<f64> = nearest.iter().map(|v| v + step).collect();
            let bound = nmse_bound(dtype, Judge::Elementwise);
            assert!(nmse_of_case(dtype, &nearest, &values) < bound / 2.0);
            assert!(nmse_of_case(dtype, &twice_off, &values) > bound);
            let cut = |w: &Want| (w.value / step).floor() * step;
            assert!(values.iter().any(|w| !w.accepts(dtype, cut(w))));
        }
    }

    #[test]
    fn nmse_is_relative() {
        assert_eq!(nmse(&[0.0, 0.0], &[0.0, 0.0]), 0.0);
        assert_eq!(nmse(&[1.0, 2.0], &[1.0, 1.0]), 0.5);
        assert_eq!(nmse(&[1.0], &[0.0]), f64::INFINITY);
        assert!(nmse(&[f64::NAN], &[1.0]).is_nan());
    }
}
