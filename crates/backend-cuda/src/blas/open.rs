//! Opens cuBLASLt, once per process.

use std::path::PathBuf;
use std::sync::OnceLock;

use backend_api::{Cause, Error};

use super::ffi::Api;
use crate::device::driver;
use crate::libraries::{self, Here, Places, Platform};

/// An opened library. It is never closed: its own threads and exit handlers run in it.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) api: Api,
    /// The file, or the name that the system's loader resolved.
    pub(super) file: PathBuf,
}

/// Why there is no library.
#[derive(Clone, Debug)]
pub(super) struct Missing {
    pub(super) reason: String,
    /// What was looked for, and where.
    pub(super) searched: Vec<String>,
}

impl From<&Missing> for Error {
    fn from(missing: &Missing) -> Self {
        Self::Unavailable {
            backend: "cuBLAS".into(),
            cause: Cause::NoBlas,
            reason: missing.reason.clone(),
            searched: missing.searched.clone(),
        }
    }
}

/// The library, opened by the first call.
pub(super) fn library() -> Result<&'static Opened, &'static Missing> {
    static LIBRARY: OnceLock<Result<Opened, Missing>> = OnceLock::new();
    let open = || open(libraries::majors(driver()), &libraries::places(Platform::HERE, &Here));
    LIBRARY.get_or_init(open).as_ref()
}

fn open(majors: &[u32], places: &Places) -> Result<Opened, Missing> {
    let opened = libraries::open("cublasLt", majors, places, Api::of);
    opened.map(|(api, file)| Opened { api, file }).map_err(|missing| Missing {
        reason: format!("it {}; own kernels are used", missing.reason()),
        searched: missing.searched,
    })
}

/// CUDA version of the driver, 0 if unknown.
fn driver() -> i32 {
    let mut version = 0;
    #[expect(unsafe_code, reason = "a call of the driver")]
    // SAFETY: a backend exists, so the driver's library is open; it writes one number.
    let _ = unsafe { driver::driver_version(&raw mut version) };
    version
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_searched_is_told() {
        let places = Places { by_name: false, directories: vec!["/nowhere/lib".into()] };
        let error = Error::from(&open(&[13, 12], &places).unwrap_err()).to_string();
        let file = Platform::HERE.file("cublasLt", 13);
        for part in ["cuBLAS", "not found", "own kernels are used", &file, "/nowhere/lib"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
