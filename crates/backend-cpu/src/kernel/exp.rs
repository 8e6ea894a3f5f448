//! The exponential function on vectors.

use super::lanes::Lanes;

/// `1.5 · 2^23 + 256`: adding it to a small number leaves the nearest integer, plus 256, in the low mantissa bits.
const ROUND: f32 = 12_583_168.0;
/// `ln 2` to the bits that make `n · LN2_HIGH` exact for |n| < 2^9, and the rest.
const LN2_HIGH: f32 = 0.693_145_75;
const LN2_LOW: f32 = 1.428_606_8e-6;

/// `e^x` per lane, within 2 units in the last place; 0 below -104, infinity above 89, NaN for NaN.
///
/// `x = n ln 2 + r` with |r| ≤ ln 2 / 2; `e^r` is its Taylor polynomial of degree 7 (remainder below 6e-9), and
/// `2^n` is applied as two factors, so that results below the normal range come out right.
#[inline(always)]
pub(crate) fn exp<S: Lanes>(simd: S, x: S::f32s) -> S::f32s {
    let clamped = simd.min_f32s(simd.splat_f32s(89.0), simd.max_f32s(simd.splat_f32s(-104.0), x));
    let shifted = simd.fma(clamped, simd.splat_f32s(std::f32::consts::LOG2_E), simd.splat_f32s(ROUND));
    let n = simd.sub_f32s(shifted, simd.splat_f32s(ROUND));
    let r = simd.fma(n, simd.splat_f32s(-LN2_HIGH), clamped);
    let r = simd.fma(n, simd.splat_f32s(-LN2_LOW), r);

    let mut p = simd.splat_f32s(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = simd.fma(p, r, simd.splat_f32s(c));
    }

    let biased = simd.and_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(0x3ff));
    let half = simd.wrapping_dyn_shr_u32s(biased, simd.splat_u32s(1));
    let first = power_of_two(simd, half);
    let second = power_of_two(simd, simd.sub_u32s(biased, half));
    let y = simd.mul_f32s(simd.mul_f32s(p, first), second);
    simd.select_f32s(simd.equal_f32s(x, x), y, x)
}

/// `2^(n - 128)`.
#[inline(always)]
fn power_of_two<S: Lanes>(simd: S, n: S::u32s) -> S::f32s {
    let exponent = simd.sub_u32s(n, simd.splat_u32s(1));
    simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(exponent, simd.splat_u32s(23)))
}
