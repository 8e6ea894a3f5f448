//! Launches `kernels/matmul_mma.cu`.

use super::tile::{Division, Tile};
use crate::launch::{In, Out, Scalar, Weight, kernel};

kernel! {
    /// `out[i, j] = Σ_c x[i, c] · w[j, c]`, for many rows of `x`, on tensor cores; `plain`: `w[c, j]`; `wide_out`: `out` is f32.
    fn matmul_mma(
        out: Out<'a, Scalar>,
        out_stride: u64,
        x: In<'a, Scalar>,
        x_stride: u64,
        w: In<'a, Weight>,
        w_stride: u64,
        m: u64,
        n: u64,
        k: u64,
        plain: u32,
        accumulate: u32,
        wide_out: u32,
        shared: u32,
        parts: Out<'a, f32>,
        counters: Out<'a, u32>,
    ),
    block = 256,
    shared = 98304,
    types = "f16-f16 bf16-bf16",
    targets = "compute_80",
}

/// What a block computes at a time.
const TILE: Tile = Tile { rows: 128, cols: 256, depth: 32 };

/// How a launch divides its work on a card with this many multiprocessors, each of which runs one block.
pub fn division(m: u64, n: u64, k: u64, multiprocessors: u32) -> Division {
    TILE.divide((m, n, k), multiprocessors)
}

/// Elements of `parts` where tiles are shared.
pub fn parts(multiprocessors: u32) -> usize {
    TILE.parts(multiprocessors)
}
