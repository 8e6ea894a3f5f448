//! What an H200 must reach.

use backend_cuda::DType;

use crate::measure::{By, Measured};

/// What is lost from one run to the next.
const NOISE: f64 = 0.02;

/// Names of operations whose shape has this end, and the least rate of their memory in TB/s.
const RATES: [(&str, &str, f64); 11] = [
    ("rmsnorm", "65536 × 8192", 3.9),
    ("softmax", "65536 × 8192", 3.9),
    ("silu", "65536 × 8192", 3.9),
    ("apply_rope", "65536 × 8192", 3.9),
    ("compute_attention_scores", "32768 keys", 3.5),
    ("weighted_sum_rows", "32768 keys", 3.5),
    ("matmul", "1 × 6144 × 4096", 3.7),
    ("matmul", "1 × 4096 × 4096", 3.7),
    ("matmul", "1 × 28672 × 4096", 4.0),
    ("matmul", "1 × 4096 × 14336", 4.0),
    ("matmul", "1 × 32000 × 4096", 4.0),
];

/// Rows from which on our own products in bf16 must reach half of what cuBLAS does.
const MANY: [&str; 2] = ["512 × ", "2048 × "];

/// Says what falls short; whether nothing does. What did not run is not missed.
pub(crate) fn are_met(results: &[Measured]) -> bool {
    let rates = RATES.iter().flat_map(|(op, shape, least)| {
        let same = |m: &&Measured| (m.case.op, m.case.shape.as_str()) == (*op, *shape);
        let ours = |m: &&Measured| m.case.dtype == DType::BF16 && m.case.by == By::Torchless;
        results
            .iter()
            .filter(same)
            .filter(ours)
            .map(move |m| (m, m.cost.bytes as f64 / m.seconds / 1e12 / least))
    });
    let beside = results.iter().filter(|m| m.case.op == "matmul").filter_map(|m| {
        let ours = match m.case.by {
            By::Torchless if RATES.iter().any(|(_, shape, _)| *shape == m.case.shape) => 1.0,
            By::Own if MANY.iter().any(|rows| m.case.shape.starts_with(rows)) => 0.5,
            _ => return None,
        };
        let same = |other: &&Measured| {
            let (a, b) = (&other.case, &m.case);
            a.by == By::Cublas && (&a.shape, a.dtype) == (&b.shape, b.dtype)
        };
        Some((m, results.iter().find(same)?.seconds / m.seconds / ours))
    });
    let missed: Vec<_> = rates.chain(beside).filter(|(_, share)| *share < 1.0 - NOISE).collect();
    for (m, share) in &missed {
        let (op, shape, dtype) = (m.case.op, &m.case.shape, m.case.dtype);
        println!("missed: {op} {shape} {dtype} reaches {:.1} % of its target", 100.0 * share);
    }
    missed.is_empty()
}
