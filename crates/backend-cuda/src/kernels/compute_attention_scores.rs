//! Launches `kernels/compute_attention_scores.cu`.

use super::grid::dots;
use crate::launch::{In, Out, Scalar, Weight, kernel};

kernel! {
    /// `out[r · heads + h, j] = scale · Σ_c q[r, h, c] · k[j, h / group, c]`.
    fn compute_attention_scores(
        out: Out<'a, Scalar>,
        out_stride: u64,
        q: In<'a, Scalar>,
        q_stride: u64,
        k: In<'a, Weight>,
        k_stride: u64,
        rows: u64,
        keys: u64,
        n_kv_heads: u32,
        group: u32,
        head_dim: u32,
        scale: f32,
    ),
    block = 256,
    types = "f32-f32 f16-f16 bf16-bf16 f32-f16 f32-bf16",
    targets = "compute_50",
}

/// Blocks of a launch.
pub fn grid(rows: u64, keys: u64, head_dim: u64) -> u32 {
    dots(rows, keys, head_dim)
}
