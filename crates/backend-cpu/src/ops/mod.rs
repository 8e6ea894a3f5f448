//! The operations, one per file, on typed rows.

mod add;
mod append_rows;
mod apply_rope;
mod argmax;
mod attention;
mod compute_attention_scores;
mod embed;
mod fill_random;
mod matmul;
mod mul;
mod norm_swiglu;
mod rmsnorm;
mod sample;
mod silu;
mod softmax;
mod weighted_sum_rows;

pub(crate) use add::add;
pub(crate) use append_rows::append_rows;
pub(crate) use apply_rope::apply_rope;
pub(crate) use argmax::argmax;
pub(crate) use attention::attention;
pub(crate) use compute_attention_scores::compute_attention_scores;
pub(crate) use embed::embed;
pub(crate) use fill_random::fill_random;
pub(crate) use matmul::matmul;
pub(crate) use mul::mul;
pub(crate) use norm_swiglu::norm_swiglu;
pub(crate) use rmsnorm::rmsnorm;
pub(crate) use sample::sample;
pub(crate) use silu::silu;
pub(crate) use softmax::softmax;
pub(crate) use weighted_sum_rows::weighted_sum_rows;
