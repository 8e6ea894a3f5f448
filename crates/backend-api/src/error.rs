//! The one error type of the workspace.

use std::path::PathBuf;

use crate::{DType, DeviceId};

/// Result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What failed, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operand has the wrong shape.
    #[error("{op}: `{operand}` has shape {got:?}, but {expected:?} is needed")]
    Shape {
        /// Operation.
        op: &'static str,
        /// Operand of the operation.
        operand: &'static str,
        /// Shape that the other operands ask for.
        expected: Vec<usize>,
        /// Shape that was given.
        got: Vec<usize>,
    },
    /// An operand has a type that the operation, or this backend, does not take.
    #[error("{op}: `{operand}` is {got}, but {expected} is needed")]
    DType {
        /// Operation.
        op: &'static str,
        /// Operand of the operation.
        operand: &'static str,
        /// Types that would do.
        expected: &'static str,
        /// Type that was given.
        got: DType,
    },
    /// An operand lives on another device than the one that should work on it.
    #[error("{op}: `{operand}` is on {got}, but the operation runs on {expected}; move it with `to_device`")]
    Device {
        /// Operation.
        op: &'static str,
        /// Operand of the operation.
        operand: &'static str,
        /// Device of the backend or of the other operands.
        expected: DeviceId,
        /// Device of this operand.
        got: DeviceId,
    },
    /// A size that the operation cannot address.
    #[error("{op}: `{operand}` is too large: {size} where at most {limit} can be addressed")]
    TooLarge {
        /// Operation.
        op: &'static str,
        /// Operand of the operation.
        operand: &'static str,
        /// Size that was asked for.
        size: u64,
        /// Largest size that works.
        limit: u64,
    },
    /// The device has no room; the backend stays usable.
    #[error(
        "out of memory: {requested} bytes were asked for, {free} bytes are free; use a smaller context, a smaller dtype or another device"
    )]
    OutOfMemory {
        /// Bytes that were asked for.
        requested: u64,
        /// Bytes that were free.
        free: u64,
    },
    /// A backend that cannot be used on this machine.
    #[error("backend `{backend}` is unavailable: {reason}{}", searched_note(.searched))]
    Unavailable {
        /// Name of the backend.
        backend: String,
        /// Which obstacle, for programs.
        cause: Cause,
        /// Why, and what would make it available.
        reason: String,
        /// What was looked for, and where.
        searched: Vec<String>,
    },
    /// The device's context is dead; every later call fails at once. The driver gives this process no other one.
    #[error("device of backend `{backend}` is lost: {reason}; restart the program")]
    DeviceLost {
        /// Name of the backend.
        backend: String,
        /// What killed it.
        reason: String,
    },
    /// A call of the backend's driver or library failed; the backend stays usable.
    #[error("{backend}: {op} failed: {reason}")]
    Backend {
        /// Name of the backend.
        backend: String,
        /// What was being done.
        op: String,
        /// What the driver or library answered.
        reason: String,
    },
    /// An operation that needs values of the host was issued while a step is being captured.
    #[error("{op} cannot run inside a captured step: it needs values that only the device has")]
    Captured {
        /// Operation.
        op: &'static str,
    },
    /// Something well-formed that this build does not handle.
    #[error("{what} is not supported; supported: {supported}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// What would work.
        supported: String,
    },
    /// An argument outside its range.
    #[error("argument `{name}`: {reason}")]
    Argument {
        /// Name of the argument.
        name: &'static str,
        /// What is wrong with it and what would do.
        reason: String,
    },
    /// More tokens than the session's context holds.
    #[error(
        "the context holds {context} tokens, but {needed} are needed; ask for a larger context or a shorter prompt"
    )]
    ContextFull {
        /// Positions of the context.
        context: usize,
        /// Positions that the call would need.
        needed: usize,
    },
    /// The model produced NaN logits.
    #[error(
        "the logits at position {position} are not numbers; the weights are damaged or overflow in this dtype, try f32"
    )]
    NonFinite {
        /// Position whose logits are unusable.
        position: usize,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// A file or stream could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// A file that does not hold what it should.
    #[error("{}{}: {reason}", path.display(), at(.offset))]
    Format {
        /// File.
        path: PathBuf,
        /// Byte at which it goes wrong, where there is one.
        offset: Option<u64>,
        /// What is wrong.
        reason: String,
    },
}

/// What keeps a backend from being used, in whole or for one kernel or library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// This build does not have the backend.
    NotBuilt,
    /// No driver was found.
    NoDriver,
    /// What was found is a toolkit's stub of the driver.
    StubDriver,
    /// The driver is too old, or does not fit the rest of its installation.
    OldDriver,
    /// The driver does not start.
    DriverFailed,
    /// There is no such device, or none that may be used.
    NoDevice,
    /// No kernel fits the card, or the driver cannot compile one for it.
    NoKernelImage,
    /// The driver is too old for the version of the kernels' assembly.
    PtxVersion,
    /// The driver refuses the kernels' assembly; the reason ends with its log.
    InvalidPtx,
    /// The run-time compiler was not found, or will not do.
    NoCompiler,
    /// A library of matrix products was asked for and not found, or will not do.
    NoBlas,
}

impl Error {
    /// An [`Error::Io`] about `path`, for `map_err`.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// An [`Error::Format`] about `path` as a whole.
    pub fn format(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Format { path: path.into(), offset: None, reason: reason.into() }
    }
}

fn searched_note(places: &[String]) -> String {
    if places.is_empty() { String::new() } else { format!(" (searched: {})", places.join(", ")) }
}

fn at(offset: &Option<u64>) -> String {
    offset.map_or_else(String::new, |o| format!(", byte {o}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_what_where_and_what_to_do() {
        let e = Error::Shape { op: "rmsnorm", operand: "weight", expected: vec![1, 12], got: vec![1, 11] };
        assert_eq!(e.to_string(), "rmsnorm: `weight` has shape [1, 11], but [1, 12] is needed");
        let e = Error::Format { path: "m.safetensors".into(), offset: Some(8), reason: "cut".into() };
        assert_eq!(e.to_string(), "m.safetensors, byte 8: cut");
        let e = Error::Unavailable {
            backend: "cuda".into(),
            cause: Cause::NoDriver,
            reason: "no driver".into(),
            searched: vec!["libcuda.so.1".into()],
        };
        assert!(e.to_string().ends_with("no driver (searched: libcuda.so.1)"));
    }

    #[test]
    fn errors_cross_threads() {
        fn check<T: Send + Sync + 'static>() {}
        check::<Error>();
    }
}
