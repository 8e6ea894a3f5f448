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
        cluster: u32,
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
    /// Blocks of a tile that meet through shared memory; divides `splits`.
    pub cluster: u32,
}

impl Division {
    /// As many splits as leave no multiprocessor idle, of at least 32 keys each; in clusters where the card has them.
    pub fn new(rows: u64, n_kv_heads: u64, group: u64, keys: u64, card: (u32, bool)) -> Self {
        let (multiprocessors, has_clusters) = card;
        let tiles = rows.saturating_mul(n_kv_heads).saturating_mul(group.div_ceil(8));
        let splits = (u64::from(multiprocessors) / tiles.max(1)).clamp(1, keys.div_ceil(32).clamp(1, 64)) as u32;
        let cluster = if has_clusters { 1 << splits.min(8).ilog2() } else { 1 };
        Self { tiles, splits: splits / cluster * cluster, cluster }
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
        let of = |rows, kv, group, keys| Division::new(rows, kv, group, keys, (132, true));
        assert_eq!(of(1, 8, 4, 4096), Division { tiles: 8, splits: 16, cluster: 8 });
        assert_eq!(of(1, 1, 9, 1 << 20), Division { tiles: 2, splits: 64, cluster: 8 });
        assert_eq!(of(1, 20, 1, 4096), Division { tiles: 20, splits: 4, cluster: 4 });
        assert_eq!(of(1, 10, 1, 4096), Division { tiles: 10, splits: 8, cluster: 8 });
        assert_eq!(of(1, 8, 4, 40), Division { tiles: 8, splits: 2, cluster: 2 });
        assert_eq!(of(512, 8, 4, 4096), Division { tiles: 4096, splits: 1, cluster: 1 });
        assert_eq!(of(1 << 40, 8, 4, 4096).grid(), None);
        let older = Division::new(1, 8, 4, 4096, (132, false));
        assert_eq!(older, Division { tiles: 8, splits: 16, cluster: 1 });
    }
}
