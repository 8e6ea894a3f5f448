//! The arithmetic of the backend on plain slices: no tensors, no shapes beyond rows, columns and strides.
//!
//! Weights and caches are read in their storage type through [`element::Element`]; activations are `f32`.
//! Every function gives bit-identical results from run to run: work is cut at places that depend on the
//! sizes only, and reductions across pieces happen in a fixed order.

pub(crate) mod attention;
pub(crate) mod decode;
pub(crate) mod element;
pub(crate) mod exp;
pub(crate) mod gemm;
pub(crate) mod lanes;
pub(crate) mod map;
pub(crate) mod matvec;
pub(crate) mod part;
pub(crate) mod prefill;
pub(crate) mod probe;
pub(crate) mod rows;
pub(crate) mod rowwise;
pub(crate) mod scratch;
#[cfg(test)]
mod tests;
pub(crate) mod tile;
