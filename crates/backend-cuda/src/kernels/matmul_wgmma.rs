//! Launches `kernels/matmul_wgmma.cu`.

use super::grid::blocks;
use crate::launch::{In, Out, Scalar, Weight, kernel};

kernel! {
    /// `out[i, j] = Σ_c x[i, c] · w[j, c]`, for many rows of `x`, on Hopper's tensor cores; `plain`: `w[c, j]`; `wide_out`: `out`
    /// is f32.
    fn matmul_wgmma(
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
    ),
    block = 256,
    shared = 196608,
    types = "f16-f16 bf16-bf16",
    targets = "compute_90a",
}

/// Rows, columns and depth of a step of a tile.
const TILE: (u64, u64, u64) = (128, 256, 64);

/// Sizes of a cluster, and how many multiprocessors a card has for each cluster of that size that it runs at a time: a cluster
/// lies within one of the parts of 16 or 18 that a card is made of. Larger ones lose more by meeting than they gain.
const CLUSTERS: [(u32, f32); 5] = [(6, 7.75), (5, 6.0), (4, 4.4), (3, 3.4), (2, 2.0)];

/// Steps of a tile below which sharing it among blocks costs more than it saves.
const LEAST: u64 = 4;

/// Blocks of a launch, and blocks of a cluster, which share a tile where there are too few for all multiprocessors.
pub fn grid(m: u64, n: u64, k: u64, multiprocessors: u32) -> (u32, u32) {
    let (tiles, steps) = (m.div_ceil(TILE.0).saturating_mul(n.div_ceil(TILE.1)), k.div_ceil(TILE.2));
    let fits = |&(size, each): &(u32, f32)| {
        tiles <= (multiprocessors as f32 / each) as u64 && steps >= LEAST * u64::from(size)
    };
    match CLUSTERS.iter().find(|c| fits(c)) {
        Some(&(size, _)) => (blocks(tiles) * size, size),
        None => (blocks(tiles.min(multiprocessors.max(1).into())), 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_share_tiles_where_there_are_too_few() {
        assert_eq!(grid(0, 4096, 4096, 132).0, 0);
        assert_eq!(grid(2048, 4096, 4096, 132), (132, 1));
        assert_eq!(grid(512, 6144, 4096, 132), (96, 1));
        assert_eq!(grid(512, 4096, 4096, 132), (128, 2));
        assert_eq!(grid(256, 4096, 4096, 132), (96, 3));
        assert_eq!(grid(16, 6144, 4096, 132), (96, 4));
        assert_eq!(grid(16, 4096, 4096, 132), (96, 6));
        assert_eq!(grid(16, 4096, 512, 132), (32, 2));
        assert_eq!(grid(16, 64, 64, 132), (1, 1));
        assert_eq!(grid(u64::MAX, u64::MAX, 8, 132), (132, 1));
    }
}
