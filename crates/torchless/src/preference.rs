//! Which backend to use, and its name on a command line.

use std::fmt;
use std::str::FromStr;

use backend_api::{Error, Result};

/// Which backend to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendPreference {
    /// The first NVIDIA GPU that is usable, otherwise the CPU.
    #[default]
    Auto,
    /// The CPU; opens no CUDA library.
    Cpu,
    /// The first NVIDIA GPU; never falls back.
    Cuda,
    /// The NVIDIA GPU of this number; never falls back.
    CudaDevice(usize),
}

impl fmt::Display for BackendPreference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda => f.write_str("cuda"),
            Self::CudaDevice(n) => write!(f, "cuda:{n}"),
        }
    }
}

impl FromStr for BackendPreference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || Error::Argument {
            name: "device",
            reason: format!("`{text}` is none of auto, cpu, cuda, cuda:N"),
        };
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            _ => {
                let number = text.strip_prefix("cuda:").ok_or_else(unknown)?;
                number.parse().map(Self::CudaDevice).map_err(|_| unknown())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences_round_trip() {
        for (text, preference) in [
            ("auto", BackendPreference::Auto),
            ("cpu", BackendPreference::Cpu),
            ("cuda", BackendPreference::Cuda),
            ("cuda:3", BackendPreference::CudaDevice(3)),
        ] {
            assert_eq!(text.parse::<BackendPreference>().unwrap(), preference);
            assert_eq!(preference.to_string(), text);
        }
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda0"] {
            assert!(text.parse::<BackendPreference>().is_err(), "{text}");
        }
    }
}
