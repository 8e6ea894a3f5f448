//! Launches `kernels/embed.cu`.

use super::grid::eights;
use crate::launch::{In, Out, Scalar, Weight, kernel};

kernel! {
    /// `out[r] = table[ids[r]]`.
    fn embed(
        out: Out<'a, Scalar>,
        out_stride: u64,
        table: In<'a, Weight>,
        table_stride: u64,
        ids: In<'a, u32>,
        rows: u64,
        cols: u64,
        vocab: u64,
    ),
    block = 256,
    types = "f32-f32 f16-f16 bf16-bf16 f32-f16 f32-bf16",
    targets = "compute_50 compute_80",
}

/// Blocks of a launch.
pub fn grid(rows: u64, cols: u64) -> u32 {
    eights(rows, cols, 2)
}
