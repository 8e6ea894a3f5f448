//! The suite that every backend must pass.

use backend_cpu::CpuBackend;

conformance::suite!(CpuBackend::new());
