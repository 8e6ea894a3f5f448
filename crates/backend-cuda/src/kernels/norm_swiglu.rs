//! Launches `kernels/norm_swiglu.cu`.

use backend_api::DType;

use super::grid::exact;
use crate::launch::{In, Out, Weight, kernel};

kernel! {
    /// `out = silu(h·gateᵀ) · (h·upᵀ)` with `h = rmsnorm(x)`, for one row.
    fn norm_swiglu(
        out: Out<'a, Weight>,
        x: In<'a, f32>,
        norm: In<'a, Weight>,
        w: In<'a, Weight>,
        w_stride: u64,
        ffn: u64,
        k: u32,
        share: u32,
        eps: f32,
    ),
    block = 256,
    shared = 98304,
    types = "f32-f32 f32-f16 f32-bf16",
    targets = "compute_50 compute_90",
}

/// Blocks of a launch: one output of 16-bit weights, two of f32, for every `share` of a block's eight warps; none if they are
/// too many for one.
pub fn grid(ffn: u64, share: u32, weight: DType) -> Option<u32> {
    let of_warp = if weight == DType::F32 { 2 } else { 1 };
    exact(ffn.div_ceil(of_warp).checked_mul(share.into())?.div_ceil(8))
}
