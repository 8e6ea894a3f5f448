//! Closed pipes, full disks and Ctrl-C.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::run::{Folder, command, tiny_arg, torchless};

/// A model whose context is so long that filling it takes much longer than a test.
fn endless_folder() -> Folder {
    let folder = Folder::new();
    folder.configure("max_position_embeddings", 30_000.into());
    folder
}

/// A generation that would take minutes.
fn endless(folder: &Folder, prompt: &str) -> Child {
    let args = ["generate", "--model", folder.arg(), "--device", "cpu", "--temperature", "0"];
    let long = ["--context", "30000", "--max-tokens", "29000", "--prompt", prompt];
    command(args.iter().chain(&long)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

#[track_caller]
fn ends_within(child: &mut Child, limit: Duration) -> Option<i32> {
    let start = Instant::now();
    while start.elapsed() < limit {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    panic!("still running after {limit:?}");
}

const SOON: Duration = Duration::from_secs(20);

#[test]
fn ctrl_c_ends_with_what_was_generated() {
    let folder = endless_folder();
    let mut child = endless(&folder, "ROMEO:");
    let mut stdout = child.stdout.take().unwrap();
    let mut text = vec![0; 64];
    stdout.read_exact(&mut text).unwrap();
    interrupt(&child);
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    text.extend(rest);
    assert!(String::from_utf8(text).is_ok_and(|text| text.lines().count() > 1));
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(ends_within(&mut child, SOON), Some(130), "{stderr}");
    assert!(
        stderr.contains("stopped") && stderr.contains("tok/s") && stderr.contains("MiB in use"),
        "{stderr}"
    );
    assert!(!stderr.contains("error") && !stderr.contains("panic"), "{stderr}");
}

#[test]
fn ctrl_c_ends_a_long_prompt() {
    let folder = endless_folder();
    let mut child = endless(&folder, &"the king ".repeat(11_000));
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("context"), "{line}");
    interrupt(&child);
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(ends_within(&mut child, SOON), Some(130), "{rest}");
    assert!(rest.contains("decode: 0 tokens; stopped"), "{rest}");
    assert!(!rest.contains("error") && !rest.contains("panic"), "{rest}");
}

#[test]
fn ctrl_c_ends_a_benchmark_with_what_was_measured() {
    let folder = endless_folder();
    let json = folder.file("r.json");
    let args =
        ["bench", "--model", folder.arg(), "--device", "cpu", "--prompt-tokens", "8,29000", "--depth", "0"];
    let mut command = command(args.iter().chain(&["--json", json.to_str().unwrap()]));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    interrupt(&child);
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(ends_within(&mut child, SOON), Some(130), "{stderr}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!(report["complete"], false);
    assert!(report["prompt"].as_array().unwrap().len() < 2, "{report}");
    assert_eq!(stderr, "");
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let folder = endless_folder();
    let mut child = endless(&folder, "ROMEO:");
    let mut first = [0];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(ends_within(&mut child, SOON), Some(0), "{stderr}");
    assert!(!stderr.contains("error") && !stderr.contains("panic"), "{stderr}");
}

#[test]
fn every_command_survives_a_closed_pipe() {
    let (model, golden) = (tiny_arg(), crate::run::golden(0));
    for args in [
        &["--help"][..],
        &["devices"],
        &["estimate", "--json"],
        &["verify", "--model", &model, "--golden", &golden],
    ] {
        let mut child = command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!((ends_within(&mut child, SOON), stderr.as_str()), (Some(0), ""), "{args:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let model = tiny_arg();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command(["generate", "--model", &model, "--prompt", "x"]).stdout(full).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("error: cannot write to standard output"), "{stderr}");
}

#[test]
fn closed_standard_error_is_no_reason_to_fail() {
    let model = tiny_arg();
    let args = ["generate", "--model", &model, "--prompt", "x", "--max-tokens", "200"];
    let mut child = command(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(ends_within(&mut child, SOON), Some(0));
}

#[test]
fn logs_go_to_standard_error_when_asked_for() {
    let model = tiny_arg();
    let args = ["generate", "--model", &model, "--prompt", "x", "--max-tokens", "1"];
    let output = command(args).env("RUST_LOG", "debug").output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("DEBUG"));
    assert!(!String::from_utf8(output.stdout).unwrap().contains("DEBUG"));
    assert!(!torchless(args).stderr.contains("DEBUG"));
}
