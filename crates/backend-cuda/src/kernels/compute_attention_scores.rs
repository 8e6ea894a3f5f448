//! Launches `kernels/compute_attention_scores.cu`.

use super::grid::{blocks, dots};
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

/// Blocks that a multiprocessor runs at once.
const AT_ONCE: u32 = 2;

/// Blocks of a launch for `of_pass` queries that read the keys of each head at a time, but no more than run at once.
pub fn grid(of_pass: u64, keys: u64, head_dim: u64, n_kv_heads: u64, multiprocessors: u32) -> u32 {
    let all = u64::from(dots(of_pass, keys, head_dim)).saturating_mul(n_kv_heads);
    blocks(all).min(AT_ONCE.saturating_mul(multiprocessors.max(1)))
}

#[cfg(test)]
mod tests {
    use super::grid;

    #[test]
    fn there_are_no_more_blocks_than_run_at_once() {
        assert_eq!(grid(4, 32_768, 128, 8, 132), 264);
        assert_eq!(grid(4, 64, 128, 8, 132), 16);
        assert_eq!(grid(4, 0, 128, 8, 132), 0);
        assert_eq!(grid(0, 64, 128, 8, 132), 0);
        assert_eq!(grid(1, u64::MAX, 1, u64::MAX, 0), 2);
    }
}
