//! One launcher per kernel of `kernels/`, and the compiled kernels themselves.

pub mod add;
pub mod append_rows;
pub mod apply_rope;
pub mod archive;
pub mod argmax;
pub mod attention;
pub mod compute_attention_scores;
pub mod embed;
pub mod fill_random;
pub mod grid;
pub mod matmul;
pub mod matmul_mma;
pub mod matmul_vec;
pub mod matmul_wgmma;
pub mod mul;
pub mod rmsnorm;
pub mod sample;
pub mod silu;
pub mod softmax;
pub mod weighted_sum_rows;

use crate::launch::Signature;

/// What Rust launches, by name.
pub fn signatures() -> Vec<Signature> {
    vec![
        add::Args::signature(),
        append_rows::Args::signature(),
        apply_rope::Args::signature(),
        argmax::Args::signature(),
        attention::Args::signature(),
        compute_attention_scores::Args::signature(),
        embed::Args::signature(),
        fill_random::Args::signature(),
        matmul::Args::signature(),
        matmul_mma::Args::signature(),
        matmul_vec::Args::signature(),
        matmul_wgmma::Args::signature(),
        mul::Args::signature(),
        rmsnorm::Args::signature(),
        sample::Args::signature(),
        silu::Args::signature(),
        softmax::Args::signature(),
        weighted_sum_rows::Args::signature(),
    ]
}

/// Bytes of shared memory that a kernel's launches give it.
pub fn shared(kernel: &str) -> u32 {
    signatures().iter().find(|s| s.name == kernel).map_or(0, |s| s.shared)
}
