//! Products with few rows of activations: the weights are streamed once, and memory sets the pace.

use rayon::prelude::*;

use super::element::Element;
use super::lanes::{Kernel, Lanes, dispatch};
use super::part::part;
use super::rows::{ColumnTile, Rows, RowsMut};

/// Rows of `x` that share one pass over the weights.
pub(crate) const FEW: usize = 8;

/// Weights below which a second thread costs more than it brings.
const MIN_WEIGHTS_PER_TASK: usize = 1 << 15;

/// `out[r, n] = Σ_k x[r, k] · w[n, k]`, added to `out` when `accumulate`; x `[r, k]`, w `[n, k]`, out `[r, n]`.
///
/// Each output has one `f32` accumulator per vector lane, whatever the number of rows and threads. More than
/// [`FEW`] rows work, but read the weights again from the cache for each [`FEW`] of them.
pub(crate) fn matmul_few<W: Element>(
    x: Rows<'_, f32>,
    w: Rows<'_, W>,
    out: RowsMut<'_, f32>,
    accumulate: bool,
) {
    debug_assert_eq!((x.rows(), w.rows(), x.cols()), (out.rows(), out.cols(), w.cols()));
    if out.rows() == 0 || out.cols() == 0 {
        return;
    }
    let least = MIN_WEIGHTS_PER_TASK.div_ceil(w.cols().max(1));
    let width = w.rows().div_ceil(4 * rayon::current_num_threads()).max(least).next_multiple_of(4);
    let product = |tile| dispatch(Product { x, w, tile, accumulate });
    if width >= w.rows() {
        out.into_column_tiles(width).into_iter().for_each(product);
    } else {
        out.into_column_tiles(width).into_par_iter().with_max_len(1).for_each(product);
    }
}

struct Product<'a, W> {
    x: Rows<'a, f32>,
    w: Rows<'a, W>,
    tile: ColumnTile<'a, f32>,
    accumulate: bool,
}

impl<W: Element> Kernel for Product<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(mut self, simd: S) {
        let first = self.tile.start;
        let width = self.tile.rows.first().map_or(0, |row| row.len());
        let w = self.w.slice(first..first + width);
        if let [out] = self.tile.rows.as_mut_slice() {
            return single(simd, self.x.row(0), w, out, self.accumulate);
        }
        let mut done = 0;
        while done < width {
            let step = if width - done >= 2 { 2 } else { 1 };
            for (group, outs) in self.tile.rows.chunks_mut(FEW).enumerate() {
                let x = self.x.slice(group * FEW..group * FEW + outs.len());
                match step {
                    2 => pass::<S, W, 2>(simd, x, w, done, outs, self.accumulate),
                    _ => pass::<S, W, 1>(simd, x, w, done, outs, self.accumulate),
                }
            }
            done += step;
        }
    }
}

/// One row of activations: four rows of weights at a time.
#[inline(always)]
fn single<S: Lanes, W: Element>(simd: S, x: &[f32], w: Rows<'_, W>, out: &mut [f32], accumulate: bool) {
    let (fours, rest) = out.as_chunks_mut::<4>();
    let remainder = 4 * fours.len();
    for (i, out) in fours.iter_mut().enumerate() {
        let rows = [w.row(4 * i), w.row(4 * i + 1), w.row(4 * i + 2), w.row(4 * i + 3)];
        let [sums] = dots(simd, [x], rows);
        for (o, s) in out.iter_mut().zip(sums) {
            store(o, s, accumulate);
        }
    }
    for (i, o) in rest.iter_mut().enumerate() {
        let [[sum]] = dots(simd, [x], [w.row(remainder + i)]);
        store(o, sum, accumulate);
    }
}

/// `N` rows of weights, from row `at` on, for up to [`FEW`] rows of activations.
#[inline(always)]
fn pass<S: Lanes, W: Element, const N: usize>(
    simd: S,
    x: Rows<'_, f32>,
    w: Rows<'_, W>,
    at: usize,
    outs: &mut [&mut [f32]],
    accumulate: bool,
) {
    let mut weights: [&[W]; N] = [&[]; N];
    for (i, row) in weights.iter_mut().enumerate() {
        *row = w.row(at + i);
    }
    match outs.len() {
        1 => rows::<S, W, 1, N>(simd, x, weights, at, outs, accumulate),
        2 => rows::<S, W, 2, N>(simd, x, weights, at, outs, accumulate),
        3 => rows::<S, W, 3, N>(simd, x, weights, at, outs, accumulate),
        4 => rows::<S, W, 4, N>(simd, x, weights, at, outs, accumulate),
        5 => rows::<S, W, 5, N>(simd, x, weights, at, outs, accumulate),
        6 => rows::<S, W, 6, N>(simd, x, weights, at, outs, accumulate),
        7 => rows::<S, W, 7, N>(simd, x, weights, at, outs, accumulate),
        _ => rows::<S, W, 8, N>(simd, x, weights, at, outs, accumulate),
    }
}

#[inline(always)]
fn rows<S: Lanes, W: Element, const R: usize, const N: usize>(
    simd: S,
    x: Rows<'_, f32>,
    weights: [&[W]; N],
    at: usize,
    outs: &mut [&mut [f32]],
    accumulate: bool,
) {
    let mut activations: [&[f32]; R] = [&[]; R];
    for (i, row) in activations.iter_mut().enumerate() {
        *row = x.row(i);
    }
    let sums = dots(simd, activations, weights);
    for (out, sums) in outs.iter_mut().zip(sums) {
        for (o, s) in out.iter_mut().skip(at).zip(sums) {
            store(o, s, accumulate);
        }
    }
}

#[inline(always)]
fn store(out: &mut f32, sum: f32, accumulate: bool) {
    *out = if accumulate { *out + sum } else { sum };
}

/// The `R · N` scalar products of rows of equal length.
#[inline(always)]
fn dots<S: Lanes, W: Element, const R: usize, const N: usize>(
    simd: S,
    x: [&[f32]; R],
    w: [&[W]; N],
) -> [[f32; N]; R] {
    let steps = x[0].len() / S::F32_LANES;
    let mut inputs: [&[S::f32s]; R] = [&[]; R];
    for (input, row) in inputs.iter_mut().zip(x) {
        *input = part(S::as_simd_f32s(row).0, ..steps);
    }
    let mut heads: [&[W::Packed<S>]; N] = [&[]; N];
    for (head_of, row) in heads.iter_mut().zip(w) {
        *head_of = part(W::packed::<S>(row).0, ..steps);
    }
    let mut sums = [[simd.splat_f32s(0.0); N]; R];
    if inputs.iter().all(|x| x.len() == steps) && heads.iter().all(|w| w.len() == steps) {
        for i in 0..steps {
            let mut weights = [simd.splat_f32s(0.0); N];
            for (weight, head) in weights.iter_mut().zip(&heads) {
                *weight = W::widen(simd, head[i]);
            }
            for (sums, x) in sums.iter_mut().zip(&inputs) {
                for (sum, &weight) in sums.iter_mut().zip(&weights) {
                    *sum = simd.fma(x[i], weight, *sum);
                }
            }
        }
    }
    if !x[0].len().is_multiple_of(S::F32_LANES) {
        add_tails(simd, x, w, &mut sums);
    }
    let mut out = [[0.0; N]; R];
    for (out, sums) in out.iter_mut().zip(&sums) {
        for (o, &sum) in out.iter_mut().zip(sums) {
            *o = simd.reduce_sum_f32s(sum);
        }
    }
    out
}

/// Adds the products of what does not fill a vector.
#[inline(always)]
fn add_tails<S: Lanes, W: Element, const R: usize, const N: usize>(
    simd: S,
    x: [&[f32]; R],
    w: [&[W]; N],
    sums: &mut [[S::f32s; N]; R],
) {
    let mut weights = [simd.splat_f32s(0.0); N];
    for (weight, row) in weights.iter_mut().zip(w) {
        *weight = W::widen(simd, W::partial(simd, W::packed::<S>(row).1));
    }
    for (sums, row) in sums.iter_mut().zip(x) {
        let x = simd.partial_load_f32s(S::as_simd_f32s(row).1);
        for (sum, &weight) in sums.iter_mut().zip(&weights) {
            *sum = simd.fma(x, weight, *sum);
        }
    }
}
