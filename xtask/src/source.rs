//! CUDA sources: includes, headers and the declaration of the entry.

use std::path::Path;

use crate::Result;
use crate::declaration::{Declaration, Param};
use crate::project::read;

/// `file` with the files of the same folder that it includes in place of the include lines, each once.
///
/// # Errors
/// A file that cannot be read.
pub fn flatten(folder: &Path, file: &str) -> Result<String> {
    let mut seen = Vec::new();
    inline(folder, file, &mut seen)
}

fn inline(folder: &Path, file: &str, seen: &mut Vec<String>) -> Result<String> {
    seen.push(file.to_owned());
    let mut flat = String::new();
    for line in read(&folder.join(file))?.lines() {
        match line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"')) {
            Some(included) if seen.iter().any(|s| s == included) => {}
            Some(included) => flat += &inline(folder, included, seen)?,
            None => {
                flat += line;
                flat.push('\n');
            }
        }
    }
    Ok(flat)
}

/// What is wrong with a kernel's file, compared with its declaration in Rust.
pub fn problems(cu: &str, declared: &Declaration) -> Vec<String> {
    let mut problems = Vec::new();
    let labels = [format!("// {}: ", declared.name)]
        .into_iter()
        .chain(["shape", "launch", "needs", "how", "cost"].map(|label| format!("// {label} ")));
    for label in labels {
        if !cu.lines().take_while(|line| line.starts_with("//")).any(|line| line.starts_with(&label)) {
            problems.push(format!("the header lacks `{}`", label.trim_end()));
        }
    }
    let shared = format!("shared = {}", declared.shared);
    if declared.shared > 0 && !cu.lines().any(|line| line.starts_with("// launch ") && line.contains(&shared))
    {
        problems.push(format!("`// launch` does not say `{shared}`"));
    }
    match entry(cu) {
        None => problems.push("no `extern \"C\" __global__ void __launch_bounds__(N) NAME(…)`".to_owned()),
        Some(got) => {
            let want = rendered(declared.block, &declared.name, &declared.params);
            if got != want {
                problems.push(format!("declares\n  {got}\nwhere the Rust declaration says\n  {want}"));
            }
        }
    }
    problems
}

/// An entry as both sides are compared.
fn rendered(block: u32, name: &str, params: &[Param]) -> String {
    let params: Vec<_> = params.iter().map(|p| format!("{} {}", p.c, p.name)).collect();
    format!("__launch_bounds__({block}) {name}({})", params.join(", "))
}

/// The entry of a file with its white space evened out and without the blocks of a multiprocessor that `__launch_bounds__` may ask
/// for, which are no matter of a launch; none unless there is exactly one.
fn entry(cu: &str) -> Option<String> {
    let (before, rest) = cu.split_once("extern \"C\" __global__ void")?;
    if before.contains("__global__") || rest.contains("__global__") {
        return None;
    }
    let (declaration, _) = rest.split_once('{')?;
    let declaration = declaration.split_whitespace().collect::<Vec<_>>().join(" ");
    let (bounds, entry) = declaration.split_once(')')?;
    Some(format!("{}){entry}", bounds.split_once(',').map_or(bounds, |(block, _)| block)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_a_multiprocessor_are_no_part_of_an_entry() {
        let of = |bounds| {
            entry(&format!(
                "extern \"C\" __global__ void __launch_bounds__({bounds})\nadd(u64 a, u32 b) {{}}"
            ))
        };
        for bounds in ["256", "256, 4", "256, BLOCKS"] {
            assert_eq!(of(bounds).unwrap(), "__launch_bounds__(256) add(u64 a, u32 b)");
        }
        assert_eq!(of("128, 4").unwrap(), "__launch_bounds__(128) add(u64 a, u32 b)");
    }

    #[test]
    fn includes_are_put_in_place_once() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("a.cu", "#include \"b.cuh\"\n#include \"c.cuh\"\na\n");
        write("b.cuh", "b\n");
        write("c.cuh", "#include \"b.cuh\"\nc\n");
        assert_eq!(flatten(folder.path(), "a.cu").unwrap(), "b\nc\na\n");
        assert!(flatten(folder.path(), "none.cu").unwrap_err().contains("none.cu"));
    }
}
