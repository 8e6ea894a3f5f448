//! The CUDA backend: needs NVIDIA's driver at run time and nothing to build.
//!
//! Usable alone: what its users need of [`backend_api`] is here, too, and `backend_api::ops` holds the operations as structs.
//! `examples/alone.rs` is a program that depends on nothing else.

mod backend;
mod bandwidth;
mod blas;
mod builder;
mod device;
mod forecast;
mod functions;
mod fused;
mod graph;
mod heads;
mod inspect;
#[doc(hidden)]
pub mod kernels;
#[doc(hidden)]
pub mod launch;
mod libraries;
#[cfg(feature = "nvrtc")]
mod nvrtc;
mod ops;
mod pool;
mod prefill;
mod products;
mod quiet;
mod tensor;
mod tensor_cores;
mod tensor_map;
mod threads;

pub use backend::CudaBackend;
pub use backend_api::{
    self, At, Cause, Checked, Counters, DType, DeviceId, DeviceInfo, DeviceTensor, Error, Fill, Heads,
    HostElement, HostTensor, Io, KernelBackend, Mat, MatMut, MemoryInfo, Op, Pending, Result, SlowPath,
    Workload, bf16, f16, ndarray,
};
pub use builder::{CudaBackendBuilder, KernelSource};
#[doc(hidden)]
pub use device::Event;
pub use graph::CudaGraph;
pub use pool::PoolStats;
pub use tensor::CudaTensor;
