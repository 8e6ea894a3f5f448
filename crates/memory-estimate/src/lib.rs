//! What a decoder model needs in memory, before anything is loaded.
//!
//! A [`ModelShape`] comes from a name, a `config.json` or the header of a safetensors file. An
//! [`EstimateRequest`] adds what the user chooses: dtypes, context, batch and prefill chunk. Its
//! [`estimate`](EstimateRequest::estimate) lists every part in bytes, and its
//! [`fit`](EstimateRequest::fit) says what would have to change for a given budget. What a device adds to
//! the buffers comes in through [`Accounting`].
//!
//! ```
//! use memory_estimate::{EstimateRequest, ModelShape, WeightDtype};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let shape = ModelShape::named("mistral-7b").ok_or("unknown shape")?;
//! let request = EstimateRequest {
//!     shape: &shape,
//!     dtype: WeightDtype::Bf16,
//!     kv_dtype: WeightDtype::Bf16,
//!     context: 4096,
//!     batch: 1,
//!     prefill_chunk: 512,
//!     activation_bytes: 4,
//! };
//! let estimate = request.estimate()?;
//! assert_eq!(estimate.weights(), 7_241_732_096 * 2);
//! assert_eq!(estimate.kv_cache, 512 << 20);
//! println!("{estimate}");
//!
//! let fit = request.fit(14 << 30)?;
//! assert!(!fit.fits());
//! for change in &fit.changes {
//!     println!("{change}");
//! }
//! # Ok(())
//! # }
//! ```

mod config;
mod error;
mod estimate;
mod file;
mod fit;
mod header;
mod infer;
mod layout;
mod shape;
mod weights_only;

pub use error::EstimateError;
pub use estimate::{Accounting, Estimate, EstimateRequest, Exact, WeightDtype};
pub use file::{MAX_CONFIG_BYTES, MAX_HEADER_BYTES, read_safetensors_header};
pub use fit::{Adjustment, Change, Fit};
pub use header::{StoredDtype, StoredTensor, stored_bytes, stored_tensors};
pub use layout::{ElementKind, Item, Part};
pub use shape::{MAX_POSITIONS, ModelShape, NAMED_SHAPES};
pub use weights_only::estimate_model_memory_mb;
