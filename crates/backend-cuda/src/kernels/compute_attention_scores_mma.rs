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

/// Blocks of a multiprocessor that run at once.
const AT_ONCE: u32 = 4;

/// Blocks of a launch: a warp per eight keys of a head, but no more than run at once.
pub fn grid(rows: u64, keys: u64, n_kv_heads: u64, multiprocessors: u32) -> u32 {
    if rows == 0 {
        return 0;
    }
    let items = keys.div_ceil(8).saturating_mul(n_kv_heads);
    blocks(items.div_ceil(8)).min(AT_ONCE * multiprocessors.max(1))
}

#[cfg(test)]
mod tests {
    use super::grid;

    #[test]
    fn there_are_no_more_blocks_than_run_at_once() {
        assert_eq!(grid(1, 32_768, 8, 132), 528);
        assert_eq!(grid(1, 100, 8, 132), 13);
        assert_eq!(grid(1, 0, 8, 132), 0);
        assert_eq!(grid(0, 100, 8, 132), 0);
        assert_eq!(grid(1, u64::MAX, 8, 0), 4);
    }
}
