//! Functions of one or two values, applied to whole slices.

use rayon::prelude::*;

use super::lanes::{Kernel, Lanes, dispatch};

/// Values below which a second thread costs more than it brings.
pub(crate) const MIN_PER_THREAD: usize = 1 << 15;

/// A function of two values per lane.
pub(crate) trait Map2: Copy + Send + Sync {
    /// One vector. Mark it `#[inline(always)]`.
    fn apply<S: Lanes>(self, simd: S, a: S::f32s, b: S::f32s) -> S::f32s;
}

/// A function of one value per lane.
pub(crate) trait Map1: Copy + Send + Sync {
    /// One vector. Mark it `#[inline(always)]`.
    fn apply<S: Lanes>(self, simd: S, a: S::f32s) -> S::f32s;
}

/// `out[i] = f(a[i], b[i])`; slices of equal length.
pub(crate) fn map2(f: impl Map2, a: &[f32], b: &[f32], out: &mut [f32]) {
    debug_assert_eq!((a.len(), b.len()), (out.len(), out.len()));
    if out.len() < 2 * MIN_PER_THREAD {
        return dispatch(Apply2 { f, a, b, out });
    }
    let parts = a.par_chunks(MIN_PER_THREAD).zip(b.par_chunks(MIN_PER_THREAD));
    parts.zip(out.par_chunks_mut(MIN_PER_THREAD)).for_each(|((a, b), out)| dispatch(Apply2 { f, a, b, out }));
}

/// `a[i] = f(a[i], b[i])`; slices of equal length.
pub(crate) fn map2_assign(f: impl Map2, a: &mut [f32], b: &[f32]) {
    debug_assert_eq!(a.len(), b.len());
    if a.len() < 2 * MIN_PER_THREAD {
        return dispatch(Assign2 { f, a, b });
    }
    let parts = a.par_chunks_mut(MIN_PER_THREAD).zip(b.par_chunks(MIN_PER_THREAD));
    parts.for_each(|(a, b)| dispatch(Assign2 { f, a, b }));
}

/// `a[i] = f(a[i])`.
pub(crate) fn map1_assign(f: impl Map1, a: &mut [f32]) {
    if a.len() < 2 * MIN_PER_THREAD {
        return dispatch(Assign1 { f, a });
    }
    a.par_chunks_mut(MIN_PER_THREAD).for_each(|a| dispatch(Assign1 { f, a }));
}

struct Apply2<'a, F> {
    f: F,
    a: &'a [f32],
    b: &'a [f32],
    out: &'a mut [f32],
}

impl<F: Map2> Kernel for Apply2<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let ((a, a_tail), (b, b_tail)) = (S::as_simd_f32s(self.a), S::as_simd_f32s(self.b));
        let (out, out_tail) = S::as_mut_simd_f32s(self.out);
        for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
            *o = self.f.apply(simd, a, b);
        }
        if !out_tail.is_empty() {
            let (a, b) = (simd.partial_load_f32s(a_tail), simd.partial_load_f32s(b_tail));
            simd.partial_store_f32s(out_tail, self.f.apply(simd, a, b));
        }
    }
}

struct Assign2<'a, F> {
    f: F,
    a: &'a mut [f32],
    b: &'a [f32],
}

impl<F: Map2> Kernel for Assign2<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let (b, b_tail) = S::as_simd_f32s(self.b);
        let (a, a_tail) = S::as_mut_simd_f32s(self.a);
        for (a, &b) in a.iter_mut().zip(b) {
            *a = self.f.apply(simd, *a, b);
        }
        if !a_tail.is_empty() {
            let value = self.f.apply(simd, simd.partial_load_f32s(a_tail), simd.partial_load_f32s(b_tail));
            simd.partial_store_f32s(a_tail, value);
        }
    }
}

struct Assign1<'a, F> {
    f: F,
    a: &'a mut [f32],
}

impl<F: Map1> Kernel for Assign1<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let (a, tail) = S::as_mut_simd_f32s(self.a);
        for a in a.iter_mut() {
            *a = self.f.apply(simd, *a);
        }
        if !tail.is_empty() {
            let value = self.f.apply(simd, simd.partial_load_f32s(tail));
            simd.partial_store_f32s(tail, value);
        }
    }
}
