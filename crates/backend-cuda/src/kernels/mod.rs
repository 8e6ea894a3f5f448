//! One launcher per kernel of `kernels/`, and the compiled kernels themselves.

pub mod add;
pub mod append_rows;
pub mod apply_rope;
pub mod archive;
pub mod argmax;
pub mod attention;
pub mod attention_mma;
pub mod attention_prefill_mma;
pub mod attention_prefill_wgmma;
pub mod compute_attention_scores;
pub mod compute_attention_scores_mma;
pub mod division;
pub mod embed;
pub mod fill_random;
pub mod grid;
pub mod matmul;
pub mod matmul_few;
pub mod matmul_mma;
pub mod matmul_vec;
pub mod matmul_wgmma;
pub mod mul;
pub mod norm_qkv_rope_append;
pub mod norm_swiglu;
pub mod read_probe;
pub mod rmsnorm;
pub mod rope_append;
pub mod sample;
pub mod silu;
pub mod softmax;
pub mod swiglu;
pub mod swiglu_wgmma;
mod tile;
pub mod weighted_sum_rows;
pub mod weighted_sum_rows_mma;

use crate::launch::Signature;

/// What Rust launches, by name.
pub fn signatures() -> Vec<Signature> {
    vec![
        add::Args::signature(),
        append_rows::Args::signature(),
        apply_rope::Args::signature(),
        argmax::Args::signature(),
        attention::Args::signature(),
        attention_mma::Args::signature(),
        attention_prefill_mma::Args::signature(),
        attention_prefill_wgmma::Args::signature(),
        compute_attention_scores::Args::signature(),
        compute_attention_scores_mma::Args::signature(),
        embed::Args::signature(),
        fill_random::Args::signature(),
        matmul::Args::signature(),
        matmul_few::Args::signature(),
        matmul_mma::Args::signature(),
        matmul_vec::Args::signature(),
        matmul_wgmma::Args::signature(),
        mul::Args::signature(),
        norm_qkv_rope_append::Args::signature(),
        norm_swiglu::Args::signature(),
        read_probe::Args::signature(),
        rmsnorm::Args::signature(),
        rope_append::Args::signature(),
        sample::Args::signature(),
        silu::Args::signature(),
        softmax::Args::signature(),
        swiglu::Args::signature(),
        swiglu_wgmma::Args::signature(),
        weighted_sum_rows::Args::signature(),
        weighted_sum_rows_mma::Args::signature(),
    ]
}

/// Bytes of shared memory that a kernel's launches may give a block.
pub(crate) fn shared(kernel: &str) -> u32 {
    signatures().iter().find(|s| s.name == kernel).map_or(0, |s| s.shared)
}

/// Whether a kernel's best variant for a card waits for its predecessor itself, as those for compute capability 9.0 do.
pub(crate) fn awaits(kernel: &str, capability: (u32, u32)) -> bool {
    let of_kernel = signatures().into_iter().find(|s| s.name == kernel);
    capability >= (9, 0) && of_kernel.is_some_and(|s| s.targets.split(' ').any(|t| t == "compute_90"))
}
