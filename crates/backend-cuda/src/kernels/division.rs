//! How attention of few rows is divided among blocks.

/// Keys up to which a cluster is faster than blocks all over the card.
const FEW: u64 = 4096;

/// How the work of a launch is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// Query heads of a row that share keys, as many as a block takes.
    pub tiles: u64,
    /// Blocks that share a tile, each with a part of the keys.
    pub splits: u32,
    /// Blocks of a tile that meet through shared memory: all splits, or 1.
    pub cluster: u32,
}

impl Division {
    /// As many splits as leave no multiprocessor idle, of at least 32 keys each; where the card has clusters and keys are
    /// few, as many as meet in one, if all of them fit on the card at once.
    pub fn new(tiles: u64, keys: u64, (multiprocessors, has_clusters): (u32, bool)) -> Self {
        let multiprocessors = u64::from(multiprocessors);
        let most = keys.div_ceil(32).clamp(1, 64);
        if has_clusters && keys <= FEW {
            // A part of the card has too few multiprocessors together for a cluster.
            let fitting = (multiprocessors * 9 / 10 / tiles.max(1)).clamp(1, most.min(8)) as u32;
            let cluster = 1 << fitting.ilog2();
            return Self { tiles, splits: cluster, cluster };
        }
        let splits = (multiprocessors / tiles.max(1)).clamp(1, most) as u32;
        Self { tiles, splits, cluster: 1 }
    }

    /// Blocks of the launch.
    pub fn blocks(self) -> u64 {
        self.tiles.saturating_mul(self.splits.into())
    }

    /// Elements through which blocks meet that no cluster holds, `each` of a block.
    pub fn partials(self, each: usize) -> usize {
        if self.splits > self.cluster { each.saturating_mul(self.blocks() as usize) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_split_where_there_are_few_heads() {
        let of = |tiles, keys| Division::new(tiles, keys, (132, true));
        assert_eq!(of(8, 4096), Division { tiles: 8, splits: 8, cluster: 8 });
        assert_eq!(of(8, 4097), Division { tiles: 8, splits: 16, cluster: 1 });
        assert_eq!(of(2, 1 << 20), Division { tiles: 2, splits: 64, cluster: 1 });
        assert_eq!(of(20, 4096), Division { tiles: 20, splits: 4, cluster: 4 });
        assert_eq!(of(32, 4096), Division { tiles: 32, splits: 2, cluster: 2 });
        assert_eq!(of(8, 40), Division { tiles: 8, splits: 2, cluster: 2 });
        assert_eq!(of(4096, 4096), Division { tiles: 4096, splits: 1, cluster: 1 });
        assert_eq!(Division::new(8, 4096, (132, false)), Division { tiles: 8, splits: 16, cluster: 1 });
    }

    #[test]
    fn only_blocks_without_a_cluster_meet_in_memory() {
        let of = |tiles, keys| Division::new(tiles, keys, (132, true));
        assert_eq!((of(8, 4096).blocks(), of(8, 4096).partials(10)), (64, 0));
        assert_eq!((of(8, 32_768).blocks(), of(8, 32_768).partials(10)), (128, 1280));
        assert_eq!((of(4096, 4096).blocks(), of(4096, 4096).partials(10)), (4096, 0));
    }
}
