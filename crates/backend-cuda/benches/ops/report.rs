//! What was measured, for people and for programs.

use crate::limits::Limits;
use crate::measure::{Bench, By, Measured};

/// A result against the card.
struct Rate {
    value: f64,
    unit: &'static str,
    digits: usize,
    /// Of the least time that the card would need.
    share: f64,
}

fn rate(m: &Measured, limits: &Limits) -> Rate {
    let (bytes, flops) = (m.cost.bytes as f64, m.cost.flops as f64);
    let (moving, computing) = limits.seconds(m.cost, m.case.bound, m.case.dtype);
    let share = moving.max(computing) / m.seconds;
    if computing > moving {
        Rate { value: flops / m.seconds / 1e12, unit: "TFLOP/s", digits: 0, share }
    } else {
        let rate = bytes / m.seconds;
        let (value, unit, digits) =
            if rate < 1e11 { (rate / 1e9, "GB/s", 1) } else { (rate / 1e12, "TB/s", 2) };
        Rate { value, unit, digits, share }
    }
}

fn time(seconds: f64) -> String {
    let microseconds = seconds * 1e6;
    if microseconds < 1000.0 {
        format!("{microseconds:.1} µs")
    } else {
        format!("{:.2} ms", microseconds / 1e3)
    }
}

/// Prints a line per result and a table.
pub(crate) fn print(bench: &Bench) {
    println!();
    for m in &bench.results {
        let Rate { value, unit, share, .. } = rate(m, &bench.limits);
        let name = format!("{}/{}{}", m.case.op, m.case.shape, m.case.by.suffix())
            .replace(" × ", "x")
            .replace(' ', "-");
        println!("BENCH {name} {} {:.3} {value:.4} {unit} {share:.4}", m.case.dtype, m.seconds * 1e6);
    }
    println!("\n{}\n", bench.limits);
    println!("| operation | shape | type | time | rate | of the limit | cuBLAS | faster by |");
    println!("|---|---|---|---|---|---|---|---|");
    for m in bench.results.iter().filter(|m| m.case.by != By::Cublas) {
        let Rate { value, unit, digits, share } = rate(m, &bench.limits);
        let (cublas, faster) = beside(bench, m);
        let (op, shape, dtype) = (m.case.op, &m.case.shape, m.case.dtype);
        let older = if m.case.by == By::Older { ", as on 8.0" } else { "" };
        println!(
            "| {op}{older} | {shape} | {dtype} | {} | {value:.digits$} {unit} | {:.0} % | {cublas} | {faster} |",
            time(m.seconds),
            100.0 * share,
        );
    }
}

/// Rate of cuBLAS for the same product, and how many times its speed was reached.
fn beside(bench: &Bench, m: &Measured) -> (String, String) {
    let same = |other: &&Measured| {
        let (a, b) = (&other.case, &m.case);
        a.by == By::Cublas && (a.op, &a.shape, a.dtype) == (b.op, &b.shape, b.dtype)
    };
    match bench.results.iter().find(same) {
        Some(other) => {
            let Rate { value, unit, digits, .. } = rate(other, &bench.limits);
            (format!("{value:.digits$} {unit}"), format!("{:.2}", other.seconds / m.seconds))
        }
        None => ("–".into(), "–".into()),
    }
}
