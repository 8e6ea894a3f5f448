//! Launches `kernels/attention.cu`.

use super::grid::blocks;
use crate::launch::{In, Out, Scalar, Weight, kernel};

kernel! {
    /// Causal attention over the cache, for one token or a prompt; `window` is `u64::MAX` to see all.
    fn attention(
        out: Out<'a, Scalar>,
        out_stride: u64,
        q: In<'a, Scalar>,
        q_stride: u64,
        k: In<'a, Weight>,
        k_stride: u64,
        v: In<'a, Weight>,
        v_stride: u64,
        positions: In<'a, u32>,
        rows: u64,
        capacity: u64,
        window: u64,
        n_kv_heads: u32,
        group: u32,
        head_dim: u32,
        scale: f32,
    ),
    block = 256,
    types = "f32-f32 f16-f16 bf16-bf16 f32-f16 f32-bf16",
    targets = "compute_50",
}

/// The longest head that the kernel takes.
pub const MOST_HEAD_DIM: usize = 256;

/// Query heads that a block takes at a time.
const HEADS: u64 = 4;

/// Blocks of a launch.
pub fn grid(rows: u64, n_kv_heads: u64, group: u64) -> u32 {
    blocks(rows.saturating_mul(n_kv_heads).saturating_mul(group.div_ceil(HEADS)))
}
