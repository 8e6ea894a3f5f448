//! Launches `kernels/norm_qkv_rope_append.cu`.

use super::grid::exact;
use crate::launch::{In, Out, Weight, kernel};

kernel! {
    /// Norm, projections, rotary positions and cache of one row.
    fn norm_qkv_rope_append(
        q: Out<'a, Weight>,
        keys: Out<'a, Weight>,
        keys_stride: u64,
        values: Out<'a, Weight>,
        values_stride: u64,
        x: In<'a, f32>,
        norm: In<'a, Weight>,
        w: In<'a, Weight>,
        w_stride: u64,
        cos: In<'a, f32>,
        cos_stride: u64,
        sin: In<'a, f32>,
        sin_stride: u64,
        position: In<'a, u32>,
        table_rows: u64,
        capacity: u64,
        k: u32,
        n_heads: u32,
        n_kv_heads: u32,
        head_dim: u32,
        share: u32,
        eps: f32,
    ),
    block = 256,
    shared = 98304,
    types = "f32-f32 f32-f16 f32-bf16",
    targets = "compute_50 compute_90",
}

/// Blocks of a launch: four rows for every `share` of a block's eight warps; none if they are too many for one.
pub fn grid(rows: u64, share: u32) -> Option<u32> {
    exact((rows / 4).checked_mul(share.into())?.div_ceil(8))
}
