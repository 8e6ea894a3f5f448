//! `BackendPreference::Cpu` opens no CUDA library. A program of its own, since it looks at the process; `tests/gpu/main.rs` shows
//! that the same look finds the driver after `BackendPreference::Cuda`.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod maps;

use torchless::{BackendPreference, HostTensor, KernelBackend, init_backend};

#[test]
fn the_cpu_opens_no_cuda_library() {
    let backend = init_backend(BackendPreference::Cpu).unwrap();
    let x = backend.to_device(&HostTensor::from_vec(&[1, 4], vec![0.0f32; 4]).unwrap()).unwrap();
    let y = backend.to_host(&backend.softmax(&x).unwrap()).unwrap();
    assert_eq!(y.to_f32().iter().sum::<f32>(), 1.0);
    let files = maps::files();
    assert!(files.iter().any(|file| file.starts_with("libc.")), "{files:?}");
    assert!(!files.iter().any(|file| maps::is_cuda(file)), "{files:?}");
}
