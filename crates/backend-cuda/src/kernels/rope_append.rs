//! Launches `kernels/rope_append.cu`.

use super::grid::blocks;
use crate::launch::{In, Out, Scalar, Weight, kernel};

kernel! {
    /// Turns queries in place, and keys to the cache; copies values to the cache.
    fn rope_append(
        qkv: Out<'a, Scalar>,
        qkv_stride: u64,
        keys: Out<'a, Weight>,
        keys_stride: u64,
        values: Out<'a, Weight>,
        values_stride: u64,
        cos: In<'a, f32>,
        cos_stride: u64,
        sin: In<'a, f32>,
        sin_stride: u64,
        positions: In<'a, u32>,
        rows: u64,
        table_rows: u64,
        capacity: u64,
        n_heads: u32,
        n_kv_heads: u32,
        head_dim: u32,
    ),
    block = 128,
    types = "f32-f32 f16-f16 bf16-bf16 f32-f16 f32-bf16",
    targets = "compute_50 compute_80",
}

/// Blocks of a launch.
pub fn grid(rows: u64) -> u32 {
    blocks(rows)
}
