//! Running the binary, and making model folders for it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Asserts success and gives what was printed.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.status, Some(0), "{self:?}");
        self.stdout
    }

    /// Asserts this exit status and one line on standard error that begins with `error:` and says all of `parts`.
    #[track_caller]
    pub(crate) fn fails(&self, status: i32, parts: &[&str]) {
        assert_eq!(self.status, Some(status), "{self:?}");
        let errors: Vec<_> = self.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        let [error] = errors[..] else { panic!("not one error: {self:?}") };
        assert_eq!(self.stderr.lines().last(), Some(error), "{self:?}");
        for part in parts {
            assert!(error.contains(part), "`{part}` is not in `{error}`");
        }
    }
}

/// The binary, ready to run.
pub(crate) fn command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_torchless"));
    command.args(args).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// Runs the binary to its end.
pub(crate) fn torchless<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ended {
    run(&mut command(args))
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    Ended {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The folder of the built-in model.
pub(crate) fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-shakespeare")
}

/// The built-in model's folder as an argument.
pub(crate) fn tiny_arg() -> String {
    tiny().to_str().unwrap().to_owned()
}

/// A golden file of the built-in model.
pub(crate) fn golden(i: usize) -> String {
    tiny().join(format!("golden-{i}.safetensors")).to_str().unwrap().to_owned()
}

/// Prompt and greedy text of each golden file.
pub(crate) fn golden_texts() -> Vec<(String, String)> {
    let all: Value = serde_json::from_slice(&fs::read(tiny().join("golden.json")).unwrap()).unwrap();
    let text = |i: usize, key: &str| all[i.to_string()][key].as_str().unwrap().to_owned();
    (0..4).map(|i| (text(i, "prompt"), text(i, "text"))).collect()
}

/// A copy of the built-in model's folder that a test may spoil.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for name in ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors"] {
            fs::copy(tiny().join(name), folder.file(name)).unwrap();
        }
        folder
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn arg(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    /// Sets a field of config.json.
    pub(crate) fn configure(&self, field: &str, value: Value) {
        let path = self.file("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config[field] = value;
        fs::write(path, config.to_string()).unwrap();
    }

    /// Generates with it.
    pub(crate) fn generate(&self) -> Ended {
        torchless([
            "generate",
            "--device",
            "cpu",
            "--prompt",
            "x",
            "--max-tokens",
            "1",
            "--model",
            self.arg(),
        ])
    }
}
