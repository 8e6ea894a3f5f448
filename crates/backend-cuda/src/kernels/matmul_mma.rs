//! Launches `kernels/matmul_mma.cu`.

use crate::launch::{In, Out, Scalar, Weight, kernel};

kernel! {
    /// `out[i, j] = Σ_c x[i, c] · w[j, c]`, for many rows of `x`, on tensor cores; `plain`: `w[c, j]`; `wide_out`: `out` is f32.
    fn matmul_mma(
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
        wide_out: u32,
        parts: Out<'a, f32>,
        counters: Out<'a, u32>,
    ),
    block = 256,
    shared = 98304,
    types = "f16-f16 bf16-bf16",
    targets = "compute_80",
}

/// Rows, columns and depth of a step of a tile.
const TILE: (u64, u64, u64) = (128, 256, 32);

/// Steps of a tile below which sharing it among blocks costs more than it saves.
const LEAST: u64 = 4;

/// Blocks that the kernel has room to count.
const MOST: u64 = 1024;

/// Blocks of a launch on a card with this many multiprocessors, each of which runs one; fewer where that gives every tile
/// to the same number of blocks.
pub fn grid(m: u64, n: u64, k: u64, multiprocessors: u32) -> u32 {
    let (tiles, steps) = (tiles(m, n), k.div_ceil(TILE.2));
    let all = u64::from(multiprocessors).clamp(1, MOST);
    if tiles == 0 || tiles >= all {
        return tiles.min(all) as u32;
    }
    let even = all / tiles * tiles;
    let grid = if even * 10 >= all * 9 { even } else { all };
    grid.min(tiles.max(tiles.saturating_mul(steps) / LEAST)) as u32
}

/// Elements of `parts` for a launch of `grid` blocks.
pub fn parts(m: u64, n: u64, grid: u32) -> usize {
    let rest = tiles(m, n).checked_rem(grid.into()).unwrap_or(0);
    let slots = if rest == 0 { 0 } else { rest + u64::from(grid) };
    (slots * TILE.0 * TILE.1) as usize
}

fn tiles(m: u64, n: u64) -> u64 {
    m.div_ceil(TILE.0).saturating_mul(n.div_ceil(TILE.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_share_tiles_where_there_are_too_few() {
        assert_eq!(grid(0, 4096, 4096, 132), 0);
        assert_eq!(grid(2048, 28_672, 4096, 132), 132);
        assert_eq!(grid(512, 4096, 4096, 132), 128);
        assert_eq!(grid(512, 6144, 4096, 132), 132);
        assert_eq!(grid(16, 256, 64, 132), 1);
        assert_eq!(grid(16, 256, 4096, 132), 32);
        assert_eq!(grid(1 << 20, 1 << 20, 64, 4000), 1024);
    }

    #[test]
    fn parts_hold_every_share() {
        let tile = 128 * 256;
        assert_eq!(parts(128, 256 * 132, 132), 0);
        assert_eq!(parts(128, 256 * 133, 132), 133 * tile);
        assert_eq!(parts(128, 256 * 16, 128), 144 * tile);
        assert_eq!(parts(0, 0, 0), 0);
    }
}
