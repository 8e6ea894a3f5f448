//! `backend-cuda` is usable as the only dependency of a package, and without a GPU: its example `alone` is built as one.

use std::fs;
use std::process::Command;

use xtask::project::Project;

#[test]
#[ignore = "builds a package of its own"]
fn a_package_with_backend_cuda_alone_builds_and_says_what_is_missing() {
    let project = Project::here().unwrap();
    let (folder, crate_) = (tempfile::tempdir().unwrap(), project.root().join("crates/backend-cuda"));
    let file = |name: &str| folder.path().join(name);
    // With the profile of the checkout, whose builds of the dependencies then serve.
    let manifest = format!(
        "[package]\nname = \"alone\"\nedition = \"2024\"\n\n[dependencies]\nbackend-cuda = {{ path = {crate_:?} }}\n\n\
         [profile.dev]\nopt-level = 2\ndebug = \"line-tables-only\"\n"
    );
    fs::write(file("Cargo.toml"), manifest).unwrap();
    fs::copy(project.root().join("Cargo.lock"), file("Cargo.lock")).unwrap();
    fs::create_dir(file("src")).unwrap();
    fs::copy(crate_.join("examples/alone.rs"), file("src/main.rs")).unwrap();
    let program = project.target().join("debug").join(format!("alone{}", std::env::consts::EXE_SUFFIX));
    let _ = fs::remove_file(&program);
    let built = Command::new(env!("CARGO"))
        .env_remove("CARGO_BUILD_TARGET")
        .args(["build", "--offline", "--quiet", "--manifest-path"])
        .arg(file("Cargo.toml"))
        .arg("--target-dir")
        .arg(project.target())
        .status();
    assert!(built.unwrap().success());
    // Where there is a driver, it shows no GPU.
    let output = Command::new(program).env("CUDA_VISIBLE_DEVICES", "-1").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("error: backend `cuda` is unavailable: "), "{said}");
    assert!(said.contains("use the CPU") && output.stdout.is_empty(), "{said}");
}
