//! From row-major products to the column-major ones that cuBLASLt computes; the only place that transposes.

use backend_api::DType;
use backend_api::ops::WeightLayout;

use super::ffi::DataType;

/// Rows in device memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    /// Address of the first element.
    pub(crate) address: u64,
    /// Elements from one row's start to the next one's.
    pub(crate) stride: u64,
    pub(crate) dtype: DType,
}

/// `out[m, n] = x[m, k] · w`, with `w` `[n, k]` or `[k, n]` as `layout` says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gemm {
    pub(crate) m: u64,
    pub(crate) n: u64,
    pub(crate) k: u64,
    pub(crate) x: Rows,
    pub(crate) w: Rows,
    pub(crate) layout: WeightLayout,
    pub(crate) out: Rows,
    /// Adds to what `out` holds.
    pub(crate) accumulate: bool,
}

/// A column-major matrix without its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Matrix {
    pub(super) dtype: DataType,
    pub(super) rows: u64,
    pub(super) cols: u64,
    /// Elements from one column's start to the next one's.
    pub(super) step: i64,
    /// Of its address, a power of two up to [`ALIGNMENT`].
    pub(super) alignment: u32,
}

/// `d = op(a) · b`, what an algorithm is chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Problem {
    pub(super) a: Matrix,
    pub(super) transpose_a: bool,
    pub(super) b: Matrix,
    pub(super) d: Matrix,
}

/// The widest load of the library's kernels. What is aligned better is treated alike, so that an algorithm, and with it the
/// bits of a result, does not depend on where a tensor happens to lie.
const ALIGNMENT: u32 = 16;

impl Gemm {
    /// A row-major `[r, c]` matrix is a column-major `[c, r]` one in the same memory, so `outᵀ[n, m] = op(w) · xᵀ[k, m]`
    /// where `w` as stored is `[k, n]` and to be transposed, or `[n, k]` already.
    ///
    /// `None` where the library has no counterpart: an empty side, a size beyond its 32 bits, other types.
    pub(super) fn problem(&self) -> Option<Problem> {
        let (m, n, k) = (self.m, self.n, self.k);
        let is_sized = [m, n, k].iter().all(|side| (1..=i32::MAX as u64).contains(side));
        let is_typed = self.x.dtype == self.w.dtype && [self.x.dtype, DType::F32].contains(&self.out.dtype);
        if !is_sized || !is_typed {
            return None;
        }
        let transpose_a = self.layout == WeightLayout::OutIn;
        let (w_rows, w_cols) = if transpose_a { (k, n) } else { (n, k) };
        Some(Problem {
            a: self.w.matrix(w_rows, w_cols)?,
            transpose_a,
            b: self.x.matrix(k, m)?,
            d: self.out.matrix(n, m)?,
        })
    }
}

impl Rows {
    fn matrix(&self, rows: u64, cols: u64) -> Option<Matrix> {
        let dtype = match self.dtype {
            DType::F32 => DataType::F32,
            DType::F16 => DataType::F16,
            DType::BF16 => DataType::Bf16,
            _ => return None,
        };
        // The step of a single column means nothing, but must hold it.
        let step = if cols == 1 { self.stride.max(rows) } else { self.stride };
        let step = i64::try_from(step).ok().filter(|_| step >= rows)?;
        step.checked_mul(i64::try_from(cols).ok()?)?;
        let alignment = 1 << self.address.trailing_zeros().min(ALIGNMENT.trailing_zeros());
        Some(Matrix { dtype, rows, cols, step, alignment })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(address: u64, stride: u64, dtype: DType) -> Rows {
        Rows { address, stride, dtype }
    }

    fn gemm(layout: WeightLayout) -> Gemm {
        let (x, w, out) =
            (rows(0x1000, 7, DType::BF16), rows(0x2000, 11, DType::BF16), rows(0x3000, 13, DType::BF16));
        Gemm { m: 3, n: 5, k: 4, x, w, layout, out, accumulate: false }
    }

    /// `op(a) · b` as BLAS defines it, on column-major memory.
    fn column_major(p: &Problem, a: &[f64], b: &[f64], d: &mut [f64]) {
        let k = if p.transpose_a { p.a.rows } else { p.a.cols };
        assert_eq!(k, p.b.rows);
        let at = |i: u64, j: u64, m: &Matrix| (i + j * m.step as u64) as usize;
        for (i, j) in (0..p.d.rows).flat_map(|i| (0..p.d.cols).map(move |j| (i, j))) {
            let term = |c| a[if p.transpose_a { at(c, i, &p.a) } else { at(i, c, &p.a) }] * b[at(c, j, &p.b)];
            d[at(i, j, &p.d)] = (0..k).map(term).sum();
        }
    }

    #[test]
    fn the_column_major_product_is_the_row_major_one_in_both_layouts() {
        for layout in [WeightLayout::OutIn, WeightLayout::InOut] {
            let g = gemm(layout);
            let x: Vec<_> = (0..40).map(|i| f64::from(i * 37 % 23)).collect();
            let w: Vec<_> = (0..70).map(|i| f64::from(i * 29 % 19)).collect();
            let mut out = vec![-1.0; 50];
            column_major(&g.problem().unwrap(), &w, &x, &mut out);
            for (i, j) in (0..3).flat_map(|i| (0..5).map(move |j| (i, j))) {
                let weight =
                    |c: usize| if layout == WeightLayout::OutIn { w[j * 11 + c] } else { w[c * 11 + j] };
                let want: f64 = (0..4).map(|c| x[i * 7 + c] * weight(c)).sum();
                assert_eq!(out[i * 13 + j], want, "{layout:?} {i} {j}");
            }
            assert_eq!(out.iter().filter(|v| **v == -1.0).count(), 50 - 15, "{layout:?}: a gap was written");
        }
    }

    #[test]
    fn nothing_empty_or_too_large_reaches_the_library() {
        let set: [fn(&mut Gemm, u64); 3] = [|g, s| g.m = s, |g, s| g.n = s, |g, s| g.k = s];
        for (set, size) in set.iter().flat_map(|set| [0, 1 << 31, u64::MAX].map(|size| (set, size))) {
            let mut g = gemm(WeightLayout::OutIn);
            (g.x.stride, g.w.stride, g.out.stride) = (1 << 40, 1 << 40, 1 << 40);
            assert!(g.problem().is_some());
            set(&mut g, size);
            assert_eq!(g.problem(), None, "{size}");
        }
        for stride in [u64::MAX, i64::MAX as u64, 3] {
            let mut g = gemm(WeightLayout::OutIn);
            g.x.stride = stride;
            assert_eq!(g.problem(), None, "{stride}");
        }
    }

    #[test]
    fn a_single_row_may_have_any_stride() {
        let mut g = gemm(WeightLayout::OutIn);
        (g.m, g.x.stride) = (1, 0);
        assert_eq!(g.problem().unwrap().b.step, 4);
    }

    #[test]
    fn types_are_those_of_one_input_and_its_type_or_f32_as_output() {
        let with = |x, w, out| {
            let mut g = gemm(WeightLayout::OutIn);
            (g.x.dtype, g.w.dtype, g.out.dtype) = (x, w, out);
            g.problem().is_some()
        };
        use DType::*;
        for t in [F32, F16, BF16] {
            assert!(with(t, t, t) && with(t, t, F32), "{t}");
        }
        for (x, w, out) in
            [(F32, BF16, F32), (F16, BF16, F32), (F32, F32, BF16), (F16, F16, BF16), (U32, U32, U32)]
        {
            assert!(!with(x, w, out), "{x} {w} {out}");
        }
    }

    #[test]
    fn alignment_is_told_up_to_sixteen_bytes() {
        for (address, want) in [(0x1002, 2), (0x1004, 4), (0x1008, 8), (0x1010, 16), (0x1000, 16)] {
            let mut g = gemm(WeightLayout::OutIn);
            g.x.address = address;
            assert_eq!(g.problem().unwrap().b.alignment, want, "{address:#x}");
        }
    }
}
