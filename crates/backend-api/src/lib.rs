//! The contract between a language-model decoder and the backend that runs its operations.
//!
//! A backend implements [`KernelBackend`]: it owns device memory ([`KernelBackend::Tensor`]) and runs operations on it.
//! An operation is a struct of [`ops`] whose operands are windows ([`Mat`], [`MatMut`]) of device tensors; [`Op::check`]
//! validates it once and yields the [`Checked`] proof that backends take. Host memory appears only in uploads and
//! downloads.
//!
//! `examples/own_backend.rs` writes a small backend from nothing.

mod backend;
mod device;
mod dtype;
mod error;
mod host;
mod op;
pub mod ops;
pub mod random;
mod window;
mod workload;

pub use backend::{Fill, KernelBackend, Pending};
pub use device::{Counters, DeviceId, DeviceInfo, DeviceTensor, MemoryInfo, tensor_bytes};
pub use dtype::{DType, Element};
pub use error::{Cause, Error, Result};
pub use half::{bf16, f16};
pub use host::{HostElement, HostTensor};
pub use ndarray;
pub use op::{Checked, Heads, Op};
pub use window::{At, Io, Mat, MatMut, Operand, Window};
pub use workload::{SlowPath, Workload};
