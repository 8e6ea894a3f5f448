//! The contract between a language-model decoder and the backend that runs its operations.
//!
//! A backend implements [`KernelBackend`]: it owns device memory ([`KernelBackend::Tensor`]) and runs operations on it.
//! An operation is a struct of [`ops`] whose operands are windows ([`Mat`], [`MatMut`]) of device tensors; [`Op::check`]
//! validates it once and yields the [`Checked`] proof that backends take. Host memory appears only in uploads and
//! downloads.
//!
//! A check looks at shapes, types and owners only, so that tensors without memory will do here:
//!
//! ```
//! use backend_api::ops::RmsNorm;
//! use backend_api::{DType, DeviceId, DeviceTensor, Error, Io, Mat, MatMut, Op};
//!
//! struct Shaped(Vec<usize>, DeviceId);
//!
//! impl DeviceTensor for Shaped {
//!     fn shape(&self) -> &[usize] { &self.0 }
//!     fn dtype(&self) -> DType { DType::F32 }
//!     fn device(&self) -> DeviceId { self.1 }
//! }
//!
//! let id = DeviceId::unique("none", 0);
//! let (mut x, weight, long) = (Shaped(vec![2, 64], id), Shaped(vec![64], id), Shaped(vec![65], id));
//! let mut norm = |weight| {
//!     let io = Io::InPlace(MatMut::new(&mut x));
//!     RmsNorm { io, weight: Mat::new(weight), eps: 1e-5 }.check().map(drop)
//! };
//! assert!(norm(&weight).is_ok());
//! assert!(matches!(norm(&long), Err(Error::Shape { operand: "weight", .. })));
//! ```
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
