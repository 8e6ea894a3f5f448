//! Launches `kernels/sample.cu`.

use crate::launch::{In, Out, Scalar, kernel};

kernel! {
    /// Chooses an id from one row of logits; `least` is `SampleParams::min_p_weight`, at most 2^40.
    fn sample(
        id: Out<'a, u32>,
        position: Out<'a, u32>,
        history: Out<'a, u32>,
        context: u64,
        logits: In<'a, Scalar>,
        vocab: u32,
        penalized: Out<'a, f32>,
        weights: Out<'a, u64>,
        repetition_penalty: f32,
        temperature: f32,
        top_k: u64,
        top_p: f32,
        least: u64,
        seed: u64,
    ),
    block = 1024,
    types = "f32 f16 bf16",
    targets = "compute_50",
}

/// Blocks of a launch.
pub fn grid() -> u32 {
    1
}
