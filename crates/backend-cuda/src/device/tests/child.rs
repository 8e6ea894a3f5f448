//! Tests that need a process of their own.

use std::process::{Command, Output};

const MARK: &str = "TORCHLESS_TEST_CHILD";

/// Whether this process is such a one.
pub(super) fn is_child() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Runs the test of this name in a process of its own, with these variables.
pub(super) fn run(test: &str, variables: &[(&str, &str)]) -> Output {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]).env(MARK, "1");
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("running 1 test"), "no test `{test}`: {text}");
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    output
}
