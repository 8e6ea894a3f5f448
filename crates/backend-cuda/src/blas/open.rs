//! Opens cuBLASLt, once per process.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use backend_api::Error;
use cudarc::driver::sys;
use libloading::Library;

use super::ffi::Api;
use super::find::{self, Here, Platform};

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
            reason: missing.reason.clone(),
            searched: missing.searched.clone(),
        }
    }
}

/// The library, opened by the first call.
pub(super) fn library() -> Result<&'static Opened, &'static Missing> {
    static LIBRARY: OnceLock<Result<Opened, Missing>> = OnceLock::new();
    LIBRARY.get_or_init(open).as_ref()
}

fn open() -> Result<Opened, Missing> {
    let places = find::places(Platform::HERE, &Here);
    let majors = find::majors(driver());
    let mut broken = Vec::new();
    for file in majors.iter().map(|major| Platform::HERE.file(*major)) {
        let name = places.by_name.then(|| PathBuf::from(&file));
        let files =
            places.directories.iter().map(|directory| directory.join(&file)).filter(|path| path.is_file());
        for path in name.into_iter().chain(files) {
            match load(&path) {
                Ok(api) => return Ok(Opened { api, file: path }),
                Err(error) if path.is_absolute() => broken.push(format!("{}: {error}", path.display())),
                Err(_) => {}
            }
        }
    }
    let why = if broken.is_empty() {
        "it was not found".into()
    } else {
        format!("it does not load ({})", broken.join("; "))
    };
    let names = majors.iter().map(|major| Platform::HERE.file(*major));
    let directories = places.directories.iter().map(|directory| directory.display().to_string());
    Err(Missing {
        reason: format!("{why}; own kernels are used"),
        searched: names.chain(directories).collect(),
    })
}

/// CUDA version of the driver, 0 if unknown.
fn driver() -> i32 {
    let mut version = 0;
    #[expect(unsafe_code, reason = "a call of the driver")]
    // SAFETY: a backend exists, so the driver's library is open; it writes one number.
    let _ = unsafe { sys::cuDriverGetVersion(&mut version) };
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
