//! Launches `kernels/fill_random.cu`.

use super::grid::eights;
use crate::launch::{Out, Scalar, kernel};

kernel! {
    /// `out[i]` uniform in `[−scale, scale)`, a function of seed and `i`.
    fn fill_random(
        out: Out<'a, Scalar>,
        n: u64,
        seed: u64,
        scale: f32,
    ),
    block = 256,
    types = "f32 f16 bf16",
    targets = "compute_50",
}

/// Blocks of a launch.
pub fn grid(n: u64) -> u32 {
    eights(1, n, 2)
}
