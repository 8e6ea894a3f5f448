//! Mistral and Llama decoders, generic over the backend that runs them.
//!
//! [`Model::load`] reads a Hugging Face folder into a backend's memory, [`Model::session`] allocates a KV cache, and
//! [`Session::generate`] is an iterator over tokens. A session keeps its cache: the next call continues the conversation
//! without reading its past again.

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
