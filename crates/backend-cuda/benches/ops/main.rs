//! Every operation on the GPU, beside what the card can do, measured in the same run, and beside cuBLAS where it has a counterpart.
//!
//! `cargo bench -p backend-cuda`; `-- rmsnorm` or another part of a name runs less. Times are those of the device, between two
//! CUDA events, of steps of many operations. Operands are rotated through more memory than the L2 holds, unless
//! [`measure::Work`] says otherwise. The table at the end is Markdown; lines that begin with `BENCH` are for programs:
//! name, type, microseconds, rate, unit, share of the limit.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

mod fused;
mod heads;
mod limits;
mod measure;
mod products;
mod report;
mod rows;
mod targets;
mod tokens;
mod transfers;

use std::process::ExitCode;

use backend_cuda::{CudaBackend, KernelBackend, Result};
use criterion::Criterion;

use crate::limits::Limits;
use crate::measure::Bench;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: these benchmarks need an NVIDIA GPU: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the card is not one with targets, or what ran meets them.
fn run() -> Result<bool> {
    let backend = CudaBackend::new()?;
    let own = CudaBackend::builder().blas(false).build()?;
    let older = CudaBackend::builder().blas(false).kernel_target((8, 0)).build().ok();
    let info = backend.info();
    println!("{}, {}", info.name, info.features.join(", "));
    let has_blas = match backend.cublas() {
        Ok(library) => {
            println!("{library}");
            true
        }
        Err(error) => {
            println!("no products to compare with: {error}");
            false
        }
    };
    let limits = Limits::measure(&backend, has_blas)?;
    println!("{limits}");
    let criterion = Criterion::default().configure_from_args();
    let mut bench = Bench { criterion, backend, own, older, has_blas, limits, results: Vec::new() };
    rows::all(&mut bench);
    heads::all(&mut bench);
    products::all(&mut bench);
    fused::all(&mut bench);
    tokens::all(&mut bench);
    transfers::all(&mut bench);
    bench.criterion.final_summary();
    report::print(&bench);
    Ok(!info.name.contains("H200") || targets::are_met(&bench.results))
}
