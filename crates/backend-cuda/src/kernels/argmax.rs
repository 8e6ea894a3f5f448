//! Launches `kernels/argmax.cu`.

use super::grid::blocks;
use crate::launch::{In, Out, Scalar, kernel};

kernel! {
    /// `id[r] = argmax x[r]`, then `position[r] += 1` if `position` is not empty.
    fn argmax(
        id: Out<'a, u32>,
        position: Out<'a, u32>,
        x: In<'a, Scalar>,
        x_stride: u64,
        rows: u64,
        cols: u64,
    ),
    block = 1024,
    types = "f32 f16 bf16",
    targets = "compute_50",
}

/// Blocks of a launch.
pub fn grid(rows: u64) -> u32 {
    blocks(rows)
}
