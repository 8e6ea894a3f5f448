//! Launches `kernels/attention.cu`.

use super::division::Division;
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
        partials: Out<'a, f32>,
        counters: Out<'a, u32>,
        splits: u32,
        cluster: u32,
    ),
    block = 256,
    types = "f32-f32 f16-f16 bf16-bf16 f32-f16 f32-bf16",
    targets = "compute_50 compute_90",
}

/// The longest head that the kernel takes.
pub const MOST_HEAD_DIM: usize = 256;

/// Query heads that a block takes.
const HEADS: u64 = 4;

/// How `rows` rows are divided.
pub fn division(rows: u64, n_kv_heads: u64, group: u64, keys: u64, card: (u32, bool)) -> Division {
    Division::new(rows.saturating_mul(n_kv_heads).saturating_mul(group.div_ceil(HEADS)), keys, card)
}

/// Blocks of a launch, which stride if there are more tiles.
pub fn grid(division: Division) -> u32 {
    blocks(division.blocks())
}

/// Elements of `partials`.
pub fn partials(division: Division) -> usize {
    division.partials(HEADS as usize * (MOST_HEAD_DIM + 4))
}
