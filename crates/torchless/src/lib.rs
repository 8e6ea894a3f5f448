//! Run a language model on an NVIDIA GPU or the CPU from a plain `cargo build`.
//!
//! This crate puts the layers together: [`init_backend`] chooses a device, [`Model`] loads a Hugging Face folder onto it,
//! and a [`Session`] generates text. NVIDIA GPUs come with the feature `cuda`, on by default: it needs nothing to build, and at
//! run time NVIDIA's driver.
//!
//! ```no_run
//! use std::sync::Arc;
//! use torchless::{BackendPreference, GenerateOptions, LoadOptions, Model, init_backend};
//!
//! # fn main() -> torchless::Result<()> {
//! let backend = Arc::new(init_backend(BackendPreference::Auto)?);
//! let model = Model::load(&backend, "path/to/model", &LoadOptions::default())?;
//! let mut session = model.session(model.default_context())?;
//! for token in session.generate("Once upon a time", &GenerateOptions::default())? {
//!     print!("{}", token?.text);
//! }
//! # Ok(())
//! # }
//! ```

mod backend;
mod init;
mod lower;
mod preference;
mod unified;

pub use backend::{Backend, Graph};
pub use backend_api::ops::{self, SampleParams};
pub use backend_api::{
    At, Cause, Checked, Counters, DType, DeviceId, DeviceInfo, DeviceTensor, Element, Error, Fill, Heads,
    HostElement, HostTensor, Io, KernelBackend, Mat, MatMut, MemoryInfo, Op, Operand, Pending, Result,
    SlowPath, Window, Workload, bf16, f16, ndarray,
};
pub use backend_cpu::{CpuBackend, CpuBackendBuilder, CpuTensor};
#[cfg(feature = "cuda")]
pub use backend_cuda::{CudaBackend, CudaBackendBuilder, CudaGraph, CudaTensor, KernelSource, PoolStats};
pub use decoder::{
    Config, Family, FinishReason, GenerateOptions, Generation, GenerationStats, LoadOptions, LoadReport,
    Model, ModelBytes, OnBackend, RopeScaling, Session, StopStrings, TextStream, Token, Tokenizer,
};
pub use init::{BackendOptions, Candidate, devices, init_backend, init_backend_with};
pub use memory_estimate::{
    Accounting, Adjustment, Change, Estimate, EstimateError, EstimateRequest, Fit, ModelShape, NAMED_SHAPES,
    StoredDtype, StoredTensor, WeightDtype, estimate_model_memory_mb, read_safetensors_header,
    stored_tensors,
};
pub use preference::BackendPreference;
pub use unified::UnifiedTensor;

/// The examples of the README, tested.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
