//! Launches `kernels/append_rows.cu`.

use super::grid::blocks;
use crate::launch::{In, Out, Scalar, Weight, kernel};

kernel! {
    /// `dst[positions[r]] = src[r]`.
    fn append_rows(
        dst: Out<'a, Weight>,
        dst_stride: u64,
        src: In<'a, Scalar>,
        src_stride: u64,
        positions: In<'a, u32>,
        rows: u64,
        cols: u64,
        capacity: u64,
        distinct: u32,
    ),
    block = 256,
    types = "f32-f32 f16-f16 bf16-bf16 f32-f16 f32-bf16 u32-u32",
    targets = "compute_50",
}

/// Blocks of a launch.
pub fn grid(rows: u64) -> u32 {
    blocks(rows)
}
