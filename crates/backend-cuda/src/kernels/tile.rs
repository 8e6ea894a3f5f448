//! How products are divided among blocks that may share tiles of the output (`kernels/parts.cuh`).

/// Rows and columns of a tile, and columns of the operands of a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile {
    pub(super) rows: u64,
    pub(super) cols: u64,
    pub(super) depth: u64,
}

/// Steps of a tile below which sharing it among blocks costs more than it saves.
const LEAST: u64 = 4;

/// Blocks that a kernel has room to count.
const MOST: u64 = 1024;

impl Tile {
    /// Blocks of a launch on a card that runs `at_once` of them at once; fewer where that gives every tile to the same number
    /// of blocks.
    pub(super) fn grid(self, (m, n, k): (u64, u64, u64), at_once: u32) -> u32 {
        let (tiles, steps) = (self.tiles(m, n), k.div_ceil(self.depth));
        let all = u64::from(at_once).clamp(1, MOST);
        if tiles == 0 || tiles >= all {
            return tiles.min(all) as u32;
        }
        let even = all / tiles * tiles;
        let grid = if even * 10 >= all * 9 { even } else { all };
        grid.min(tiles.max(tiles.saturating_mul(steps) / LEAST)) as u32
    }

    /// Elements of the blocks' parts of tiles that they share, in a launch of `grid` blocks.
    pub(super) fn parts(self, (m, n): (u64, u64), grid: u32) -> usize {
        let rest = self.tiles(m, n).checked_rem(grid.into()).unwrap_or(0);
        let slots = if rest == 0 { 0 } else { rest + u64::from(grid) };
        (slots * self.rows * self.cols) as usize
    }

    fn tiles(self, m: u64, n: u64) -> u64 {
        m.div_ceil(self.rows).saturating_mul(n.div_ceil(self.cols))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TILE: Tile = Tile { rows: 128, cols: 256, depth: 32 };

    #[test]
    fn blocks_share_tiles_where_there_are_too_few() {
        let grid = |m, n, k, at_once| TILE.grid((m, n, k), at_once);
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
        assert_eq!(TILE.parts((128, 256 * 132), 132), 0);
        assert_eq!(TILE.parts((128, 256 * 133), 132), 133 * tile);
        assert_eq!(TILE.parts((128, 256 * 16), 128), 144 * tile);
        assert_eq!(TILE.parts((0, 0), 0), 0);
    }
}
