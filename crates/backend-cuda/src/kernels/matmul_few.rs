//! Launches `kernels/matmul_few.cu`.

use super::grid::{columns, dots};
use crate::launch::{In, Out, Scalar, Weight, kernel};

kernel! {
    /// `out[i, j] = Σ_c x[i, c] · w[j, c]`, for few rows of `x`; with `lanes`, threads side by side that share a row: `w[c, j]`.
    fn matmul_few(
        out: Out<'a, Scalar>,
        out_stride: u64,
        x: In<'a, Scalar>,
        x_stride: u64,
        w: In<'a, Weight>,
        w_stride: u64,
        m: u64,
        n: u64,
        k: u64,
        lanes: u32,
        accumulate: u32,
        wide: u32,
    ),
    block = 256,
    types = "f32-f32 f16-f16 bf16-bf16 f32-f16 f32-bf16",
    targets = "compute_50",
}

/// Blocks of a launch, and `lanes`.
pub fn division(m: u64, n: u64, k: u64, plain: bool, multiprocessors: u32) -> (u32, u32) {
    if plain { columns(m, n, multiprocessors) } else { (dots(m, n, k), 0) }
}
