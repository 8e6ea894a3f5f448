//! Choosing a backend.

use std::fmt;
use std::str::FromStr;

use backend_api::{DeviceInfo, Error, KernelBackend, Result};
use backend_cpu::CpuBackend;

use crate::Backend;

/// Which backend to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendPreference {
    /// The fastest that is usable.
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

/// What a backend is made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendOptions {
    /// Threads of the CPU backend; one per core if absent.
    pub threads: Option<usize>,
}

/// A backend that was considered.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// `cpu`, `cuda`, …
    pub backend: &'static str,
    /// The device, where it is usable.
    pub device: Option<DeviceInfo>,
    /// Why it was chosen, or what keeps it from being used.
    pub reason: String,
}

impl Candidate {
    /// Whether it could be used.
    pub fn is_usable(&self) -> bool {
        self.device.is_some()
    }
}

/// Makes the backend that `preference` asks for.
///
/// # Errors
/// [`Error::Unavailable`] if that backend cannot be used on this machine.
pub fn init_backend(preference: BackendPreference) -> Result<Backend> {
    init_backend_with(preference, &BackendOptions::default())
}

/// As [`init_backend`], with options.
///
/// # Errors
/// As [`init_backend`], and [`Error::Argument`] for options outside their range.
pub fn init_backend_with(preference: BackendPreference, options: &BackendOptions) -> Result<Backend> {
    if matches!(preference, BackendPreference::Cuda | BackendPreference::CudaDevice(_)) {
        return Err(no_cuda());
    }
    let cpu = match options.threads {
        Some(threads) => CpuBackend::builder().threads(threads).build()?,
        None => CpuBackend::new(),
    };
    let mut report = Vec::new();
    if preference == BackendPreference::Auto {
        report.push(Candidate { backend: "cuda", device: None, reason: NO_CUDA.into() });
    }
    let reason = match preference {
        BackendPreference::Cpu => "asked for",
        _ => "always usable",
    };
    report.push(Candidate { backend: "cpu", device: Some(cpu.info()), reason: reason.into() });
    Ok(Backend::from_cpu(cpu, report))
}

const NO_CUDA: &str = "this build has no CUDA backend; use `cpu` or `auto`";

fn no_cuda() -> Error {
    let cause = backend_api::Cause::NotBuilt;
    Error::Unavailable { backend: "cuda".into(), cause, reason: NO_CUDA.into(), searched: Vec::new() }
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

    #[test]
    fn auto_gives_the_cpu_and_says_why() {
        let backend = init_backend(BackendPreference::Auto).unwrap();
        assert_eq!(backend.name(), "cpu");
        let report = backend.report();
        assert_eq!(
            report.iter().map(|c| (c.backend, c.is_usable())).collect::<Vec<_>>(),
            [("cuda", false), ("cpu", true)]
        );
        assert!(report[0].reason.contains("no CUDA backend"));
    }

    #[test]
    fn cuda_never_falls_back() {
        for preference in [BackendPreference::Cuda, BackendPreference::CudaDevice(1)] {
            let error = init_backend(preference).unwrap_err();
            assert!(matches!(&error, Error::Unavailable { backend, .. } if backend == "cuda"), "{error}");
        }
    }

    #[test]
    fn threads_are_checked() {
        let with =
            |threads| init_backend_with(BackendPreference::Cpu, &BackendOptions { threads: Some(threads) });
        assert!(matches!(with(0), Err(Error::Argument { name: "threads", .. })));
        assert!(with(1).unwrap().info().features.contains(&"threads: 1".to_owned()));
    }
}
