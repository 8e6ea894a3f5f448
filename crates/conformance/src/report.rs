//! What a run of cases gives.

use std::fmt;

/// How much is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// A subset for sanitizers and for toy backends: seconds on a CPU for all operations together.
    Quick,
    /// The whole grid: under a minute on two CPU cores for all operations together.
    Full,
    /// Tensors of more than 2^31 elements alone: gigabytes of device memory.
    Huge,
}

/// What was run without a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Cases that were run and compared.
    pub cases: usize,
    /// Mixtures of types that the backend does not take.
    pub refused: usize,
}

/// The first case that went wrong.
#[derive(Clone, PartialEq, Eq)]
pub struct Failure {
    /// Operation, or the part of the contract.
    pub op: &'static str,
    /// Types, shapes and form of the call.
    pub case: String,
    /// Of the random inputs.
    pub seed: u64,
    /// Element, value, reference and bound; or the backend's error.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}] (seed {:#x}): {}", self.op, self.case, self.seed, self.what)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Failure {}

/// Why a case does not pass.
#[derive(Debug)]
pub(crate) enum Problem {
    Backend(backend_api::Error),
    Wrong(String),
}

impl From<backend_api::Error> for Problem {
    fn from(error: backend_api::Error) -> Self {
        Self::Backend(error)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backend(error) => write!(f, "the backend answered: {error}"),
            Self::Wrong(what) => f.write_str(what),
        }
    }
}

/// Result of a case.
pub(crate) type Step<T = ()> = Result<T, Problem>;

/// A [`Problem::Wrong`] unless `ok`.
pub(crate) fn ensure(ok: bool, what: impl FnOnce() -> String) -> Step {
    if ok { Ok(()) } else { Err(Problem::Wrong(what())) }
}
