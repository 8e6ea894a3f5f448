//! Mistral and Llama decoders, generic over the backend that runs them.
//!
//! [`Model::load`] reads a Hugging Face folder into a backend's memory, [`Model::session`] allocates a KV cache, and
//! [`Session::generate`] is an iterator over tokens. A session keeps its cache: the next call continues the conversation
//! without reading its past again.
//!
//! ```
//! use std::sync::Arc;
//!
//! use backend_cpu::CpuBackend;
//! use decoder::{GenerateOptions, LoadOptions, Model};
//!
//! # fn main() -> backend_api::Result<()> {
//! let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../torchless-cli/models/tiny-shakespeare");
//! let model = Model::load(&Arc::new(CpuBackend::new()), folder, &LoadOptions::default())?;
//! let mut session = model.session(64)?;
//! let options = GenerateOptions { max_tokens: 4, ..GenerateOptions::default() };
//! for token in session.generate("ROMEO:", &options)? {
//!     print!("{}", token?.text);
//! }
//! assert_eq!(session.tokens().len(), session.cached() + 1, "the last token is fed by the next call");
//! # Ok(())
//! # }
//! ```

#[cfg(target_endian = "big")]
compile_error!("safetensors files are little-endian and are read as they stand");

mod config;
mod device;
mod forward;
mod generate;
mod loader;
mod model;
mod rope;
mod session;
mod surplus;
mod text;
mod weights;

pub use config::{Config, Family, RopeScaling};
pub use device::OnBackend;
pub use generate::{FinishReason, GenerateOptions, Generation, GenerationStats, Token};
pub use model::{LoadOptions, LoadReport, Model, ModelBytes};
pub use session::Session;
pub use text::{StopStrings, TextStream, Tokenizer};
