//! The operations, one per file: f64 reference, cases, and `run`.

use std::fmt::Write;

use backend_api::KernelBackend;

use crate::{Failure, Group, Report};

pub mod add;
pub mod append_rows;
pub mod apply_rope;
pub mod argmax;
pub mod attention;
pub mod compute_attention_scores;
pub mod embed;
mod huge;
pub mod matmul;
pub mod mul;
pub mod norm_qkv_rope_append;
pub mod norm_swiglu;
pub mod rmsnorm;
pub mod sample;
pub mod silu;
pub mod softmax;
pub mod weighted_sum_rows;

/// What runs an operation's cases.
pub type RunOp<B> = fn(&B, Group) -> Result<Report, Failure>;

/// Every operation by name.
pub fn all<B: KernelBackend>() -> [(&'static str, RunOp<B>); 16] {
    [
        ("add", add::run),
        ("append_rows", append_rows::run),
        ("apply_rope", apply_rope::run),
        ("argmax", argmax::run),
        ("attention", attention::run),
        ("compute_attention_scores", compute_attention_scores::run),
        ("embed", embed::run),
        ("matmul", matmul::run),
        ("mul", mul::run),
        ("norm_qkv_rope_append", norm_qkv_rope_append::run),
        ("norm_swiglu", norm_swiglu::run),
        ("rmsnorm", rmsnorm::run),
        ("sample", sample::run),
        ("silu", silu::run),
        ("softmax", softmax::run),
        ("weighted_sum_rows", weighted_sum_rows::run),
    ]
}

/// Runs every operation.
///
/// # Errors
/// All failures, one per line.
pub fn run_all<B: KernelBackend>(backend: &B, group: Group) -> Result<Report, String> {
    let (mut total, mut failures) = (Report::default(), String::new());
    for (_, run) in all::<B>() {
        match run(backend, group) {
            Ok(report) => {
                total.cases += report.cases;
                total.refused += report.refused;
            }
            Err(failure) => writeln!(failures, "{failure}").unwrap_or_default(),
        }
    }
    if failures.is_empty() { Ok(total) } else { Err(failures) }
}
