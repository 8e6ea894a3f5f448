//! The CUDA backend: needs NVIDIA's driver at run time and nothing to build.

mod backend;
mod builder;
mod device;
mod functions;
#[doc(hidden)]
pub mod kernels;
#[doc(hidden)]
pub mod launch;
#[cfg(any(test, feature = "nvrtc"))]
mod libraries;
#[cfg(feature = "nvrtc")]
mod nvrtc;
mod ops;
mod pool;
mod tensor;

pub use backend::CudaBackend;
pub use builder::{CudaBackendBuilder, KernelSource};
#[doc(hidden)]
pub use device::Event;
pub use pool::PoolStats;
pub use tensor::CudaTensor;
