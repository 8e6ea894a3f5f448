//! The PTX supply chain: `kernels/*.cu` to `crates/backend-cuda/ptx/`, and the proof that all of it agrees.
//!
//! A kernel is declared once in Rust (`crates/backend-cuda/src/kernels/NAME.rs`); [`declaration`] reads that text, so
//! that this crate builds whatever state the generated files are in.

pub mod archive;
pub mod check;
pub mod declaration;
pub mod generate;
pub mod manifest;
pub mod project;
pub mod ptx;
pub mod source;
pub mod tidy;
pub mod toolchain;

/// Result whose error is a text for the person at the terminal.
pub type Result<T, E = String> = std::result::Result<T, E>;

/// SHA-256 of `bytes` in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
