//! The files that this process has mapped.

use std::collections::BTreeSet;

/// Their names without folders.
pub(crate) fn files() -> BTreeSet<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    paths.filter_map(|path| path.rsplit('/').next()).map(str::to_owned).collect()
}

/// Whether a library is one of CUDA's or of its driver.
pub(crate) fn is_cuda(file: &str) -> bool {
    ["libcuda", "libcublas", "libnvrtc", "libnvidia"].iter().any(|name| file.starts_with(name))
}
