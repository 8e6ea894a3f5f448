//! Launches `kernels/apply_rope.cu`.

use super::grid::rows_of_eights;
use crate::launch::{In, Out, Scalar, kernel};

kernel! {
    /// Turns each head by its row's position.
    fn apply_rope(
        out: Out<'a, Scalar>,
        out_stride: u64,
        x: In<'a, Scalar>,
        x_stride: u64,
        cos: In<'a, f32>,
        cos_stride: u64,
        sin: In<'a, f32>,
        sin_stride: u64,
        positions: In<'a, u32>,
        rows: u64,
        cols: u64,
        head_dim: u64,
        table_rows: u64,
    ),
    block = 256,
    types = "f32 f16 bf16",
    targets = "compute_50 compute_80",
}

/// Blocks of a launch.
pub fn grid(rows: u64, cols: u64) -> u32 {
    rows_of_eights(rows, cols / 2)
}
