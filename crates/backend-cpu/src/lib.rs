//! The CPU backend: threads through rayon, SIMD through `pulp`, no unsafe code.
//!
//! Products widen half-precision weights in registers or in tiles, never as a whole, and accumulate in f32. Activations are
//! fastest in f32; any mixture of float types works.

mod backend;
mod kernel;
mod memory;
mod ops;
mod tensor;

pub use backend::{CpuBackend, CpuBackendBuilder};
pub use tensor::CpuTensor;
