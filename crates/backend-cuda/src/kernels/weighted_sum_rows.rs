//! Launches `kernels/weighted_sum_rows.cu`.

use super::grid::blocks;
use crate::launch::{In, Out, Scalar, Weight, kernel};

kernel! {
    /// `out[i, h, c] = Σ_j weights[i · heads + h, j] · rows[j, h / group, c]`.
    fn weighted_sum_rows(
        out: Out<'a, Scalar>,
        out_stride: u64,
        weights: In<'a, Scalar>,
        weights_stride: u64,
        rows: In<'a, Weight>,
        rows_stride: u64,
        m: u64,
        n: u64,
        n_kv_heads: u32,
        group: u32,
        cols: u32,
        splits: u32,
        partials: Out<'a, f32>,
        counters: Out<'a, u32>,
    ),
    block = 256,
    types = "f32-f32 f16-f16 bf16-bf16 f32-f16 f32-bf16",
    targets = "compute_50",
}

/// How the work of a launch is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// Outputs: up to eight rows of weights by 64 columns.
    pub tiles: u64,
    /// Blocks that share a tile, each with a part of the rows.
    pub splits: u32,
}

impl Division {
    /// For `m` rows of `n` weights per head. There are splits where tiles alone leave multiprocessors idle, of at
    /// least 256 rows each.
    pub fn new(m: u64, n: u64, n_kv_heads: u64, group: u64, cols: u64, multiprocessors: u32) -> Self {
        let tiles = m.saturating_mul(group).div_ceil(8).saturating_mul(n_kv_heads);
        let tiles = tiles.saturating_mul(cols.div_ceil(64));
        let splits = (2 * u64::from(multiprocessors) / tiles.max(1)).clamp(1, n.div_ceil(256).clamp(1, 64));
        Self { tiles, splits: splits as u32 }
    }

    /// Blocks of the launch.
    pub fn grid(self) -> u32 {
        blocks(self.tiles.saturating_mul(self.splits.into()))
    }

    /// Elements of `partials`.
    pub fn partials(self) -> usize {
        if self.splits > 1 { 512 * (self.tiles * u64::from(self.splits)) as usize } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_split_where_there_are_few_tiles() {
        let one = Division::new(1, 32_768, 8, 4, 128, 132);
        assert_eq!(one, Division { tiles: 16, splits: 16 });
        assert_eq!((one.grid(), one.partials()), (256, 512 * 256));
        assert_eq!(Division::new(1, 100, 1, 1, 64, 132), Division { tiles: 1, splits: 1 });
        assert_eq!(Division::new(4096, 4096, 8, 4, 128, 132).splits, 1);
        assert_eq!(Division::new(0, 4096, 8, 4, 128, 132).grid(), 0);
        assert_eq!(Division::new(1 << 40, 1, 8, 4, 128, 132).grid(), 1 << 20);
    }
}
