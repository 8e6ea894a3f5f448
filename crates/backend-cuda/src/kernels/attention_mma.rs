//! Launches `kernels/attention_mma.cu`.

use super::division::Division;
use super::grid::exact;
use crate::launch::{In, Out, Scalar, Weight, kernel};

kernel! {
    /// Causal attention over the cache on tensor cores, for few rows; `window` is `u64::MAX` to see all.
    fn attention_mma(
        out: Out<'a, Scalar>,
        out_stride: u64,
        q: In<'a, Scalar>,
        q_stride: u64,
        k: In<'a, Weight>,
        k_stride: u64,
        v: In<'a, Weight>,
        v_stride: u64,
        positions: In<'a, u32>,
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
    types = "f16-f16 bf16-bf16",
    targets = "compute_80 compute_90",
}

/// The longest head that the kernel takes.
pub const MOST_HEAD_DIM: usize = 128;

/// Query heads that a block takes.
const HEADS: u64 = 8;

/// How `rows` rows are divided.
pub fn division(rows: u64, n_kv_heads: u64, group: u64, keys: u64, card: (u32, bool)) -> Division {
    Division::new(rows.saturating_mul(n_kv_heads).saturating_mul(group.div_ceil(HEADS)), keys, card)
}

/// Blocks of a launch; none if they are too many for one.
pub fn grid(division: Division) -> Option<u32> {
    exact(division.blocks())
}

/// Elements of `partials`.
pub fn partials(division: Division) -> usize {
    division.partials(HEADS as usize * (MOST_HEAD_DIM + 4))
}
