//! Launches `kernels/rmsnorm.cu`.

use super::grid::blocks;
use crate::launch::{In, Out, Scalar, Weight, kernel};

kernel! {
    /// `out[r, c] = x[r, c] · w[c] / √(mean(x[r]²) + eps)`.
    fn rmsnorm(
        out: Out<'a, Scalar>,
        out_stride: u64,
        x: In<'a, Scalar>,
        x_stride: u64,
        w: In<'a, Weight>,
        rows: u64,
        cols: u64,
        eps: f32,
        narrow: u32,
    ),
    block = 256,
    types = "f32-f32 f16-f16 bf16-bf16 f32-f16 f32-bf16",
    targets = "compute_50 compute_80",
}

/// Blocks of a launch.
pub fn grid(rows: u64) -> u32 {
    blocks(rows)
}
