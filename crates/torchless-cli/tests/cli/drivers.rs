//! Drivers that will not do: libraries of the driver's name, compiled for the test.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::run::{Ended, command, run, tiny_arg, torchless};

/// Folders with a driver each, before all others that the loader searches.
struct Driver(Vec<TempDir>);

impl Driver {
    /// Compiles one; none where there is no compiler.
    fn new(source: &str) -> Option<Self> {
        // From where programs run, which a system's temporary folder may forbid.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let file = folder.path().join("driver.c");
        fs::write(&file, source).unwrap();
        let library = folder.path().join("libcuda.so.1");
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(library).arg(file).status();
        let Ok(compiled) = compiled else {
            eprintln!("skipped: there is no `cc`");
            return None;
        };
        assert!(compiled.success(), "{source}");
        Some(Self(vec![folder]))
    }

    /// Behind this one, another.
    fn then(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    fn torchless(&self, args: &[&str]) -> Ended {
        let rest = std::env::var_os("LD_LIBRARY_PATH").filter(|rest| !rest.is_empty());
        let rest = rest.iter().flat_map(std::env::split_paths);
        let path = std::env::join_paths(self.0.iter().map(|d| d.path().to_owned()).chain(rest)).unwrap();
        run(command(args).env("LD_LIBRARY_PATH", path))
    }

    fn generate(&self, device: &str) -> Ended {
        let model = tiny_arg();
        let args = ["generate", "--model", &model, "--prompt", "x", "--max-tokens", "1", "--device", device];
        self.torchless(&args)
    }

    /// Asserts that it is refused with all of `parts`, and that the CPU is taken instead only where that is allowed.
    fn is_refused(&self, parts: &[&str]) {
        let line = self.torchless(&["devices"]).ok().lines().next().unwrap().to_owned();
        assert!(line.starts_with("cuda:0  not usable: backend `cuda` is unavailable: "), "{line}");
        self.generate("cuda").fails(1, parts);
        let auto = self.generate("auto");
        let note = auto.stderr.lines().next().unwrap();
        assert!(note.starts_with("cuda:0 cannot be used, taking cpu: "), "{auto:?}");
        for part in parts {
            assert!(line.contains(part) && note.contains(part), "`{part}` is not in `{line}` and `{note}`");
        }
        auto.ok();
    }

    /// Asserts that what is found is what is found without it, or `parts` where that is no driver.
    fn is_passed_over(&self, parts: &[&str]) {
        let without = torchless(["devices", "--json"]).ok();
        if !without.contains("no NVIDIA driver was found") {
            let (with, first) = (self.torchless(&["devices"]).ok(), torchless(["devices"]).ok());
            let name = |text: &str| text.lines().next().unwrap().split(',').next().unwrap().to_owned();
            // Where the loader alone knows a driver, the one under its name hides it.
            if name(&with) == name(&first) {
                return;
            }
        }
        let line = self.torchless(&["devices"]).ok();
        self.generate("cuda").fails(1, parts);
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    }
}

/// Starts, and is of this version.
fn started(version: i32) -> String {
    format!(
        "int cuInit(unsigned flags) {{ return 0; }}\n\
         int cuDriverGetVersion(int *version) {{ *version = {version}; return 0; }}\n"
    )
}

#[test]
fn a_toolkits_stub_is_no_driver() {
    let Some(stub) = Driver::new("int cuInit(unsigned flags) { return 34; }") else { return };
    stub.is_passed_over(&[
        "libcuda.so.1` is a stub of the CUDA toolkit and no driver",
        "take its folder out of the library path and install NVIDIA's driver, or use the CPU",
    ]);
}

#[test]
fn a_library_without_the_drivers_symbols_is_no_driver() {
    let Some(other) = Driver::new("int other(void) { return 0; }") else { return };
    other.is_passed_over(&["no NVIDIA driver was found; install one, or use the CPU", "libcuda.so.1"]);
}

#[test]
fn a_driver_is_found_behind_what_is_none() {
    for source in ["int cuInit(unsigned flags) { return 34; }", "int other(void) { return 0; }"] {
        let (Some(none), Some(old)) = (Driver::new(source), Driver::new(&started(11_080))) else { return };
        none.then(old).is_refused(&["the driver supports CUDA 11.8, and 12.0 is needed"]);
    }
}

#[test]
fn a_driver_that_is_too_old_says_which_one_will_do() {
    let Some(old) = Driver::new(&started(11_080)) else { return };
    old.is_refused(&[
        "the driver supports CUDA 11.8, and 12.0 is needed",
        "update NVIDIA's driver to 525 or later, or use the CPU",
    ]);
}

#[test]
fn a_driver_that_lacks_functions_says_its_version_and_what_to_do() {
    let Some(broken) = Driver::new(&started(13_010)) else { return };
    broken.is_refused(&[
        "the driver (CUDA 13.1) does not start and answers code 500",
        "check `nvidia-smi`, update the driver, or use the CPU",
    ]);
}

#[test]
fn a_driver_without_a_card_says_so() {
    let Some(bare) = Driver::new(&started(13_010).replace("return 0; }\nint", "return 100; }\nint")) else {
        return;
    };
    bare.is_refused(&["the driver shows no usable GPU; check `nvidia-smi` and CUDA_VISIBLE_DEVICES"]);
}
