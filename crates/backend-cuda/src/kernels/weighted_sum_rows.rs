//! Launches `kernels/weighted_sum_rows.cu`.

use super::grid::columns;
use crate::launch::{In, Out, Scalar, Weight, kernel};

kernel! {
    /// `out[i, c] = Σ_j weights[i, j] · rows[j, c]`.
    fn weighted_sum_rows(
        out: Out<'a, Scalar>,
        out_stride: u64,
        weights: In<'a, Scalar>,
        weights_stride: u64,
        rows: In<'a, Weight>,
        rows_stride: u64,
        m: u64,
        n: u64,
        cols: u64,
    ),
    block = 256,
    types = "f32-f32 f16-f16 bf16-bf16 f32-f16 f32-bf16",
    targets = "compute_50",
}

/// Blocks of a launch.
pub fn grid(m: u64, cols: u64) -> u32 {
    columns(m, cols)
}
