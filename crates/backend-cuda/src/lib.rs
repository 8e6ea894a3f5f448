//! The CUDA backend: needs NVIDIA's driver at run time and nothing to build.

mod backend;
mod blas;
mod device;
#[doc(hidden)]
pub mod kernels;
#[doc(hidden)]
pub mod launch;
mod ops;
mod pool;
mod tensor;

pub use backend::CudaBackend;
pub use pool::PoolStats;
pub use tensor::CudaTensor;
