//! The binary as its users see it: what it prints where, and how it ends.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of the tests may panic as the tests do")]

mod bench;
mod devices;
#[cfg(all(feature = "cuda", target_os = "linux", target_env = "gnu"))]
mod drivers;
mod estimate;
mod generate;
#[cfg(feature = "cuda")]
mod gpu;
mod help;
#[cfg(target_os = "linux")]
mod libraries;
mod model_folder;
mod run;
mod streams;
mod verify;
