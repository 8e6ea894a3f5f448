//! Operations on rows of activations and on single values.

use rayon::prelude::*;

use super::element::Element;
use super::exp::exp;
use super::lanes::{Kernel, Lanes, dispatch};
use super::map::{MIN_PER_THREAD, Map1, Map2, map1_assign, map2, map2_assign};
use super::rows::RowsMut;

#[derive(Clone, Copy)]
struct Add;

impl Map2 for Add {
    #[inline(always)]
    fn apply<S: Lanes>(self, simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.add_f32s(a, b)
    }
}

#[derive(Clone, Copy)]
struct Mul;

impl Map2 for Mul {
    #[inline(always)]
    fn apply<S: Lanes>(self, simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.mul_f32s(a, b)
    }
}

#[derive(Clone, Copy)]
struct Silu;

impl Map1 for Silu {
    #[inline(always)]
    fn apply<S: Lanes>(self, simd: S, a: S::f32s) -> S::f32s {
        // `e^-|x|` cannot overflow: for negative values the quotient is extended by `e^x`.
        let t = exp(simd, simd.neg_f32s(simd.abs_f32s(a)));
        let one = simd.splat_f32s(1.0);
        let numerator = simd.select_f32s(simd.less_than_f32s(a, simd.splat_f32s(0.0)), t, one);
        simd.div_f32s(simd.mul_f32s(a, numerator), simd.add_f32s(one, t))
    }
}

#[derive(Clone, Copy)]
struct Swiglu;

impl Map2 for Swiglu {
    #[inline(always)]
    fn apply<S: Lanes>(self, simd: S, gate: S::f32s, up: S::f32s) -> S::f32s {
        simd.mul_f32s(Silu.apply(simd, gate), up)
    }
}

/// `a += b`.
pub(crate) fn add_assign(a: &mut [f32], b: &[f32]) {
    map2_assign(Add, a, b);
}

/// `a *= b`, value by value.
pub(crate) fn mul_assign(a: &mut [f32], b: &[f32]) {
    map2_assign(Mul, a, b);
}

/// `x = x / (1 + e^-x)`.
pub(crate) fn silu_assign(x: &mut [f32]) {
    map1_assign(Silu, x);
}

/// `out = silu(gate) · up`.
pub(crate) fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    map2(Swiglu, gate, up, out);
}

/// Calls `body` with the number and the content of every row, on several threads when there is enough to do.
pub(crate) fn for_each_row<'a>(rows: RowsMut<'a, f32>, body: impl Fn(usize, &'a mut [f32]) + Send + Sync) {
    let (count, cols) = (rows.rows(), rows.cols());
    if count.saturating_mul(cols) < 2 * MIN_PER_THREAD {
        return rows.into_rows().enumerate().for_each(|(i, row)| body(i, row));
    }
    let rows: Vec<_> = rows.into_rows().enumerate().collect();
    rows.into_par_iter().with_min_len(MIN_PER_THREAD.div_ceil(cols.max(1))).for_each(|(i, row)| body(i, row));
}

/// `x = x / sqrt(mean(x²) + eps) · weight`, row by row; x `[rows, n]`, weight `[n]`.
pub(crate) fn rmsnorm_assign<W: Element>(x: RowsMut<'_, f32>, weight: &[W], eps: f32) {
    for_each_row(x, |_, x| dispatch(Rmsnorm { x, weight, eps }));
}

struct Rmsnorm<'a, W> {
    x: &'a mut [f32],
    weight: &'a [W],
    eps: f32,
}

impl<W: Element> Kernel for Rmsnorm<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let mean = dot_with(simd, self.x, &*self.x) / self.x.len() as f32;
        let factor = simd.splat_f32s(1.0 / (mean + self.eps).sqrt());
        let (x, x_tail) = S::as_mut_simd_f32s(self.x);
        let (weight, weight_tail) = W::packed::<S>(self.weight);
        for (x, &w) in x.iter_mut().zip(weight) {
            *x = simd.mul_f32s(simd.mul_f32s(*x, factor), W::widen(simd, w));
        }
        if !x_tail.is_empty() {
            let w = W::widen(simd, W::partial(simd, weight_tail));
            let scaled = simd.mul_f32s(simd.partial_load_f32s(x_tail), factor);
            simd.partial_store_f32s(x_tail, simd.mul_f32s(scaled, w));
        }
    }
}

/// Replaces every row by `e^(x - max) / Σ e^(x - max)`. A row of nothing but -∞, and one with NaN or +∞, becomes NaN.
pub(crate) fn softmax_assign(x: RowsMut<'_, f32>) {
    for_each_row(x, |_, x| dispatch(Softmax(x)));
}

struct Softmax<'a>(&'a mut [f32]);

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let low = simd.splat_f32s(f32::NEG_INFINITY);
        let (head, tail) = S::as_mut_simd_f32s(self.0);
        let mut most = low;
        for &v in head.iter() {
            most = simd.max_f32s(v, most);
        }
        let largest = tail.iter().fold(simd.reduce_max_f32s(most), |m, &v| m.max(v));
        let shift = simd.splat_f32s(largest);
        let mut sums = simd.splat_f32s(0.0);
        for v in head.iter_mut() {
            *v = exp(simd, simd.sub_f32s(*v, shift));
            sums = simd.add_f32s(sums, *v);
        }
        let mut total = simd.reduce_sum_f32s(sums);
        if !tail.is_empty() {
            simd.partial_store_f32s(tail, exp(simd, simd.sub_f32s(simd.partial_load_f32s(tail), shift)));
            for &v in tail.iter() {
                total += v;
            }
        }
        let factor = simd.splat_f32s(1.0 / total);
        for v in head.iter_mut() {
            *v = simd.mul_f32s(*v, factor);
        }
        for v in tail.iter_mut() {
            *v /= total;
        }
    }
}

/// Rotates every head of a row by halves: `(x1 cos - x2 sin, x2 cos + x1 sin)`, x1 and x2 being the first and the second
/// half of a head, `cos` and `sin` as long as a half.
pub(crate) fn rotate_heads(heads: &mut [f32], cos: &[f32], sin: &[f32]) {
    dispatch(RotateHalf { heads, cos, sin });
}

struct RotateHalf<'a> {
    heads: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Kernel for RotateHalf<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let half = self.cos.len();
        let ((cos, cos_tail), (sin, sin_tail)) = (S::as_simd_f32s(self.cos), S::as_simd_f32s(self.sin));
        for head in self.heads.chunks_exact_mut((2 * half).max(1)) {
            let (first, second) = head.split_at_mut(half);
            let ((a, a_tail), (b, b_tail)) = (S::as_mut_simd_f32s(first), S::as_mut_simd_f32s(second));
            for (((a, b), &cos), &sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                (*a, *b) = rotate(simd, *a, *b, cos, sin);
            }
            if !a_tail.is_empty() {
                let (x1, x2) = (simd.partial_load_f32s(a_tail), simd.partial_load_f32s(b_tail));
                let (cos, sin) = (simd.partial_load_f32s(cos_tail), simd.partial_load_f32s(sin_tail));
                let (x1, x2) = rotate(simd, x1, x2, cos, sin);
                simd.partial_store_f32s(a_tail, x1);
                simd.partial_store_f32s(b_tail, x2);
            }
        }
    }
}

#[inline(always)]
fn rotate<S: Lanes>(simd: S, x1: S::f32s, x2: S::f32s, cos: S::f32s, sin: S::f32s) -> (S::f32s, S::f32s) {
    let minus = simd.neg_f32s(sin);
    (simd.fma(x1, cos, simd.mul_f32s(x2, minus)), simd.fma(x2, cos, simd.mul_f32s(x1, sin)))
}

/// `Σ a[i] · b[i]` of slices of equal length: four accumulators per lane.
#[inline(always)]
fn dot_with<S: Lanes, W: Element>(simd: S, a: &[f32], b: &[W]) -> f32 {
    let ((a, a_tail), (b, b_tail)) = (S::as_simd_f32s(a), W::packed::<S>(b));
    let ((a_fours, a_rest), (b_fours, b_rest)) = (a.as_chunks::<4>(), b.as_chunks::<4>());
    let mut sums = [simd.splat_f32s(0.0); 4];
    for (a, b) in a_fours.iter().zip(b_fours) {
        for i in 0..4 {
            sums[i] = simd.fma(a[i], W::widen(simd, b[i]), sums[i]);
        }
    }
    for (&a, &b) in a_rest.iter().zip(b_rest) {
        sums[0] = simd.fma(a, W::widen(simd, b), sums[0]);
    }
    if !a_tail.is_empty() {
        let b = W::widen(simd, W::partial(simd, b_tail));
        sums[1] = simd.fma(simd.partial_load_f32s(a_tail), b, sums[1]);
    }
    let pairs = simd.add_f32s(simd.add_f32s(sums[0], sums[1]), simd.add_f32s(sums[2], sums[3]));
    simd.reduce_sum_f32s(pairs)
}
