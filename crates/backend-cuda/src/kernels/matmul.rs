//! Launches `kernels/matmul.cu`.

use super::tile::{Division, Tile};
use crate::launch::{In, Out, Scalar, Weight, kernel};

kernel! {
    /// `out[i, j] = Σ_c x[i, c] · w[j, c]`, for many rows of `x`; `plain`: `w[c, j]`.
    fn matmul(
        out: Out<'a, Scalar>,
        out_stride: u64,
        x: In<'a, Scalar>,
        x_stride: u64,
        w: In<'a, Weight>,
        w_stride: u64,
        m: u64,
        n: u64,
        k: u64,
        plain: u32,
        accumulate: u32,
        wide: u32,
        large: u32,
        shared: u32,
        parts: Out<'a, f32>,
        counters: Out<'a, u32>,
    ),
    block = 256,
    types = "f32-f32 f16-f16 bf16-bf16 f32-f16 f32-bf16",
    targets = "compute_50",
}

/// Blocks that a multiprocessor runs at once, if it has 68 KiB of shared memory.
const AT_ONCE: u32 = 2;

/// What a block computes at a time, of few rows and of many.
const FEW: Tile = Tile { rows: 64, cols: 128, depth: 16 };
const MANY: Tile = Tile { rows: 128, ..FEW };

/// Inputs from which on even few tiles are enough for all blocks to share.
const LONG: u64 = 256;

/// How a launch divides its work, and whether its tiles are large.
pub fn division(m: u64, n: u64, k: u64, multiprocessors: u32) -> (Division, bool) {
    let at_once = AT_ONCE.saturating_mul(multiprocessors);
    let large = m > FEW.rows && (k >= LONG || MANY.tiles(m, n) >= at_once.into());
    (if large { MANY } else { FEW }.divide((m, n, k), at_once), large)
}

/// Elements of `parts` where tiles are shared.
pub fn parts(multiprocessors: u32) -> usize {
    MANY.parts(AT_ONCE.saturating_mul(multiprocessors))
}

#[cfg(test)]
mod tests {
    use super::division;

    #[test]
    fn blocks_that_run_at_once_share_all_the_work() {
        let divided = |m, n, k| {
            let (division, large) = division(m, n, k, 132);
            (division.grid, division.shared, large)
        };
        assert_eq!(divided(64, 4096, 4096), (256, 32, false));
        assert_eq!(divided(65, 4096, 4096), (256, 32, true));
        assert_eq!(divided(512, 28_672, 4096), (264, 896 % 264, true));
        assert_eq!(divided(512, 512, 64), (32, 0, false));
        assert_eq!(divided(4096, 4096, 64), (264, 0, true));
        assert_eq!(divided(9, 0, 4096), (0, 0, false));
        assert_eq!(divided(9, 128, 0), (1, 0, false));
    }
}
