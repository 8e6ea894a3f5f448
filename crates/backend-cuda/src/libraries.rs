//! Where NVIDIA's libraries beside the driver may be: what the loader resolves, toolkits, conda, Python wheels. Never the
//! current folder: a place that is not absolute is left out, and names are left to the loader's own folders.

use std::collections::HashSet;
use std::env;
use std::path::{Path, PathBuf};

use libloading::Library;

/// What the search is told about the machine.
pub(crate) struct Machine<'m> {
    /// File names as Windows has them.
    pub(crate) windows: bool,
    /// A variable of the environment.
    pub(crate) variable: &'m dyn Fn(&str) -> Option<PathBuf>,
    /// What is in a folder, sorted.
    pub(crate) list: &'m dyn Fn(&Path) -> Vec<PathBuf>,
}

/// File names of a library, best first; `versions` are major ones.
fn names(stem: &str, versions: &[u32], windows: bool) -> Vec<String> {
    let of_version = |v: &u32| match windows {
        true => vec![format!("{stem}64_{v}.dll"), format!("{stem}64_{v}0_0.dll")],
        false => vec![format!("lib{stem}.so.{v}")],
    };
    versions.iter().flat_map(of_version).collect()
}

/// Folders to look in, best first.
fn folders(machine: &Machine<'_>) -> Vec<PathBuf> {
    let toolkit: &[&str] = if machine.windows { &["bin/x64", "bin"] } else { &["lib64", "lib"] };
    let variables = ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(|name| (machine.variable)(name));
    let usual =
        ["/usr/local/cuda", "/usr/local/cuda-13", "/usr/local/cuda-12", "/opt/cuda"].map(PathBuf::from);
    let usual = usual.into_iter().filter(|_| !machine.windows);
    let mut folders: Vec<PathBuf> =
        variables.chain(usual).flat_map(|root| toolkit.iter().map(move |part| root.join(part))).collect();
    if let Some(conda) = (machine.variable)("CONDA_PREFIX") {
        folders.push(conda.join(if machine.windows { "Library/bin" } else { "lib" }));
    }
    for packages in site_packages(machine) {
        let wheels = (machine.list)(&packages.join("nvidia"));
        let inside: &[&str] = if machine.windows { &["bin/x86_64", "bin"] } else { &["lib"] };
        folders.extend(wheels.iter().flat_map(|wheel| inside.iter().map(|part| wheel.join(part))));
    }
    let mut seen = HashSet::new();
    let is_known = |folder: &PathBuf| folder.is_absolute() || (machine.windows && !cfg!(windows));
    folders.retain(|folder| is_known(folder) && seen.insert(folder.clone()));
    folders
}

/// Folders that Python installs packages into.
fn site_packages(machine: &Machine<'_>) -> Vec<PathBuf> {
    let roots = ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|name| (machine.variable)(name));
    if machine.windows {
        return roots.map(|root| root.join("Lib/site-packages")).collect();
    }
    let home = (machine.variable)("HOME").map(|home| home.join(".local"));
    // Of a Python that is called by its name, as that of an environment which was not activated.
    let path = (machine.variable)("PATH").unwrap_or_default();
    let bins = env::split_paths(&path).filter(|bin| bin.ends_with("bin") && bin.is_absolute());
    let called: Vec<_> = bins.filter_map(|bin| bin.parent().map(Path::to_path_buf)).collect();
    let system = ["/usr/local", "/usr"].map(PathBuf::from);
    let mut found = Vec::new();
    for root in roots.chain(home).chain(called).chain(system) {
        let pythons = (machine.list)(&root.join("lib"));
        let is_python =
            |p: &&PathBuf| p.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3"));
        for python in pythons.iter().filter(is_python) {
            found.extend(["site-packages", "dist-packages"].map(|part| python.join(part)));
        }
    }
    found
}

/// Where the loader looks by itself.
const SYSTEM: [&str; 3] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"];

/// Where a library may be, best first: bare names for the loader, then files. Where `LD_LIBRARY_PATH` has a part that is
/// empty or relative, names would lead into the current folder, so that its other folders are searched here.
pub(crate) fn candidates(stem: &str, versions: &[u32], machine: &Machine<'_>) -> Vec<PathBuf> {
    let names = names(stem, versions, machine.windows);
    let (bare, mut files) = (names.iter().map(PathBuf::from), folders(machine));
    let loader = (machine.variable)("LD_LIBRARY_PATH").filter(|_| !machine.windows).unwrap_or_default();
    let own: Vec<_> = env::split_paths(&loader).filter(|_| !loader.as_os_str().is_empty()).collect();
    let leads_here = own.iter().any(|folder| !folder.is_absolute());
    if leads_here {
        files.extend(own.into_iter().chain(SYSTEM.map(PathBuf::from)).filter(|folder| folder.is_absolute()));
    }
    bare.filter(|_| !leads_here)
        .chain(files.iter().flat_map(|folder| names.iter().map(|name| folder.join(name))))
        .collect()
}

/// Opens the best of a library's candidates that `fits`; otherwise says what was looked for.
///
/// # Errors
/// The candidates.
pub(crate) fn open<T>(
    stem: &str,
    versions: &[u32],
    fits: impl Fn(Library) -> Option<T>,
) -> Result<T, Vec<String>> {
    let machine = Machine {
        windows: cfg!(windows),
        variable: &|name| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from),
        list: &|folder| {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
            paths.sort();
            paths
        },
    };
    let candidates = candidates(stem, versions, &machine);
    let there = candidates.iter().filter(|c| !c.is_absolute() || c.is_file());
    let opened = there.filter_map(|c| load(c)).find_map(fits);
    opened.ok_or_else(|| candidates.iter().map(|c| c.display().to_string()).collect())
}

#[cfg(not(windows))]
#[expect(unsafe_code, reason = "opens a library")]
fn load(path: &Path) -> Option<Library> {
    // SAFETY: opening one of NVIDIA's libraries runs its initialisers, which is what using it means.
    unsafe { Library::new(path) }.ok()
}

/// Without the current folder and `PATH`, which Windows would search for bare names; with the file's own folder for what
/// it needs itself.
#[cfg(windows)]
#[expect(unsafe_code, reason = "opens a library")]
fn load(path: &Path) -> Option<Library> {
    use libloading::os::windows as os;
    let own = if path.is_absolute() { os::LOAD_LIBRARY_SEARCH_DLL_LOAD_DIR } else { 0 };
    let flags = os::LOAD_LIBRARY_SEARCH_DEFAULT_DIRS | own;
    // SAFETY: opening one of NVIDIA's libraries runs its initialisers, which is what using it means.
    unsafe { os::Library::load_with_flags(path, flags) }.ok().map(Library::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_linux(variables: &[(&str, &str)], tree: &[(&str, &[&str])]) -> Vec<String> {
        let machine = Machine {
            windows: false,
            variable: &|name| variables.iter().find(|v| v.0 == name).map(|v| v.1.into()),
            list: &|folder| {
                let inside = tree.iter().filter(|(path, _)| Path::new(path) == folder);
                inside.flat_map(|(path, names)| names.iter().map(|n| Path::new(path).join(n))).collect()
            },
        };
        let found = candidates("nvrtc", &[13, 12], &machine);
        found.iter().map(|p| p.display().to_string()).collect()
    }

    #[test]
    fn the_loader_comes_first_and_newer_versions_before_older() {
        let found = of_linux(&[], &[]);
        assert_eq!(found[..2], ["libnvrtc.so.13", "libnvrtc.so.12"]);
        assert_eq!(found[2], "/usr/local/cuda/lib64/libnvrtc.so.13");
        assert!(found[2..].iter().all(|p| p.starts_with('/')), "{found:?}");
        assert!(!found.iter().any(|p| p.contains("stubs")));
    }

    #[test]
    fn toolkits_conda_and_wheels_are_searched_in_this_order() {
        let found = of_linux(
            &[("CUDA_HOME", "/cuda"), ("CONDA_PREFIX", "/conda"), ("VIRTUAL_ENV", "/venv")],
            &[
                ("/venv/lib", &["python3.12", "other"]),
                ("/venv/lib/python3.12/site-packages/nvidia", &["cu13", "cuda_nvrtc"]),
                ("/usr/lib", &["python3"]),
                ("/usr/lib/python3/dist-packages/nvidia", &["cu13"]),
            ],
        );
        let at = |path: &str| {
            found.iter().position(|p| p == path).unwrap_or_else(|| panic!("{path} is not in {found:#?}"))
        };
        let order = [
            at("libnvrtc.so.13"),
            at("/cuda/lib64/libnvrtc.so.13"),
            at("/cuda/lib64/libnvrtc.so.12"),
            at("/conda/lib/libnvrtc.so.13"),
            at("/venv/lib/python3.12/site-packages/nvidia/cu13/lib/libnvrtc.so.13"),
            at("/venv/lib/python3.12/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12"),
            at("/usr/lib/python3/dist-packages/nvidia/cu13/lib/libnvrtc.so.13"),
        ];
        assert!(order.is_sorted(), "{order:?}");
    }

    #[test]
    fn relative_places_are_left_out() {
        let found = of_linux(&[("CUDA_HOME", "."), ("CONDA_PREFIX", "conda"), ("VIRTUAL_ENV", "")], &[]);
        assert!(found[2..].iter().all(|p| p.starts_with('/')), "{found:?}");
    }

    #[test]
    fn names_never_lead_into_the_current_folder() {
        for list in [":/a", "/a:", "/a::/b", "lib:/a", "."] {
            let found = of_linux(&[("LD_LIBRARY_PATH", list)], &[]);
            assert!(found.iter().all(|p| p.starts_with('/')), "{list}: {found:?}");
            assert!(found.iter().any(|p| p == "/usr/lib64/libnvrtc.so.13"), "{list}: {found:?}");
            assert_eq!(found.iter().any(|p| p == "/a/libnvrtc.so.13"), list != ".", "{list}");
        }
        for list in ["", "/a", "/a:/b"] {
            assert_eq!(of_linux(&[("LD_LIBRARY_PATH", list)], &[])[0], "libnvrtc.so.13", "{list}");
        }
    }

    #[test]
    fn wheels_of_a_python_in_the_path_are_found_once() {
        let found = of_linux(
            &[("PATH", "/opt/env/bin:bin:/opt/tools:/usr/bin")],
            &[
                ("/opt/env/lib", &["python3.12"]),
                ("/opt/env/lib/python3.12/site-packages/nvidia", &["cu13"]),
                ("/usr/lib", &["python3"]),
                ("/usr/lib/python3/dist-packages/nvidia", &["cublas"]),
            ],
        );
        let count = |path: &str| found.iter().filter(|p| *p == path).count();
        assert_eq!(count("/opt/env/lib/python3.12/site-packages/nvidia/cu13/lib/libnvrtc.so.13"), 1);
        assert_eq!(count("/usr/lib/python3/dist-packages/nvidia/cublas/lib/libnvrtc.so.12"), 1);
    }

    #[test]
    fn windows_has_its_own_names_and_folders() {
        let machine = Machine {
            windows: true,
            variable: &|name| (name == "CUDA_PATH").then(|| "C:/cuda".into()),
            list: &|_| Vec::new(),
        };
        let found = candidates("cublas", &[13, 12], &machine);
        assert_eq!(found[0], Path::new("cublas64_13.dll"));
        assert!(found.contains(&PathBuf::from("C:/cuda/bin/x64/cublas64_13.dll")), "{found:?}");
        assert!(found.contains(&PathBuf::from("C:/cuda/bin/cublas64_12.dll")), "{found:?}");
        assert_eq!(names("nvrtc", &[12], true)[1], "nvrtc64_120_0.dll");
    }

    #[test]
    fn what_is_not_there_is_listed() {
        let none = open("there-is-no-such-library", &[13, 12], Some).map(drop).unwrap_err();
        assert!(none[0].contains("there-is-no-such-library") && none.len() > 4, "{none:?}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_does_not_fit_is_passed_over() {
        assert!(open("c", &[6], Some).is_ok());
        assert!(open("c", &[6], |_| None::<()>).is_err());
    }
}
