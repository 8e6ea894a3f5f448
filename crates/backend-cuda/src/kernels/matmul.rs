//! Launches `kernels/matmul.cu`.

use super::grid::blocks;
use crate::launch::{In, Out, Scalar, Weight, kernel};

kernel! {
    /// `out[i, j] = Σ_c x[i, c] · w[j, c]`, for many rows of `x`; `plain`: `w[c, j]`.
    fn matmul(
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
        wide: u32,
        large: u32,
    ),
    block = 256,
    types = "f32-f32 f16-f16 bf16-bf16 f32-f16 f32-bf16",
    targets = "compute_50",
}

/// Blocks of a launch, and whether their tiles are large: where there are enough of these for the card.
pub fn grid(m: u64, n: u64, multiprocessors: u32) -> (u32, bool) {
    let tiles = |side| m.div_ceil(side).saturating_mul(n.div_ceil(side));
    let large = 4 * tiles(128).min(1 << 32) >= 3 * u64::from(multiprocessors);
    (blocks(tiles(if large { 128 } else { 64 })), large)
}
