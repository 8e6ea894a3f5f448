//! Launches `kernels/silu.cu`.

use backend_api::DType;

use super::grid::eights;
use crate::launch::{In, Out, Scalar, kernel};

kernel! {
    /// `out = x / (1 + exp(−x))`, elementwise.
    fn silu(
        out: Out<'a, Scalar>,
        out_stride: u64,
        x: In<'a, Scalar>,
        x_stride: u64,
        rows: u64,
        cols: u64,
    ),
    block = 256,
    types = "f32 f16 bf16",
    targets = "compute_50 compute_80",
}

/// Blocks of a launch over elements of this type.
pub fn grid(rows: u64, cols: u64, scalar: DType) -> u32 {
    eights(rows, cols, if scalar == DType::F32 { 2 } else { 4 })
}
