//! The shared libraries that the binary needs and opens.

use std::fs;

use object::read::elf::{Dyn, ElfFile64};

/// Whether a library is one of CUDA's or of its driver.
fn is_cuda(name: &str) -> bool {
    ["cuda", "cublas", "nvrtc", "nvidia"].iter().any(|part| name.contains(part))
}

/// The libraries that the loader opens before the binary starts.
fn needed(binary: &[u8]) -> Vec<String> {
    let file = ElfFile64::<object::Endianness>::parse(binary).unwrap();
    let (endian, sections) = (file.endian(), file.elf_section_table());
    let (entries, link) = sections.dynamic(endian, binary).unwrap().unwrap();
    let strings = sections.strings(endian, binary, link).unwrap();
    let names = entries.iter().filter(|entry| entry.tag(endian) == object::elf::DT_NEEDED);
    names
        .map(|entry| {
            let name = strings.get(entry.val(endian) as u32).unwrap();
            String::from_utf8(name.to_vec()).unwrap()
        })
        .collect()
}

#[test]
fn the_binary_needs_no_cuda_library() {
    let names = needed(&fs::read(env!("CARGO_BIN_EXE_torchless")).unwrap());
    assert!(names.iter().any(|name| name.starts_with("libc.")), "{names:?}");
    assert!(!names.iter().any(|name| is_cuda(name)), "{names:?}");
}

/// Names of the files that glibc's loader opens, or tries to, while the binary runs a model on a device.
#[cfg(target_env = "gnu")]
fn opened(device: &str) -> Vec<String> {
    let model = crate::run::tiny_arg();
    let args = ["generate", "--model", &model, "--prompt", "x", "--max-tokens", "1", "--device", device];
    let output = crate::run::command(args).env("LD_DEBUG", "files").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let log = String::from_utf8(output.stderr).unwrap();
    let files = log.lines().filter_map(|line| line.split_once("file=")?.1.split_whitespace().next());
    files.map(|path| path.rsplit('/').next().unwrap_or(path).to_owned()).collect()
}

#[cfg(target_env = "gnu")]
#[test]
fn the_cpu_opens_no_cuda_library() {
    let files = opened("cpu");
    assert!(files.iter().any(|file| file.starts_with("libc.")), "the loader tells nothing: {files:?}");
    assert!(!files.iter().any(|file| is_cuda(file)), "{files:?}");
    // The same look sees the driver's library where it is tried, whether it is there or not.
    #[cfg(feature = "cuda")]
    assert!(opened("auto").iter().any(|file| is_cuda(file)));
}
