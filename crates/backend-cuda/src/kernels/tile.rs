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

/// How the work of a launch is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// Blocks of the launch.
    pub grid: u32,
    /// Tiles that blocks share, the last ones; the others are dealt out whole.
    pub shared: u32,
}

impl Tile {
    /// For a card that runs `at_once` blocks at once; fewer of them where that gives every tile to the same number of blocks.
    pub(super) fn divide(self, (m, n, k): (u64, u64, u64), at_once: u32) -> Division {
        let (tiles, steps) = (self.tiles(m, n), k.div_ceil(self.depth));
        let all = u64::from(at_once).clamp(1, MOST);
        if tiles == 0 {
            return Division { grid: 0, shared: 0 };
        }
        let even = all / tiles.min(all) * tiles.min(all);
        let grid = if even * 10 >= all * 9 { even } else { all };
        let grid = grid.min(tiles.max(tiles.saturating_mul(steps) / LEAST));
        let rest = tiles % grid;
        // All are whole where the meeting would cost more than it saves, since most blocks are busy without it, or each would
        // get few steps.
        let busy = tiles > grid && rest * 3 >= grid * 2;
        let shared = if busy || rest.saturating_mul(steps) < LEAST * grid { 0 } else { rest };
        Division { grid: grid as u32, shared: shared as u32 }
    }

    /// Elements of the blocks' parts of tiles that they share, whatever the product.
    pub(super) fn parts(self, at_once: u32) -> usize {
        let all = u64::from(at_once).clamp(1, MOST);
        // Of every block, and of every shared tile, which are fewer.
        ((2 * all - 1) * self.rows * self.cols) as usize
    }

    pub(super) fn tiles(self, m: u64, n: u64) -> u64 {
        m.div_ceil(self.rows).saturating_mul(n.div_ceil(self.cols))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TILE: Tile = Tile { rows: 128, cols: 256, depth: 32 };

    fn divided(m: u64, n: u64, k: u64, at_once: u32) -> (u32, u32) {
        let Division { grid, shared } = TILE.divide((m, n, k), at_once);
        (grid, shared)
    }

    #[test]
    fn blocks_share_tiles_where_there_are_too_few() {
        assert_eq!(divided(0, 4096, 4096, 132), (0, 0));
        assert_eq!(divided(512, 4096, 4096, 132), (128, 64));
        assert_eq!(divided(512, 6144, 4096, 132), (132, 96));
        assert_eq!(divided(16, 256, 64, 132), (1, 0));
        assert_eq!(divided(16, 256, 4096, 132), (32, 1));
    }

    #[test]
    fn blocks_share_what_is_left_of_many_tiles() {
        assert_eq!(divided(2048, 28_672, 4096, 132), (132, 76));
        assert_eq!(divided(128, 256 * 132, 4096, 132), (132, 0));
        // Two thirds of the blocks are busy, or each would get less than four steps.
        assert_eq!(divided(128, 256 * (132 + 88), 4096, 132), (132, 0));
        assert_eq!(divided(128, 256 * 133, 4096, 132), (132, 0));
        assert_eq!(divided(1 << 20, 1 << 20, 64, 4000).0, 1024);
    }

    #[test]
    fn parts_hold_every_share() {
        for at_once in [1, 2, 7, 132, 264, 5000] {
            let slots = TILE.parts(at_once) as u64 / (TILE.rows * TILE.cols);
            for tiles in 1..2 * slots {
                let (grid, shared) = divided(128, 256 * tiles, 32 * 40, at_once);
                assert!(grid > shared, "{tiles} tiles, {at_once} at once");
                assert!(u64::from(grid + shared) <= slots, "{tiles} tiles, {at_once} at once");
            }
        }
    }
}
