//! Why a command ended early, and the exit status that says so.

use std::process::ExitCode;

use torchless::{Error, EstimateError};

use crate::output;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Help or the version was asked for.
    Help(String),
    /// The command line is wrong.
    Usage(String),
    /// The command could not be done.
    Failed(String),
    /// Ctrl-C.
    Interrupted,
    /// Nobody reads standard output any more.
    Closed,
}

impl Failure {
    /// Reports the failure and gives the exit status.
    pub(crate) fn report(self) -> ExitCode {
        let (message, status) = match self {
            Self::Help(text) => {
                return match output::print(&text) {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(failure) => failure.report(),
                };
            }
            Self::Closed => return ExitCode::SUCCESS,
            Self::Interrupted => return ExitCode::from(130),
            Self::Usage(message) => (message, 2),
            Self::Failed(message) => (message, 1),
        };
        output::note(&format!("error: {}", output::one_line(&message)));
        ExitCode::from(status)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Cancelled => Self::Interrupted,
            Error::Argument { name: name @ ("stop" | "threads"), reason } => {
                Self::Usage(format!("--{name}: {reason}"))
            }
            Error::Argument { name, reason } => Self::Usage(format!("{}: {reason}", name.replace('_', " "))),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<EstimateError> for Failure {
    fn from(error: EstimateError) -> Self {
        Self::Failed(error.to_string())
    }
}
