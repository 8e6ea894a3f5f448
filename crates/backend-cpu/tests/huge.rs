//! Tensors of more than 2^31 elements: `cargo test --release -p backend-cpu --test huge -- --ignored`, with 18 GiB free.

use backend_cpu::CpuBackend;

conformance::huge_suite!(CpuBackend::new());
