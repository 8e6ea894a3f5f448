//! Launches `kernels/matmul.cu`.

use super::tile::Tile;
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
        parts: Out<'a, f32>,
        counters: Out<'a, u32>,
    ),
    block = 256,
    types = "f32-f32 f16-f16 bf16-bf16 f32-f16 f32-bf16",
    targets = "compute_50",
}

/// Blocks that a multiprocessor runs at once.
const AT_ONCE: u32 = 2;

/// What a block computes at a time, of few rows and of many.
const TILES: [Tile; 2] = [Tile { rows: 64, cols: 128, depth: 16 }, Tile { rows: 128, cols: 128, depth: 16 }];

/// Blocks of a launch, elements of `parts`, and whether tiles are large.
pub fn division(m: u64, n: u64, k: u64, multiprocessors: u32) -> (u32, usize, bool) {
    let large = m > TILES[0].rows;
    let tile = TILES[usize::from(large)];
    let grid = tile.grid((m, n, k), AT_ONCE.saturating_mul(multiprocessors));
    (grid, tile.parts((m, n), grid), large)
}

#[cfg(test)]
mod tests {
    use super::division;

    #[test]
    fn blocks_that_run_at_once_share_all_the_work() {
        assert_eq!(division(64, 4096, 4096, 132), (256, (32 + 256) * 64 * 128, false));
        assert_eq!(division(65, 4096, 4096, 132), (256, (32 + 256) * 128 * 128, true));
        assert_eq!(division(512, 28_672, 4096, 132), (264, (896 % 264 + 264) * 128 * 128, true));
        assert_eq!(division(9, 0, 4096, 132), (0, 0, false));
        assert_eq!(division(9, 128, 0, u32::MAX), (1, 0, false));
    }
}
