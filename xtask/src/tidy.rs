//! The house's sizes: what grows beyond them is divided.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::project::{Project, extension, read};

/// Lines that a file of Rust may have.
const FILE: usize = 400;
/// Lines that a function may have, from its first to its closing brace.
const FUNCTION: usize = 70;
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
        let text = read(&path)?;
        let name = path.strip_prefix(root).unwrap_or(&path).display();
        problems.extend(too_long(&text, most).into_iter().map(|problem| format!("{name}{problem}")));
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

/// What of a text is longer than it may be. Functions are told by their indentation, as rustfmt leaves it.
fn too_long(text: &str, most: usize) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut problems = Vec::new();
    if lines.len() > most {
        problems.push(format!(": {} lines, and {most} are the most", lines.len()));
    }
    for (first, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        if !code.split("fn ").next().is_some_and(|before| before.len() < code.len() && is_qualified(before)) {
            continue;
        }
        let end = format!("{}}}", &line[..line.len() - code.len()]);
        let length = lines[first..].iter().position(|line| **line == end).map_or(0, |last| last + 1);
        let is_one_line = line.ends_with('}') || line.ends_with(';');
        if length > FUNCTION && !is_one_line {
            problems
                .push(format!(":{}: a function of {length} lines, and {FUNCTION} are the most", first + 1));
        }
    }
    problems
}

/// Whether only words that may stand before `fn` do.
fn is_qualified(before: &str) -> bool {
    let is_word = |word: &str| ["pub", "const", "async", "unsafe", "extern"].contains(&word);
    before.split_whitespace().all(|word| is_word(word) || word.starts_with("pub(") || word.starts_with('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(lines: usize) -> String {
        format!(
            "mod m {{\n    pub(crate) fn f(\n    ) {{\n{}    }}\n}}\n",
            "        g();\n".repeat(lines - 3)
        )
    }

    #[test]
    fn long_functions_and_files_are_named() {
        assert!(too_long(&function(70), 400).is_empty());
        assert_eq!(too_long(&function(71), 400), [":2: a function of 71 lines, and 70 are the most"]);
        assert_eq!(too_long(&"x\n".repeat(3), 2), [": 3 lines, and 2 are the most"]);
    }

    #[test]
    fn words_that_hold_fn_are_no_functions() {
        let text = format!("    // what a fn does\n    let f = fn_of(x);\n{}", "x\n".repeat(90));
        assert!(too_long(&text, 400).is_empty());
        let signature = format!("    fn declared(&self);\n{}    }}\n", "x\n".repeat(90));
        assert!(too_long(&signature, 400).is_empty());
    }
}
