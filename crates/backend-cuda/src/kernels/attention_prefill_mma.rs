//! Launches `kernels/attention_prefill_mma.cu`.

use super::grid::exact;
use crate::launch::{In, Out, Scalar, Weight, kernel};

kernel! {
    /// Causal attention over the cache on tensor cores, for many rows; `window` is `u64::MAX` to see all.
    fn attention_prefill_mma(
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
    block = 128,
    shared = 98304,
    types = "f16-f16 bf16-bf16",
    targets = "compute_80",
}

/// Keys of a step.
const KEYS: u32 = 64;

/// Queries that a block takes.
const fn tile(head_dim: u32) -> u32 {
    if head_dim > 128 { 64 } else { 128 }
}

/// Blocks of the launch; none if they are too many for one.
pub fn grid(rows: u64, n_kv_heads: u64, group: u64, head_dim: u32) -> Option<u32> {
    exact(rows.checked_mul(group)?.div_ceil(tile(head_dim).into()).checked_mul(n_kv_heads)?)
}

/// Bytes of shared memory of a block: its queries, and a step of keys and of values.
pub fn shared(head_dim: u32) -> u32 {
    (tile(head_dim) + 2 * KEYS) * 2 * head_dim.next_power_of_two().max(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_take_queries_that_share_keys() {
        assert_eq!(grid(0, 8, 4, 128), Some(0));
        assert_eq!(grid(2048, 8, 4, 128), Some(512));
        assert_eq!(grid(2048, 8, 4, 256), Some(1024));
        assert_eq!(grid(33, 2, 7, 64), Some(4));
        assert_eq!(grid(u64::MAX, 2, 2, 64), None);
    }

    #[test]
    fn shared_memory_is_what_the_longest_head_needs_at_most() {
        assert_eq!([16, 64, 80, 128, 256].map(shared), [32_768, 32_768, 65_536, 65_536, 98_304]);
        assert_eq!(shared(256), Args::signature().shared);
    }
}
