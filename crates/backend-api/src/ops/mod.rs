//! The operations, one per file: formula, shapes, checks, cost.

mod add;
mod append_rows;
mod apply_rope;
mod argmax;
pub mod attention;
mod compute_attention_scores;
mod embed;
mod matmul;
mod mul;
pub mod norm_qkv_rope_append;
pub mod norm_swiglu;
mod rmsnorm;
mod sample;
mod silu;
mod softmax;
mod weighted_sum_rows;

pub use add::Add;
pub use append_rows::AppendRows;
pub use apply_rope::ApplyRope;
pub use argmax::{Argmax, NO_ID};
pub use attention::Attention;
pub use compute_attention_scores::ComputeAttentionScores;
pub use embed::Embed;
pub use matmul::{Matmul, WeightLayout};
pub use mul::Mul;
pub use norm_qkv_rope_append::NormQkvRopeAppend;
pub use norm_swiglu::NormSwiglu;
pub use rmsnorm::RmsNorm;
pub use sample::{MAX_VOCAB, Sample, SampleParams, WEIGHT_ONE, weight};
pub use silu::Silu;
pub use softmax::Softmax;
pub use weighted_sum_rows::WeightedSumRows;

pub(crate) use add::add;
pub(crate) use append_rows::append_rows;
pub(crate) use apply_rope::apply_rope;
pub(crate) use argmax::argmax;
pub(crate) use compute_attention_scores::compute_attention_scores;
pub(crate) use embed::embed;
pub(crate) use matmul::{matmul, matmul_vec};
pub(crate) use mul::mul;
pub(crate) use rmsnorm::rmsnorm;
pub(crate) use sample::sample;
pub(crate) use silu::silu;
pub(crate) use softmax::softmax;
pub(crate) use weighted_sum_rows::weighted_sum_rows;
