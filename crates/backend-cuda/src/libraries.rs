//! Where NVIDIA's libraries beside the driver may lie, and the opening of one. Never the current folder.

use std::fmt;
use std::path::{Path, PathBuf};

use libloading::Library;

/// How libraries are named and laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Platform {
    Unix,
    Windows,
}

impl Platform {
    pub(crate) const HERE: Self = if cfg!(windows) { Self::Windows } else { Self::Unix };

    /// The library of a major version. The name always carries the version: the bare one is the toolkit's link for linkers.
    pub(crate) fn file(self, stem: &str, major: u32) -> String {
        match (self, stem) {
            (Self::Unix, _) => format!("lib{stem}.so.{major}"),
            (Self::Windows, "nvrtc") => format!("{stem}64_{major}0_0.dll"),
            (Self::Windows, _) => format!("{stem}64_{major}.dll"),
        }
    }
}

/// What the search asks of the machine.
pub(crate) trait Machine {
    /// A variable of the environment.
    fn var(&self, name: &str) -> Option<String>;
    /// What a directory holds, in order; nothing if it cannot be read.
    fn list(&self, directory: &Path) -> Vec<PathBuf>;
}

/// This machine.
pub(crate) struct Here;

impl Machine for Here {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
    fn list(&self, directory: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    }
}

/// Where to look, in order: by name through the system's loader, then in directories.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Places {
    /// Whether a bare name is safe to give to the loader: not where its path leads to the current directory.
    pub(crate) by_name: bool,
    /// Absolute directories, each once.
    pub(crate) directories: Vec<PathBuf>,
}

/// Major versions that a driver of this CUDA version (12 000 + 10 · minor …) can run, the newest first.
pub(crate) fn majors(driver: i32) -> &'static [u32] {
    match driver {
        13_000.. => &[13, 12],
        _ => &[12],
    }
}

/// Where to look on a machine.
pub(crate) fn places(platform: Platform, machine: &dyn Machine) -> Places {
    let Places { by_name, directories: loader } = loader(platform, machine);
    let mut found = toolkits(platform, machine);
    if platform == Platform::Windows {
        found.extend(split(platform, machine.var("PATH")));
    }
    found.extend(loader);
    if let Some(conda) = variable(machine, "CONDA_PREFIX") {
        found.extend(match platform {
            Platform::Unix => vec![conda.join("lib")],
            Platform::Windows => ["Library/bin", "Library/bin/x64"].map(|d| conda.join(d)).to_vec(),
        });
    }
    for site in sites(platform, machine) {
        for wheel in machine.list(&site.join("nvidia")) {
            match platform {
                Platform::Unix => found.push(wheel.join("lib")),
                Platform::Windows => found.extend(["bin", "bin/x86_64"].map(|d| wheel.join(d))),
            }
        }
    }
    Places { by_name, directories: distinct(platform, found) }
}

/// Where the loader may look: by itself, unless its path leads to the current directory; then the directories of that path, where
/// a library that will not do hides later ones from it.
pub(crate) fn loader(platform: Platform, machine: &dyn Machine) -> Places {
    if platform == Platform::Windows {
        return Places { by_name: true, directories: Vec::new() };
    }
    let path = split(platform, machine.var("LD_LIBRARY_PATH"));
    let by_name = path.iter().all(|d| is_absolute(platform, d));
    let system = SYSTEM.map(PathBuf::from).into_iter().filter(|_| !by_name);
    Places { by_name, directories: distinct(platform, path.into_iter().chain(system).collect()) }
}

/// Where the loader looks by itself.
const SYSTEM: [&str; 4] =
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib/wsl/lib"];

/// Library directories of CUDA toolkits.
fn toolkits(platform: Platform, machine: &dyn Machine) -> Vec<PathBuf> {
    let mut roots: Vec<_> =
        ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(|name| variable(machine, name)).collect();
    if platform == Platform::Windows {
        return roots.iter().flat_map(|root| ["bin/x64", "bin"].map(|d| root.join(d))).collect();
    }
    roots.extend(named(machine, Path::new("/usr/local"), "cuda"));
    roots.push("/opt/cuda".into());
    let inside =
        if cfg!(target_arch = "aarch64") { "targets/sbsa-linux/lib" } else { "targets/x86_64-linux/lib" };
    roots.iter().flat_map(|root| ["lib64", inside].map(|d| root.join(d))).collect()
}

/// Directories into which Python installs packages.
fn sites(platform: Platform, machine: &dyn Machine) -> Vec<PathBuf> {
    let variables = ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|name| variable(machine, name));
    let mut prefixes: Vec<PathBuf> = variables.collect();
    let path = split(platform, machine.var("PATH"));
    if platform == Platform::Windows {
        prefixes.extend(path);
        let mut found: Vec<_> = prefixes.iter().map(|prefix| prefix.join("Lib/site-packages")).collect();
        let user = variable(machine, "APPDATA").map(|d| d.join("Python"));
        let pythons = user.into_iter().flat_map(|d| named(machine, &d, "Python3"));
        found.extend(pythons.map(|python| python.join("site-packages")));
        return found;
    }
    prefixes.extend(variable(machine, "HOME").map(|home| home.join(".local")));
    let beside = |bin: &PathBuf| {
        bin.file_name().filter(|name| *name == "bin").and(bin.parent()).map(Path::to_path_buf)
    };
    prefixes.extend(path.iter().filter_map(beside));
    prefixes.extend(["/usr/local", "/usr"].map(PathBuf::from));
    let libraries = prefixes.iter().flat_map(|prefix| ["lib", "lib64"].map(|d| prefix.join(d)));
    let pythons = libraries.flat_map(|lib| named(machine, &lib, "python3"));
    pythons.flat_map(|python| ["site-packages", "dist-packages"].map(|d| python.join(d))).collect()
}

/// Entries of a directory whose names start so.
fn named(machine: &dyn Machine, directory: &Path, start: &str) -> Vec<PathBuf> {
    let mut paths = machine.list(directory);
    paths.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start)));
    paths
}

fn variable(machine: &dyn Machine, name: &str) -> Option<PathBuf> {
    machine.var(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The entries of a list of directories; an unset or empty one has none.
fn split(platform: Platform, list: Option<String>) -> Vec<PathBuf> {
    let separator = if platform == Platform::Windows { ';' } else { ':' };
    let list = list.filter(|list| !list.is_empty());
    list.iter().flat_map(|list| list.split(separator)).map(PathBuf::from).collect()
}

fn is_absolute(platform: Platform, path: &Path) -> bool {
    let text = path.to_string_lossy();
    match platform {
        Platform::Unix => text.starts_with('/'),
        Platform::Windows => {
            text.starts_with(r"\\") || text.get(1..3).is_some_and(|s| s == r":\" || s == ":/")
        }
    }
}

/// Each absolute directory once, in order.
fn distinct(platform: Platform, paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut seen = std::collections::HashSet::new();
    paths.into_iter().filter(|path| is_absolute(platform, path) && seen.insert(path.clone())).collect()
}

/// Why there is no library.
#[derive(Clone, Debug)]
pub(crate) struct Missing {
    /// Files that are there and do not load, with why; often none.
    pub(crate) broken: Vec<String>,
    /// What was looked for, and where.
    pub(crate) searched: Vec<String>,
}

impl Missing {
    /// What happened to the search, for a sentence that begins with the library's name.
    pub(crate) fn reason(&self) -> String {
        match self.broken.as_slice() {
            [] => "was not found".into(),
            broken => format!("does not load ({})", broken.join("; ")),
        }
    }
}

/// What `of` makes of the first library that loads, newer versions first, and the file or name that it was. A library that
/// serves is never closed.
///
/// # Errors
/// [`Missing`].
pub(crate) fn open<T, E: fmt::Display>(
    stem: &str,
    majors: &[u32],
    places: &Places,
    of: impl Fn(&Library) -> Result<T, E>,
) -> Result<(T, PathBuf), Missing> {
    let names = || majors.iter().map(|major| Platform::HERE.file(stem, *major));
    let mut broken = Vec::new();
    for file in names() {
        let name = places.by_name.then(|| PathBuf::from(&file));
        let files = places.directories.iter().map(|directory| directory.join(&file));
        for path in name.into_iter().chain(files.filter(|path| path.is_file())) {
            let error = match load(&path) {
                Ok(library) => match of(&library) {
                    Ok(made) => {
                        std::mem::forget(library);
                        return Ok((made, path));
                    }
                    Err(error) => error.to_string(),
                },
                // That the loader knows no such name says nothing of a file.
                Err(_) if !path.is_absolute() => continue,
                Err(error) => error.to_string(),
            };
            broken.push(format!("{}: {error}", path.display()));
        }
    }
    let directories = places.directories.iter().map(|directory| directory.display().to_string());
    Err(Missing { broken, searched: names().chain(directories).collect() })
}

#[expect(unsafe_code, reason = "opens a library")]
fn load(path: &Path) -> Result<Library, libloading::Error> {
    #[cfg(windows)]
    // SAFETY: opening one of NVIDIA's libraries runs its initialisers, which is what using it means; neither the current
    // directory nor the path is searched for it or for what it needs.
    return unsafe {
        use libloading::os::windows as os;
        let beside = if path.is_absolute() { os::LOAD_LIBRARY_SEARCH_DLL_LOAD_DIR } else { 0 };
        os::Library::load_with_flags(path, beside | os::LOAD_LIBRARY_SEARCH_DEFAULT_DIRS).map(Library::from)
    };
    #[cfg(not(windows))]
    // SAFETY: opening one of NVIDIA's libraries runs its initialisers, which is what using it means.
    unsafe {
        Library::new(path)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[derive(Default)]
    struct Fake {
        vars: HashMap<&'static str, &'static str>,
        files: Vec<&'static str>,
    }

    impl Machine for Fake {
        fn var(&self, name: &str) -> Option<String> {
            self.vars.get(name).map(|value| (*value).to_owned())
        }
        fn list(&self, directory: &Path) -> Vec<PathBuf> {
            let below = |file: &&str| {
                Path::new(file).strip_prefix(directory).ok()?.iter().next().map(|f| directory.join(f))
            };
            let mut paths: Vec<_> = self.files.iter().filter_map(below).collect();
            paths.sort();
            paths.dedup();
            paths
        }
    }

    fn found(platform: Platform, vars: &[(&'static str, &'static str)], files: &[&'static str]) -> Places {
        places(platform, &Fake { vars: vars.iter().copied().collect(), files: files.to_vec() })
    }

    fn holds(places: &Places, directory: &str) -> bool {
        places.directories.contains(&PathBuf::from(directory))
    }

    #[test]
    fn names_carry_the_version() {
        assert_eq!(Platform::Unix.file("cublasLt", 13), "libcublasLt.so.13");
        assert_eq!(Platform::Windows.file("cublasLt", 12), "cublasLt64_12.dll");
        assert_eq!(Platform::Unix.file("nvrtc", 12), "libnvrtc.so.12");
        assert_eq!(Platform::Windows.file("nvrtc", 13), "nvrtc64_130_0.dll");
    }

    #[test]
    fn a_driver_gets_no_library_newer_than_itself() {
        assert_eq!(majors(13_010), [13, 12]);
        assert_eq!(majors(12_090), [12]);
        assert_eq!(majors(0), [12]);
    }

    #[test]
    fn toolkits_named_by_variables_come_before_installed_ones() {
        let places = found(
            Platform::Unix,
            &[("CUDA_HOME", "/opt/mine")],
            &["/usr/local/cuda-12.4/bin/nvcc", "/usr/local/bin/x"],
        );
        let at = |d: &str| places.directories.iter().position(|p| p == Path::new(d));
        assert!(at("/opt/mine/lib64") < at("/usr/local/cuda-12.4/lib64"));
        assert!(at("/opt/mine/lib64").is_some());
        assert!(!holds(&places, "/usr/local/bin/lib64"));
    }

    #[test]
    fn wheels_of_every_python_are_found() {
        let vars = [
            ("VIRTUAL_ENV", "/venv"),
            ("HOME", "/home/me"),
            ("CONDA_PREFIX", "/conda"),
            ("PATH", "/opt/python/bin:/usr/bin"),
        ];
        let files = [
            "/venv/lib/python3.12/site-packages/nvidia/cu13/lib/libcublasLt.so.13",
            "/home/me/.local/lib/python3.11/site-packages/nvidia/cublas/lib/libcublasLt.so.12",
            "/opt/python/lib/python3.13/site-packages/nvidia/cublas/lib/libcublasLt.so.12",
            "/usr/lib/python3/dist-packages/nvidia/cublas/lib/libcublasLt.so.12",
        ];
        let places = found(Platform::Unix, &vars, &files);
        for file in files {
            assert!(holds(&places, Path::new(file).parent().unwrap().to_str().unwrap()), "{file}");
        }
        assert!(holds(&places, "/conda/lib"));
    }

    #[test]
    fn windows_looks_beside_the_toolkit_and_in_wheels() {
        let vars =
            [("CUDA_PATH", "C:/CUDA/v13.0"), ("VIRTUAL_ENV", "C:/venv"), ("PATH", r"C:\tools;.;relative")];
        let files = ["C:/venv/Lib/site-packages/nvidia/cublas/bin/cublasLt64_12.dll"];
        let places = found(Platform::Windows, &vars, &files);
        for d in ["C:/CUDA/v13.0/bin/x64", "C:/CUDA/v13.0/bin", r"C:\tools"] {
            assert!(holds(&places, d), "{d}");
        }
        assert!(holds(&places, "C:/venv/Lib/site-packages/nvidia/cublas/bin"));
        assert!(places.by_name);
        assert!(places.directories.iter().all(|d| is_absolute(Platform::Windows, d)));
    }

    #[test]
    fn the_current_directory_is_never_searched() {
        for list in [":/a", "/a:", "/a::/b", "lib:/a", "."] {
            let places = found(
                Platform::Unix,
                &[("LD_LIBRARY_PATH", list), ("CUDA_HOME", "cuda"), ("PATH", "bin")],
                &[],
            );
            assert!(!places.by_name, "{list}");
            assert!(places.directories.iter().all(|d| d.starts_with("/")), "{list}: {places:?}");
        }
        let places = found(Platform::Unix, &[("LD_LIBRARY_PATH", "lib:/a")], &[]);
        assert!(holds(&places, "/a") && holds(&places, "/usr/lib64"));
        for list in ["", "/a", "/a:/b"] {
            let places = found(Platform::Unix, &[("LD_LIBRARY_PATH", list)], &[]);
            assert!(places.by_name && list.split(':').all(|d| d.is_empty() || holds(&places, d)), "{list}");
        }
    }

    #[test]
    fn no_directory_is_searched_twice() {
        let places =
            found(Platform::Unix, &[("CUDA_HOME", "/usr/local/cuda"), ("CUDA_PATH", "/usr/local/cuda")], &[]);
        let mut sorted = places.directories.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), places.directories.len());
    }

    #[test]
    fn what_is_not_there_is_listed() {
        let places = Places { by_name: true, directories: vec!["/nowhere/lib".into()] };
        let missing = open("no-such-library", &[13, 12], &places, |_| Ok::<_, String>(())).unwrap_err();
        let (newer, older) =
            (Platform::HERE.file("no-such-library", 13), Platform::HERE.file("no-such-library", 12));
        assert_eq!(missing.searched, [newer.as_str(), older.as_str(), "/nowhere/lib"]);
        assert_eq!(missing.reason(), "was not found");
    }

    #[test]
    fn a_file_that_is_no_library_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(Platform::HERE.file("nvrtc", 12));
        std::fs::write(&path, "not a library").unwrap();
        let places = Places { by_name: false, directories: vec![directory.path().into()] };
        let reason = open("nvrtc", &[12], &places, |_| Ok::<_, String>(())).unwrap_err().reason();
        assert!(reason.contains("does not load") && reason.contains(&path.display().to_string()), "{reason}");
    }
}
