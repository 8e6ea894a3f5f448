//! Launches `kernels/attention_mma.cu`.

use super::grid::exact;
use crate::launch::{In, Out, Scalar, Weight, kernel};

kernel! {
    /// Causal attention over the cache on tensor cores, for few rows; `window` is `u64::MAX` to see all.
    fn attention_mma(
        out: Out<'a, Scalar>,
        out_stride: u64,
        q: In<'a, Scalar>,
        q_stride: u64,
        k: In<'a, Weight>,
        k_stride: u64,
        v: In<'a, Weight>,
        v_stride: u64,
        positions: In<'a, u32>,
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
    types = "f16-f16 bf16-bf16",
    targets = "compute_80 compute_90",
}

/// The longest head that the kernel takes.
pub const MOST_HEAD_DIM: usize = 128;

/// How the work of a launch is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// Up to eight query heads of a row that share keys.
    pub tiles: u64,
    /// Blocks that share a tile, each with a part of the keys.
    pub splits: u32,
}

impl Division {
    /// As many splits as leave no multiprocessor idle, of at least 32 keys each.
    pub fn new(rows: u64, n_kv_heads: u64, group: u64, keys: u64, multiprocessors: u32) -> Self {
        let tiles = rows.saturating_mul(n_kv_heads).saturating_mul(group.div_ceil(8));
        let splits = (u64::from(multiprocessors) / tiles.max(1)).clamp(1, keys.div_ceil(32).clamp(1, 64));
        Self { tiles, splits: splits as u32 }
    }

    /// Blocks of the launch; none if they are too many for one.
    pub fn grid(self) -> Option<u32> {
        exact(self.tiles.checked_mul(self.splits.into())?)
    }

    /// Elements of `partials`.
    pub fn partials(self) -> usize {
        if self.splits > 1 { 8 * (128 + 2) * (self.tiles * u64::from(self.splits)) as usize } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_split_where_there_are_few_heads() {
        assert_eq!(Division::new(1, 8, 4, 4096, 132), Division { tiles: 8, splits: 16 });
        assert_eq!(Division::new(1, 1, 9, 1 << 20, 132), Division { tiles: 2, splits: 64 });
        assert_eq!(Division::new(1, 8, 4, 40, 132).splits, 2);
        assert_eq!(Division::new(512, 8, 4, 4096, 132), Division { tiles: 4096, splits: 1 });
        assert_eq!(Division::new(1 << 40, 8, 4, 4096, 132).grid(), None);
    }
}
