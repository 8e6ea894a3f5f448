//! Making the backend that was asked for, and saying what became of the others.

use backend_api::{Cause, DeviceInfo, Error, KernelBackend, Result};
use backend_cpu::CpuBackend;
#[cfg(feature = "cuda")]
use backend_cuda::CudaBackend;

use crate::{Backend, BackendPreference};

/// What a backend is made with.
///
/// For what only one backend knows, make that backend with its own builder and turn it into a [`Backend`] with `From`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendOptions {
    /// Threads of the CPU backend; one per core if absent.
    pub threads: Option<usize>,
}

/// A device that was considered.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Candidate {
    /// `cpu`, `cuda`, …
    pub backend: &'static str,
    /// What asks for this device and no other.
    pub preference: BackendPreference,
    /// The device, where it is usable.
    pub device: Option<DeviceInfo>,
    /// Bytes that were free on it, where known.
    pub free_memory: Option<u64>,
    /// Why it was chosen or left, or what keeps it from being used.
    pub reason: String,
    /// Which obstacle keeps it from being used, where it is one that programs can tell.
    pub cause: Option<Cause>,
    /// Name and version of the library that makes products, or why it is missing; [`devices`] alone asks, since that opens it.
    pub product_library: Option<String>,
}

impl Candidate {
    fn cpu(backend: &Backend, reason: &str) -> Self {
        Self::usable(BackendPreference::Cpu, backend, reason)
    }

    fn cuda(ordinal: usize, made: &Result<Backend>, reason: &str) -> Self {
        let preference = BackendPreference::CudaDevice(ordinal);
        match made {
            Ok(backend) => Self::usable(preference, backend, reason),
            Err(why) => {
                let reason = why.to_string();
                let cause = match why {
                    Error::Unavailable { cause, .. } => Some(*cause),
                    _ => None,
                };
                Self {
                    backend: CUDA,
                    preference,
                    device: None,
                    free_memory: None,
                    reason,
                    cause,
                    product_library: None,
                }
            }
        }
    }

    fn usable(preference: BackendPreference, backend: &Backend, reason: &str) -> Self {
        let device = backend.info();
        Self {
            backend: device.id.kind(),
            preference,
            free_memory: backend.memory().free,
            device: Some(device),
            reason: reason.into(),
            cause: None,
            product_library: None,
        }
    }

    /// Whether it could be used.
    pub fn is_usable(&self) -> bool {
        self.device.is_some()
    }
}

/// Makes the backend that `preference` asks for.
///
/// # Errors
/// [`Error::Unavailable`](backend_api::Error::Unavailable) if that backend cannot be used on this machine.
pub fn init_backend(preference: BackendPreference) -> Result<Backend> {
    init_backend_with(preference, &BackendOptions::default())
}

/// As [`init_backend`], with options.
///
/// # Errors
/// As [`init_backend`], and [`Error::Argument`](backend_api::Error::Argument) for options outside their range.
pub fn init_backend_with(preference: BackendPreference, options: &BackendOptions) -> Result<Backend> {
    let cpu = cpu(options)?;
    let ordinal = match preference {
        BackendPreference::Cpu => {
            let report = vec![Candidate::cpu(&cpu, ASKED)];
            return Ok(cpu.with_report(report));
        }
        BackendPreference::Auto => return Ok(auto(gpu_count(), cuda, cpu)),
        BackendPreference::Cuda => 0,
        BackendPreference::CudaDevice(ordinal) => ordinal,
    };
    let gpu = cuda(ordinal);
    let report = vec![Candidate::cuda(ordinal, &gpu, ASKED)];
    gpu.map(|gpu| gpu.with_report(report))
}

/// The first of `count` GPUs that opens, or the CPU. The report has the GPUs before it, too, and the CPU last.
fn auto(count: usize, open: impl Fn(usize) -> Result<Backend>, cpu: Backend) -> Backend {
    let mut report = Vec::new();
    let gpu = (0..count.max(1)).find_map(|ordinal| {
        let made = open(ordinal);
        report.push(Candidate::cuda(ordinal, &made, FIRST));
        made.ok()
    });
    report.push(Candidate::cpu(&cpu, ALWAYS));
    gpu.unwrap_or(cpu).with_report(report)
}

/// Every device of this machine, and for a backend without one what is missing; the first usable one is what
/// [`BackendPreference::Auto`] takes. Opens one after the other for a moment.
pub fn devices() -> Vec<Candidate> {
    let mut found = gpus(gpu_count(), cuda);
    found.push(Candidate::cpu(&CpuBackend::new().into(), ALWAYS));
    found
}

/// Each of `count` GPUs, usable or not; without any, what is missing for the first.
fn gpus(count: usize, open: impl Fn(usize) -> Result<Backend>) -> Vec<Candidate> {
    let mut reason = FIRST;
    let candidate = |ordinal| {
        let made = open(ordinal);
        let mut candidate = Candidate::cuda(ordinal, &made, reason);
        if made.is_ok() {
            reason = OTHER;
        }
        let library = made.ok().map(|gpu| gpu.product_library());
        candidate.product_library =
            library.and_then(|found| found.unwrap_or_else(|why| Some(why.to_string())));
        candidate
    };
    (0..count.max(1)).map(candidate).collect()
}

const CUDA: &str = "cuda";
const ASKED: &str = "asked for";
const FIRST: &str = "the first usable GPU";
const OTHER: &str = "usable";
const ALWAYS: &str = "always usable";

fn cpu(options: &BackendOptions) -> Result<Backend> {
    let builder = CpuBackend::builder();
    let builder = match options.threads {
        Some(threads) => builder.threads(threads),
        None => builder,
    };
    builder.build().map(Backend::from)
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize) -> Result<Backend> {
    CudaBackend::with_device(ordinal).map(Backend::from)
}

/// How many GPUs there are; opening the first one says why there are none.
#[cfg(feature = "cuda")]
fn gpu_count() -> usize {
    CudaBackend::count().unwrap_or(0)
}

#[cfg(not(feature = "cuda"))]
fn gpu_count() -> usize {
    0
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> Result<Backend> {
    let reason =
        "this build has no CUDA backend; build it with the feature `cuda`, or use `cpu` or `auto`".into();
    Err(Error::Unavailable { backend: CUDA.into(), cause: Cause::NotBuilt, reason, searched: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usable(report: &[Candidate]) -> Vec<(&str, bool)> {
        report.iter().map(|c| (c.backend, c.is_usable())).collect()
    }

    #[test]
    fn auto_takes_the_gpu_or_says_why_not() {
        let backend = init_backend(BackendPreference::Auto).unwrap();
        let report = backend.report();
        match cuda(0) {
            Ok(gpu) => {
                assert_eq!(backend.name(), "cuda");
                assert_eq!(usable(report), [("cuda", true), ("cpu", true)]);
                assert_eq!(report[0].device.as_ref().unwrap().name, gpu.info().name);
            }
            Err(why) => {
                assert_eq!(report[0].reason, why.to_string());
                let Error::Unavailable { cause, .. } = why else { panic!("{why}") };
                assert_eq!(report[0].cause, Some(cause));
            }
        }
        let chosen = report.iter().find_map(|c| c.device.as_ref()).unwrap();
        assert_eq!(chosen.id, backend.device());
    }

    #[test]
    fn what_is_asked_for_is_the_whole_report() {
        let cpu = init_backend(BackendPreference::Cpu).unwrap();
        assert_eq!(usable(cpu.report()), [("cpu", true)]);
        assert_eq!(cpu.report()[0].reason, "asked for");
    }

    #[test]
    fn cuda_never_falls_back() {
        let many = BackendPreference::CudaDevice(1_000);
        let first = BackendPreference::Cuda;
        for preference in [first, many] {
            match (init_backend(preference), cuda(0)) {
                (Ok(backend), Ok(_)) if preference == first => assert_eq!(backend.name(), "cuda"),
                (Ok(backend), _) => panic!("{preference} gave {}", backend.name()),
                (Err(Error::Unavailable { backend, .. }), _) => assert_eq!(backend, "cuda"),
                (Err(other), _) => panic!("{other}"),
            }
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_says_so() {
        let why = init_backend(BackendPreference::Cuda).unwrap_err().to_string();
        assert!(why.contains("this build has no CUDA backend"), "{why}");
    }

    #[test]
    fn the_list_of_devices_begins_as_the_report_of_auto() {
        let auto = init_backend(BackendPreference::Auto).unwrap();
        let devices = devices();
        let names = |list: &[Candidate]| -> Vec<_> {
            list.iter().map(|c| (c.backend, c.device.as_ref().map(|d| d.name.clone()))).collect()
        };
        let gpus = auto.report().len() - 1;
        assert_eq!(names(&devices[..gpus]), names(&auto.report()[..gpus]));
        assert_eq!(names(&devices).last(), names(auto.report()).last());
        assert_eq!(devices.iter().filter(|c| c.backend == "cpu").count(), 1);
    }

    fn cpu_backend() -> Backend {
        cpu(&BackendOptions::default()).unwrap()
    }

    /// Stands in for a GPU that works where `works` says so.
    fn open(works: impl Fn(usize) -> bool) -> impl Fn(usize) -> Result<Backend> {
        let broken = |ordinal| Error::Unavailable {
            backend: CUDA.into(),
            cause: Cause::NoDevice,
            reason: format!("card {ordinal} is in use by somebody else"),
            searched: Vec::new(),
        };
        move |ordinal| if works(ordinal) { Ok(cpu_backend()) } else { Err(broken(ordinal)) }
    }

    #[test]
    fn a_gpu_that_cannot_be_used_hides_no_other() {
        let works = |ordinal: usize| ordinal == 1 || ordinal == 2;
        let found = gpus(4, open(works));
        let reasons: Vec<_> = found.iter().map(|c| c.reason.as_str()).collect();
        assert_eq!(reasons[1..3], [FIRST, OTHER]);
        for (ordinal, candidate) in found.iter().enumerate() {
            assert_eq!(candidate.preference, BackendPreference::CudaDevice(ordinal));
            assert_eq!(candidate.is_usable(), works(ordinal));
            let named = candidate.reason.contains(&format!("card {ordinal} "));
            assert_eq!(named, !works(ordinal), "{}", candidate.reason);
            assert_eq!(candidate.product_library, None);
            assert_eq!(candidate.cause, (!works(ordinal)).then_some(Cause::NoDevice));
        }
        assert_eq!(gpus(0, open(|_| false)).len(), 1, "why there is none");
    }

    #[test]
    fn auto_takes_the_gpu_that_devices_lists_as_the_first_usable_one() {
        let cpu = cpu_backend();
        let id = cpu.device();
        let backend = auto(4, open(|ordinal| ordinal == 2), cpu);
        let (report, found) = (backend.report(), gpus(4, open(|ordinal| ordinal == 2)));
        let seen = |list: &[Candidate]| -> Vec<_> {
            list.iter().map(|c| (c.preference, c.is_usable(), c.reason.clone())).collect()
        };
        assert_eq!(seen(&report[..3]), seen(&found[..3]));
        assert_eq!(seen(&report[3..]), [(BackendPreference::Cpu, true, ALWAYS.to_owned())]);
        assert_eq!(backend.device(), report[2].device.as_ref().unwrap().id);
        let none = auto(2, open(|_| false), cpu_backend());
        assert_eq!(usable(none.report()), [("cuda", false), ("cuda", false), ("cpu", true)]);
        assert!(none.device() != id && none.device() == none.report()[2].device.as_ref().unwrap().id);
    }

    #[test]
    fn threads_are_checked() {
        let with =
            |threads| init_backend_with(BackendPreference::Cpu, &BackendOptions { threads: Some(threads) });
        assert!(matches!(with(0), Err(Error::Argument { name: "threads", .. })));
        assert!(with(1).unwrap().info().features.contains(&"threads: 1".to_owned()));
    }
}
