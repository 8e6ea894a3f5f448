//! Launches `kernels/attention.cu`.

use super::grid::blocks;
use crate::launch::{In, Out, Scalar, Weight, kernel};

kernel! {
    /// Causal attention over the cache, for one token or a prompt; `window` is `u64::MAX` to see all.
    fn attention(
        out: Out<'a, Scalar>,
        out_stride: u64,
        q: In<'a, Scalar>,
        q_stride: u64,
        k: In<'a, Weight>,
        k_stride: u64,
        v: In<'a, Weight>,
        v_stride: u64,
        positions: In<'a, u32>,
        rows: u64,
        capacity: u64,
        window: u64,
        n_kv_heads: u32,
        group: u32,
        head_dim: u32,
        scale: f32,
        partials: Out<'a, f32>,
        counters: Out<'a, u32>,
        splits: u32,
    ),
    block = 256,
    types = "f32-f32 f16-f16 bf16-bf16 f32-f16 f32-bf16",
    targets = "compute_50",
}

/// The longest head that the kernel takes.
pub const MOST_HEAD_DIM: usize = 256;

/// Query heads that a block takes at a time.
const HEADS: u64 = 4;

/// How the work of a launch is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// Up to four query heads of a row that share keys.
    pub tiles: u64,
    /// Blocks that share a tile, each with a part of the keys.
    pub splits: u32,
}

impl Division {
    /// As many splits as leave no multiprocessor idle, of at least 32 keys each.
    pub fn new(rows: u64, n_kv_heads: u64, group: u64, keys: u64, multiprocessors: u32) -> Self {
        let tiles = rows.saturating_mul(n_kv_heads).saturating_mul(group.div_ceil(HEADS));
        let splits = (u64::from(multiprocessors) / tiles.max(1)).clamp(1, keys.div_ceil(32).clamp(1, 64));
        Self { tiles, splits: splits as u32 }
    }

    /// Blocks of the launch.
    pub fn grid(self) -> u32 {
        blocks(self.tiles.saturating_mul(self.splits.into()))
    }

    /// Elements of `partials`.
    pub fn partials(self, head_dim: u64) -> usize {
        let each = HEADS * (head_dim + 2) * u64::from(self.splits);
        if self.splits > 1 { (each * self.tiles) as usize } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_split_where_there_are_few_heads() {
        assert_eq!(Division::new(1, 8, 4, 4096, 132), Division { tiles: 8, splits: 16 });
        assert_eq!(Division::new(1, 1, 9, 1 << 20, 132), Division { tiles: 3, splits: 44 });
        assert_eq!(Division::new(1, 8, 4, 40, 132).splits, 2);
        let many = Division::new(512, 8, 4, 4096, 132);
        assert_eq!((many, many.partials(128)), (Division { tiles: 4096, splits: 1 }, 0));
        assert_eq!(Division::new(1 << 40, 8, 4, 4096, 132).grid(), 1 << 20);
        let few = Division { tiles: 8, splits: 16 };
        assert_eq!((few.grid(), few.partials(128)), (128, 128 * 4 * 130));
    }
}
