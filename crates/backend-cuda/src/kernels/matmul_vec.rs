//! Launches `kernels/matmul_vec.cu`.

use super::grid::exact;
use crate::launch::{In, Out, Scalar, Weight, kernel};

kernel! {
    /// `out[j] = Σ_c x[c] · w[j, c]`, for one vector of a multiple of eight elements.
    fn matmul_vec(
        out: Out<'a, Scalar>,
        x: In<'a, Scalar>,
        w: In<'a, Weight>,
        w_stride: u64,
        n: u64,
        k: u32,
        share: u32,
        accumulate: u32,
        wide: u32,
    ),
    block = 256,
    shared = 98304,
    types = "f32-f32 f16-f16 bf16-bf16 f32-f16 f32-bf16",
    targets = "compute_50 compute_90",
}

/// Warps that share a row of this many bytes: so many that each has some KiB to stream.
pub fn share(row_bytes: u64) -> u32 {
    match row_bytes {
        0..2048 => 1,
        2048..4096 => 2,
        _ => 4,
    }
}

/// The same where every block also stages a normed row, so that fewer blocks are better.
pub fn share_of_norm(row_bytes: u64) -> u32 {
    match row_bytes {
        0..4096 => 1,
        4096..16_384 => 2,
        _ => 4,
    }
}

/// Blocks of a launch: four rows for every `share` of a block's eight warps; none if they are too many for one.
pub fn grid(n: u64, share: u32) -> Option<u32> {
    exact(n.div_ceil(4).checked_mul(share.into())?.div_ceil(8))
}
