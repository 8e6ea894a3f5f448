//! Launches `kernels/attention_prefill_wgmma.cu`.

use super::grid::exact;
use crate::launch::{In, Out, Scalar, Weight, kernel};
use crate::tensor_map::TensorMap;

kernel! {
    /// Causal attention over the cache on Hopper's tensor cores, for many rows; `window` is `u64::MAX` to see all.
    fn attention_prefill_wgmma(
        out: Out<'a, Scalar>,
        out_stride: u64,
        q: In<'a, Scalar>,
        q_stride: u64,
        k: In<'a, Weight>,
        k_stride: u64,
        v: In<'a, Weight>,
        v_stride: u64,
        keys: TensorMap,
        values: TensorMap,
        positions: In<'a, u32>,
        rows: u64,
        capacity: u64,
        window: u64,
        n_kv_heads: u32,
        group: u32,
        head_dim: u32,
        scale: f32,
    ),
    block = 384,
    shared = 163840,
    types = "f16-f16 bf16-bf16",
    targets = "compute_90a",
}

/// Keys that the copy engine takes at a time.
pub const KEYS: u32 = 128;

/// Queries that a block takes.
const TILE: u32 = 128;

/// Blocks of a launch on a card with this many multiprocessors, each of which runs one; none if there are too many tiles.
pub fn grid(rows: u64, n_kv_heads: u64, group: u64, multiprocessors: u32) -> Option<u32> {
    let tiles = exact(rows.checked_mul(group)?.div_ceil(TILE.into()).checked_mul(n_kv_heads)?)?;
    Some(tiles.min(multiprocessors.max(1)))
}

/// Heads that the kernel is faster for than the one for older tensor cores; it pads shorter ones, and takes no longer ones.
pub const HEAD_DIMS: std::ops::RangeInclusive<usize> = 65..=128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_take_queries_that_share_keys() {
        assert_eq!(grid(0, 8, 4, 132), Some(0));
        assert_eq!(grid(512, 8, 4, 132), Some(128));
        assert_eq!(grid(2048, 8, 4, 132), Some(132));
        assert_eq!(grid(33, 2, 7, 132), Some(4));
        assert_eq!(grid(u64::MAX, 2, 2, 132), None);
    }
}
