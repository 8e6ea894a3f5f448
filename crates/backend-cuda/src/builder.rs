//! How a backend is made.

use std::str::FromStr;

use backend_api::{Error, Result};

use crate::CudaBackend;

/// Names where the kernels come from: `embedded` or `nvrtc`.
const VARIABLE: &str = "TORCHLESS_KERNELS";

/// Where the kernels come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KernelSource {
    /// The PTX inside the program, compiled by the driver.
    #[default]
    Embedded,
    /// The sources inside the program, compiled for the card at hand by NVIDIA's NVRTC: needs feature `nvrtc`, and
    /// the library when the first kernel is loaded.
    Nvrtc,
}

impl KernelSource {
    fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Nvrtc => "nvrtc",
        }
    }

    #[cfg(not(feature = "nvrtc"))]
    pub(crate) fn not_built() -> Error {
        Error::Unsupported {
            what: "compiling kernels at run time".into(),
            supported: "the embedded kernels; build `backend-cuda` with feature `nvrtc` for more".into(),
        }
    }

    /// The source that a setting names.
    fn of(setting: Option<&str>) -> Result<Self> {
        match setting {
            None | Some("") => Ok(Self::default()),
            Some(name) => name.parse(),
        }
    }
}

impl FromStr for KernelSource {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::Embedded, Self::Nvrtc].into_iter().find(|source| source.name() == name).ok_or_else(|| {
            let reason = format!("kernels come from `embedded` or `nvrtc` ({VARIABLE}), not from `{name}`");
            Error::Argument { name: "kernels", reason }
        })
    }
}

/// Settings of a [`CudaBackend`], from [`CudaBackend::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct CudaBackendBuilder {
    pub(crate) device: usize,
    pub(crate) poison: bool,
    pub(crate) blas: bool,
    pub(crate) kernels: Option<KernelSource>,
    pub(crate) kernel_target: Option<(u32, u32)>,
}

impl Default for CudaBackendBuilder {
    fn default() -> Self {
        Self { device: 0, poison: false, blas: true, kernels: None, kernel_target: None }
    }
}

impl CudaBackendBuilder {
    /// Number of the GPU, as the driver counts those that it shows: 0 unless set.
    pub fn device(mut self, ordinal: usize) -> Self {
        self.device = ordinal;
        self
    }

    /// Fills memory with `0xFF` before it is handed out, so that what is read but was not written shows as NaN.
    pub fn poison(mut self, on: bool) -> Self {
        self.poison = on;
        self
    }

    /// Whether cuBLAS may be used where it is found; on unless set. Without it every product runs on our own kernels.
    pub fn blas(mut self, on: bool) -> Self {
        self.blas = on;
        self
    }

    /// Where the kernels come from; what the variable `TORCHLESS_KERNELS` says unless set.
    pub fn kernels(mut self, source: KernelSource) -> Self {
        self.kernels = Some(source);
        self
    }

    /// Chooses kernels as for a card of this compute capability, at most that of the card: `(5, 0)` takes the portable ones,
    /// which helps where a driver or card does badly with newer ones. Those that run on 9.0 alone are for a card of 9.0.
    pub fn kernel_target(mut self, capability: (u32, u32)) -> Self {
        self.kernel_target = Some(capability);
        self
    }

    /// Makes the backend.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without a driver or without that GPU, [`Error::Unsupported`] where run-time compilation is
    /// asked for of a build that lacks it, [`Error::Argument`] for a target above the card's capability and for a
    /// `TORCHLESS_KERNELS` that says something else.
    pub fn build(self) -> Result<CudaBackend> {
        CudaBackend::from_builder(self)
    }

    /// The setting, or what the environment says.
    pub(crate) fn source(&self) -> Result<KernelSource> {
        let source = match self.kernels {
            Some(source) => source,
            None => KernelSource::of(
                std::env::var_os(VARIABLE).map(|v| v.to_string_lossy().into_owned()).as_deref(),
            )?,
        };
        #[cfg(not(feature = "nvrtc"))]
        if source == KernelSource::Nvrtc {
            return Err(KernelSource::not_built());
        }
        Ok(source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_have_names() {
        assert_eq!(KernelSource::of(None).unwrap(), KernelSource::Embedded);
        assert_eq!(KernelSource::of(Some("")).unwrap(), KernelSource::Embedded);
        assert_eq!(KernelSource::of(Some("embedded")).unwrap(), KernelSource::Embedded);
        assert_eq!(KernelSource::of(Some("nvrtc")).unwrap(), KernelSource::Nvrtc);
        let error = KernelSource::of(Some("NVRTC")).unwrap_err();
        assert!(error.to_string().contains("TORCHLESS_KERNELS"), "{error}");
    }

    #[cfg(not(feature = "nvrtc"))]
    #[test]
    fn compiling_is_refused_by_a_build_without_it() {
        let error = CudaBackend::builder().kernels(KernelSource::Nvrtc).build().unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }
}
