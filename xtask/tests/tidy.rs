//! Sizes of files are kept, in a checkout of three.

use std::fs;

use xtask::project::Project;
use xtask::tidy::tidy;

#[test]
fn files_that_are_too_long_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for part in ["crates/a/src", "xtask", "kernels", "docs", "crates/backend-cuda/ptx"] {
        fs::create_dir_all(folder.path().join(part)).unwrap();
    }
    let write = |file: &str, lines| fs::write(folder.path().join(file), "x\n".repeat(lines)).unwrap();
    let project = Project::at(folder.path(), folder.path().join("target"));
    let files = [("crates/a/src/lib.rs", 400), ("kernels/k.cuh", 150), ("docs/architecture.md", 200)];
    files.iter().for_each(|(file, most)| write(file, *most));
    write("crates/backend-cuda/ptx/k.cu", 1000);
    assert_eq!(tidy(&project).unwrap(), "3 files are of the house's sizes");
    for (file, most) in files {
        write(file, most + 1);
        let problem = format!("{file}: {} lines, and {most} are the most", most + 1);
        assert_eq!(tidy(&project).unwrap_err(), problem);
        write(file, most);
    }
}
