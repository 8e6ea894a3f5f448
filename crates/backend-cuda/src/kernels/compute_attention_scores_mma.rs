//! Launches `kernels/compute_attention_scores_mma.cu`.

use super::grid::blocks;
use crate::launch::{In, Out, Scalar, Weight, kernel};

kernel! {
    /// `compute_attention_scores` on tensor cores.
    fn compute_attention_scores_mma(
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
    types = "f16-f16 bf16-bf16",
    targets = "compute_80 compute_90",
}

/// Blocks of a launch: a warp per eight keys of a head.
pub fn grid(rows: u64, keys: u64, n_kv_heads: u64) -> u32 {
    if rows == 0 { 0 } else { blocks(keys.div_ceil(8).saturating_mul(n_kv_heads).div_ceil(8)) }
}
