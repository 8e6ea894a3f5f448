//! `cargo xtask`: what builds and checks generated files.

use std::process::ExitCode;

use xtask::project::Project;
use xtask::{check, generate, tidy};

const USAGE: &str = "\
cargo xtask COMMAND

  build-kernels             compiles kernels/*.cu with the pinned NVRTC into crates/backend-cuda/ptx/
  check-kernels             compiles again and compares, assembles for every architecture, checks all declarations
  check-kernels --offline   checks what needs no compiler, and names what it left out
  tidy                      names files that are longer than the house's sizes";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = Project::here().and_then(|project| match args[..] {
        ["build-kernels"] => generate::build(&project),
        ["check-kernels"] => check::online(&project),
        ["check-kernels", "--offline"] => check::offline(&project),
        ["tidy"] => tidy::tidy(&project),
        _ => Err(USAGE.to_owned()),
    });
    match outcome {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}
