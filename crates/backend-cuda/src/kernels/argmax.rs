//! Launches `kernels/argmax.cu`.

use super::grid::blocks;
use crate::launch::{In, Out, Scalar, kernel};

kernel! {
    /// `id[r] = argmax x[r]`, then `position[r] += 1` if `position` is not empty.
    fn argmax(
        id: Out<'a, u32>,
        position: Out<'a, u32>,
        x: In<'a, Scalar>,
        x_stride: u64,
        rows: u64,
        cols: u64,
        partials: Out<'a, u64>,
        counters: Out<'a, u32>,
        splits: u32,
    ),
    block = 256,
    types = "f32 f16 bf16",
    targets = "compute_50",
}

/// Blocks that share a row: as many as leave no multiprocessor idle, of at least eight columns a thread.
pub fn splits(rows: u64, cols: u64, multiprocessors: u32) -> u32 {
    (u64::from(multiprocessors) / rows.max(1)).clamp(1, cols.div_ceil(2048).max(1)) as u32
}

/// Blocks of a launch.
pub fn grid(rows: u64, splits: u32) -> u32 {
    blocks(rows.saturating_mul(splits.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_rows_are_split_where_there_are_few() {
        assert_eq!(splits(1, 32_000, 132), 16);
        assert_eq!(splits(1, 1 << 22, 132), 132);
        assert_eq!(splits(100, 32_000, 132), 1);
        assert_eq!(splits(0, 0, 132), 1);
        assert_eq!((grid(0, 1), grid(8, 16), grid(1 << 40, 1)), (0, 128, 1 << 20));
    }
}
