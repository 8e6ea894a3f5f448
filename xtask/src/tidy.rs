//! The house's sizes of files: what grows beyond them is divided. Those of functions are clippy's, `too_many_lines`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::project::{Project, extension, read};

/// Lines that a file of Rust may have.
const FILE: usize = 400;
/// Lines that a file of CUDA may have.
const CUDA: usize = 150;
/// Lines that `docs/architecture.md` may have.
const ARCHITECTURE: usize = 200;

/// Compares everything that is written by hand with the sizes.
///
/// # Errors
/// Everything that is longer, a line each; a file that cannot be read.
pub fn tidy(project: &Project) -> Result<String> {
    let root = project.root();
    let mut sources = Vec::new();
    for folder in ["crates", "xtask"] {
        collect(&root.join(folder), &mut sources)?;
    }
    collect(&project.kernels(), &mut sources)?;
    sources.push(root.join("docs/architecture.md"));
    let (mut checked, mut problems) = (0, Vec::new());
    for path in sources {
        let most = match extension(&path) {
            "rs" => FILE,
            "cu" | "cuh" => CUDA,
            "md" => ARCHITECTURE,
            _ => continue,
        };
        let lines = read(&path)?.lines().count();
        if lines > most {
            let name = path.strip_prefix(root).unwrap_or(&path).display();
            problems.push(format!("{name}: {lines} lines, and {most} are the most"));
        }
        checked += 1;
    }
    if problems.is_empty() {
        Ok(format!("{checked} files are of the house's sizes"))
    } else {
        Err(problems.join("\n"))
    }
}

/// Files under `folder`, but for what is generated.
fn collect(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |e: std::io::Error| format!("{}: {e}", folder.display());
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_generated = path.ends_with("backend-cuda/ptx") || path.ends_with("target");
        match path.is_dir() {
            true if is_generated => {}
            true => collect(&path, found)?,
            false => found.push(path),
        }
    }
    Ok(())
}
