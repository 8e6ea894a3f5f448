//! Launches `kernels/read_probe.cu`.

use super::grid::blocks;
use crate::launch::{In, Out, kernel};

kernel! {
    /// `out[block]` is the sum of the words that a block read, modulo 2^32; over all blocks the sum of the `4 · n` words of `x`.
    fn read_probe(
        out: Out<'a, u32>,
        x: In<'a, u32>,
        n: u64,
    ),
    block = 512,
    types = "f32",
    targets = "compute_50",
}

/// Blocks of a launch over `n` pieces of 16 bytes.
pub fn grid(n: u64) -> u32 {
    blocks(n.div_ceil(8 * 512))
}
