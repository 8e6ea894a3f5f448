//! The CUDA backend: needs NVIDIA's driver at run time and nothing to build.

mod backend;
mod device;
#[doc(hidden)]
pub mod kernels;
#[doc(hidden)]
pub mod launch;
mod ops;
mod pool;
mod tensor;
mod tensor_cores;

pub use backend::CudaBackend;
pub use pool::PoolStats;
pub use tensor::CudaTensor;
