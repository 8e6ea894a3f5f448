//! References, cases and tolerances that every torchless backend must meet.
//!
//! [`ops`] has one file per operation: an f64 reference, the cases, and `run`, which holds a backend to them.
//! [`contract`] holds it to what is promised beyond the operations: memory, copies, counters, steps, threads.
//! [`tolerance`] is the only place with bounds. [`suite!`](crate::suite) makes a backend's tests of all of it,
//! [`decoder`] is the reference of a whole model, and [`toy`] the simplest backend that passes.
//! For tests of other crates: [`forward!`](crate::forward) makes a backend around another, [`mistral`] a workload.

mod case;
pub mod contract;
pub mod decoder;
mod forward;
mod host;
pub mod ops;
mod report;
mod shapes;
mod suite;
pub mod tolerance;
pub mod toy;
mod types;
mod workload;

pub use host::{Host, decode, encode, round};
pub use report::{Failure, Group, Report};
pub use workload::mistral;
