//! The CPU backend: threads through rayon, SIMD through `pulp`, no unsafe code.
//!
//! Products widen half-precision weights in registers or in tiles, never as a whole, and accumulate in f32. Activations are
//! fastest in f32; any mixture of float types works.
//!
//! ```
//! use backend_api::{DType, HostTensor, KernelBackend};
//! use backend_cpu::CpuBackend;
//!
//! # fn main() -> backend_api::Result<()> {
//! let backend = CpuBackend::new();
//! let x = HostTensor::from_vec(&[1, 2], vec![2.0f32, 3.0])?;
//! let w = HostTensor::from_vec(&[3, 2], vec![1.0f32, 0.0, 0.0, 1.0, 1.0, 1.0])?.cast(DType::BF16);
//! let y = backend.matmul(&backend.to_device(&x)?, &backend.to_device(&w)?)?;
//! assert_eq!(backend.to_host(&y)?, HostTensor::from_vec(&[1, 3], vec![2.0f32, 3.0, 5.0])?);
//! # Ok(())
//! # }
//! ```

mod backend;
mod kernel;
mod memory;
mod ops;
mod tensor;

pub use backend::{CpuBackend, CpuBackendBuilder};
pub use tensor::CpuTensor;
