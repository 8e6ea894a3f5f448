//! Opens cuBLASLt, once per process.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use backend_api::{Cause, Error};
use libloading::Library;

use super::ffi::Api;
use super::find::{self, Here, Places, Platform};
use crate::device::driver;

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
    let open = || open(find::majors(driver()), &find::places(Platform::HERE, &Here));
    LIBRARY.get_or_init(open).as_ref()
}

/// The first library that loads, newer versions first.
fn open(majors: &[u32], places: &Places) -> Result<Opened, Missing> {
    let names = || majors.iter().map(|major| Platform::HERE.file(*major));
    let mut broken = Vec::new();
    for file in names() {
        let name = places.by_name.then(|| PathBuf::from(&file));
        let files = places.directories.iter().map(|directory| directory.join(&file));
        for path in name.into_iter().chain(files.filter(|path| path.is_file())) {
            match load(&path) {
                Ok(api) => return Ok(Opened { api, file: path }),
                Err(error) if path.is_absolute() => broken.push(format!("{}: {error}", path.display())),
                Err(_) => {}
            }
        }
    }
    let reason = match broken.as_slice() {
        [] => "it was not found; own kernels are used".into(),
        _ => format!("it does not load ({}); own kernels are used", broken.join("; ")),
    };
    let directories = places.directories.iter().map(|directory| directory.display().to_string());
    Err(Missing { reason, searched: names().chain(directories).collect() })
}

/// CUDA version of the driver, 0 if unknown.
fn driver() -> i32 {
    let mut version = 0;
    #[expect(unsafe_code, reason = "a call of the driver")]
    // SAFETY: a backend exists, so the driver's library is open; it writes one number.
    let _ = unsafe { driver::driver_version(&raw mut version) };
    version
}

#[expect(unsafe_code, reason = "opens a library")]
fn load(path: &Path) -> Result<Api, libloading::Error> {
    #[cfg(windows)]
    // SAFETY: opening cuBLASLt runs its initialisers, which is what using it means; neither the current directory nor the
    // path is searched for it or for what it needs.
    let library: Library = unsafe {
        use libloading::os::windows as os;
        let beside = if path.is_absolute() { os::LOAD_LIBRARY_SEARCH_DLL_LOAD_DIR } else { 0 };
        os::Library::load_with_flags(path, beside | os::LOAD_LIBRARY_SEARCH_DEFAULT_DIRS)?.into()
    };
    #[cfg(not(windows))]
    // SAFETY: opening cuBLASLt runs its initialisers, which is what using it means.
    let library = unsafe { Library::new(path)? };
    let api = Api::of(&library)?;
    std::mem::forget(library);
    Ok(api)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_searched_is_told() {
        let places = Places { by_name: false, directories: vec!["/nowhere/lib".into()] };
        let error = Error::from(&open(&[13, 12], &places).unwrap_err()).to_string();
        let file = Platform::HERE.file(13);
        for part in ["cuBLAS", "not found", "own kernels are used", &file, "/nowhere/lib"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn a_file_that_is_no_library_is_named() {
        let directory = std::env::temp_dir().join(format!("torchless-blas-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join(Platform::HERE.file(12));
        std::fs::write(&path, "not a library").unwrap();
        let missing =
            open(&[12], &Places { by_name: false, directories: vec![directory.clone()] }).unwrap_err();
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(missing.reason.contains("does not load"), "{missing:?}");
        assert!(missing.reason.contains(&path.display().to_string()), "{missing:?}");
    }
}
