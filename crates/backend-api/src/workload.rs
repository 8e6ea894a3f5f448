//! A decoder as a backend must know it to say beforehand what it will do.

use std::fmt;

use crate::{DType, Heads};

/// Sizes and types of a decoder, and how it is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width between gate/up and down.
    pub intermediate_size: usize,
    /// Token ids.
    pub vocab_size: usize,
    /// Heads of the attention.
    pub heads: Heads,
    /// How many positions a token attends to; `None` is all of them.
    pub window: Option<usize>,
    /// Type of the weights.
    pub weights: DType,
    /// Type of keys and values.
    pub cache: DType,
    /// Type of what lies between the residual stream and the logits.
    pub activations: DType,
    /// Positions of the cache.
    pub context: usize,
    /// Prompt tokens that are processed together.
    pub rows: usize,
}

/// An operation that does not take the fastest kernel that the backend has for it on this device.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlowPath {
    /// Name of the operation.
    pub op: &'static str,
    /// For one token, or for a prompt.
    pub of: &'static str,
    /// What about the model or the device is in the way.
    pub reason: String,
    /// Name of the kernel that is taken, or of the operations that it is composed of.
    pub instead: &'static str,
}

impl SlowPath {
    /// One of operation `op` for `of`, a token or a prompt.
    pub fn new(op: &'static str, of: &'static str, reason: String, instead: &'static str) -> Self {
        Self { op, of, reason, instead }
    }
}

impl fmt::Display for SlowPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of a {}: {} -> {}", self.op, self.of, self.reason, self.instead)
    }
}
