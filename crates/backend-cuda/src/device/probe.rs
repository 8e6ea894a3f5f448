//! Which library is the driver, and whether it will do; opened once per process, before the first call of it.

use std::ffi::{c_int, c_uint};
use std::sync::{Mutex, OnceLock, PoisonError};

use backend_api::{Cause, Error, Result};
use libloading::Library;

use super::driver::{self, DriverError, code};
use super::failure::start_failure;
use crate::libraries::{self, Here, Machine, Places, Platform};

/// The driver's name: never the one without a version, which belongs to the toolkit's stub.
const NAME: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };

/// Where systems keep the driver that the loader may not know of.
const SYSTEM: &[&str] = &[
    "/usr/lib/wsl/lib",
    "/run/opengl-driver/lib",
    #[cfg(target_arch = "x86_64")]
    "/usr/lib/x86_64-linux-gnu",
    #[cfg(target_arch = "aarch64")]
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/nvidia/lib64",
];

/// Where the driver may be, best first: what the loader resolves, the folders of its path, then [`SYSTEM`]. Never the current
/// folder; on Windows, the folder of the system alone, which is what the bare name stands for there.
fn places(platform: Platform, machine: &dyn Machine) -> Vec<String> {
    let Places { by_name, directories } = libraries::loader(platform, machine);
    let name = by_name.then(|| NAME.to_owned());
    let folders = directories.iter().map(|folder| folder.display().to_string());
    let system = SYSTEM.iter().filter(|_| platform == Platform::Unix).map(|folder| (*folder).to_owned());
    let mut places: Vec<_> =
        name.into_iter().chain(folders.chain(system).map(|f| format!("{f}/{NAME}"))).collect();
    let mut seen = std::collections::HashSet::new();
    places.retain(|place| seen.insert(place.clone()));
    places
}

/// The oldest version of the driver's interface that will do, as `cuDriverGetVersion` counts.
const OLDEST: i32 = 12_000;

static DRIVER: OnceLock<Library> = OnceLock::new();

/// The driver, once [`open`] has found it.
pub(crate) fn opened() -> Option<&'static Library> {
    DRIVER.get()
}

/// What is behind a name.
#[derive(Debug)]
enum Found<T> {
    /// No library.
    Nothing,
    /// A toolkit's stub, which has the driver's symbols and can do nothing.
    Stub,
    /// A driver, and what its initialisation answered.
    Driver(T, Result<(), DriverError>),
}

/// Opens the driver and initialises it; creates no context. A failure is not kept: the next call looks again.
///
/// # Errors
/// [`Error::Unavailable`] with the cause: no driver, a stub, too old, no device.
pub(crate) fn open() -> Result<()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    if DRIVER.get().is_some() {
        return Ok(());
    }
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let places = places(Platform::HERE, &Here);
    let (library, started) = choose(&places, look)?;
    let version = version(&library);
    if started.is_ok() {
        check_version(version)?;
        let _ = DRIVER.set(library);
        return Ok(());
    }
    started.map_err(|e| start_failure(e.0, version, places))
}

/// The first driver among `places`.
fn choose<T>(places: &[String], look: impl Fn(&str) -> Found<T>) -> Result<(T, Result<(), DriverError>)> {
    let mut stubs = Vec::new();
    for place in places {
        match look(place) {
            Found::Nothing => {}
            Found::Stub => stubs.push(place),
            Found::Driver(library, started) => return Ok((library, started)),
        }
    }
    let (cause, reason) = match stubs.first() {
        None => (Cause::NoDriver, "no NVIDIA driver was found; install one, or use the CPU".to_owned()),
        Some(stub) => (
            Cause::StubDriver,
            format!(
                "`{stub}` is a stub of the CUDA toolkit and no driver; take its folder out of the library path and \
                 install NVIDIA's driver, or use the CPU"
            ),
        ),
    };
    Err(Error::Unavailable { backend: "cuda".into(), cause, reason, searched: places.to_vec() })
}

/// Opens what is at `place` and initialises it.
#[expect(unsafe_code, reason = "opens a library and calls it")]
fn look(place: &str) -> Found<Library> {
    // SAFETY: opening the driver's library runs its initialisers, which is what using it means.
    let Ok(library) = (unsafe { load(place) }) else { return Found::Nothing };
    // SAFETY: the type is the function's in `cuda.h`.
    let started = match unsafe { library.get::<unsafe extern "system" fn(c_uint) -> u32>("cuInit") } {
        // SAFETY: any thread may call it at any time; the flags must be 0.
        Ok(init) => unsafe { init(0) },
        Err(_) => return Found::Nothing,
    };
    match started {
        0 => Found::Driver(library, Ok(())),
        code::STUB_LIBRARY => Found::Stub,
        code => Found::Driver(library, Err(DriverError(code))),
    }
}

#[cfg(not(windows))]
#[expect(unsafe_code, reason = "opens a library")]
unsafe fn load(place: &str) -> Result<Library, libloading::Error> {
    // SAFETY: the caller's promise.
    unsafe { Library::new(place) }
}

/// From the folder of the system alone.
#[cfg(windows)]
#[expect(unsafe_code, reason = "opens a library")]
unsafe fn load(place: &str) -> Result<Library, libloading::Error> {
    use libloading::os::windows::{LOAD_LIBRARY_SEARCH_SYSTEM32, Library as Windows};
    // SAFETY: the caller's promise.
    unsafe { Windows::load_with_flags(place, LOAD_LIBRARY_SEARCH_SYSTEM32) }.map(Library::from)
}

#[expect(unsafe_code, reason = "calls of the driver")]
fn version(library: &Library) -> i32 {
    let mut version: c_int = 0;
    // SAFETY: the type is the function's in `cuda.h`; it writes one integer.
    unsafe {
        if let Ok(get) = library.get::<unsafe extern "system" fn(*mut c_int) -> u32>("cuDriverGetVersion") {
            get(&raw mut version);
        }
    }
    version
}

/// Whether a driver of this version will do.
fn check_version(version: i32) -> Result<()> {
    if version >= OLDEST {
        return Ok(());
    }
    Err(Error::Unavailable {
        backend: "cuda".into(),
        cause: Cause::OldDriver,
        reason: format!(
            "the driver supports CUDA {}.{}, and 12.0 is needed; update NVIDIA's driver to 525 or later, or use the CPU",
            version / 1000,
            version % 1000 / 10
        ),
        searched: Vec::new(),
    })
}

/// How many devices the driver shows; creates no context.
///
/// # Errors
/// As [`open`].
#[expect(unsafe_code, reason = "calls of the driver")]
pub(crate) fn count() -> Result<usize> {
    open()?;
    let mut count: c_int = 0;
    // SAFETY: writes one integer.
    unsafe { driver::device_count(&raw mut count) }
        .map_err(|e| start_failure(e.0, opened().map_or(0, version), places(Platform::HERE, &Here)))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause<T: std::fmt::Debug>(result: Result<T>) -> (Cause, String) {
        match result.unwrap_err() {
            Error::Unavailable { cause, reason, searched, .. } => (cause, format!("{reason} {searched:?}")),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_file_that_is_no_library_and_a_name_that_is_no_file_are_no_driver() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let places = [file, "/nowhere/libcuda.so.1", "libthere-is-none.so.1"].map(String::from);
        let (cause, text) = cause(choose(&places, look));
        assert_eq!(cause, Cause::NoDriver);
        assert!(text.contains("install") && places.iter().all(|p| text.contains(p.as_str())), "{text}");
    }

    #[test]
    fn a_stub_is_passed_over_and_named_where_it_is_all_there_is() {
        let look = |place: &str| match place {
            "stub" => Found::Stub,
            "driver" => Found::Driver(7, Ok(())),
            _ => Found::Nothing,
        };
        assert_eq!(choose(&["none", "stub", "driver"].map(String::from), look).unwrap(), (7, Ok(())));
        let (cause, text) = cause(choose(&["none", "stub"].map(String::from), look));
        assert_eq!(cause, Cause::StubDriver);
        assert!(text.contains("`stub` is a stub"), "{text}");
    }

    struct Variable(&'static str);

    impl Machine for Variable {
        fn var(&self, name: &str) -> Option<String> {
            (name == "LD_LIBRARY_PATH").then(|| self.0.to_owned())
        }
        fn list(&self, _: &std::path::Path) -> Vec<std::path::PathBuf> {
            Vec::new()
        }
    }

    #[test]
    fn no_place_is_relative_or_a_stubs() {
        for path in ["", "/a", "/a:/b", ":/a", "lib:/a", "."] {
            let places = places(Platform::Unix, &Variable(path));
            for place in &places {
                assert!(place.ends_with(NAME) && !place.contains("stubs"), "{place}");
                assert!(place.starts_with('/') || place == NAME, "{place}");
            }
            let to_here = path.split(':').any(|d| !d.starts_with('/')) && !path.is_empty();
            assert_eq!(places[0] == NAME, !to_here, "{path}: {places:?}");
            assert_eq!(places.contains(&format!("/a/{NAME}")), path.contains("/a"), "{path}");
            assert!(places.contains(&format!("/usr/lib/wsl/lib/{NAME}")));
        }
        assert_eq!(places(Platform::Windows, &Variable("/a")), [NAME]);
    }

    #[test]
    fn drivers_before_12_0_are_refused_with_what_is_needed() {
        assert!(check_version(12_000).is_ok());
        assert!(check_version(13_010).is_ok());
        let (cause, text) = cause(check_version(11_080));
        assert_eq!(cause, Cause::OldDriver);
        assert!(text.contains("CUDA 11.8") && text.contains("525"), "{text}");
    }
}
