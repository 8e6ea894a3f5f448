//! Launches `kernels/weighted_sum_rows_mma.cu`; its work is divided as that of its portable twin.

use crate::launch::{In, Out, Scalar, Weight, kernel};

kernel! {
    /// `weighted_sum_rows` on tensor cores.
    fn weighted_sum_rows_mma(
        out: Out<'a, Scalar>,
        out_stride: u64,
        weights: In<'a, Scalar>,
        weights_stride: u64,
        rows: In<'a, Weight>,
        rows_stride: u64,
        m: u64,
        n: u64,
        n_kv_heads: u32,
        group: u32,
        cols: u32,
        splits: u32,
        partials: Out<'a, f32>,
        counters: Out<'a, u32>,
    ),
    block = 256,
    types = "f16-f16 bf16-bf16",
    targets = "compute_80 compute_90",
}
