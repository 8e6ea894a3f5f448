//! Loading of kernels: errors, signatures, time.

use std::time::{Duration, Instant};

use backend_api::{Cause, DType, Error, KernelBackend};

use super::child;
use crate::CudaBackend;
use crate::KernelSource;
use crate::device::Device;
use crate::functions::{self, Functions};
use crate::kernels::archive;

fn refusal(device: &Device, ptx: &str) -> (Cause, String) {
    match device.load("k", ptx.as_bytes().to_vec()).unwrap_err() {
        Error::Unavailable { cause, reason, .. } => (cause, reason),
        other => panic!("{other}"),
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn images_that_do_not_fit_give_typed_errors() {
    let b = CudaBackend::new().unwrap();
    let device = &*b.inner.device;
    let (cause, text) =
        refusal(device, ".version 6.0\n.target sm_50\n.address_size 64\n.visible .entry k() { nonsense; }\n");
    assert_eq!(cause, Cause::InvalidPtx, "{text}");
    assert!(text.contains("nonsense") && text.contains("its log"), "{text}");
    let (cause, text) =
        refusal(device, ".version 99.9\n.target sm_50\n.address_size 64\n.visible .entry k() { ret; }\n");
    assert_eq!(cause, Cause::PtxVersion, "{text}");
    let wrong = if device.card == (10, 0) { "sm_90a" } else { "sm_100a" };
    let (cause, text) = refusal(
        device,
        &format!(".version 8.6\n.target {wrong}\n.address_size 64\n.visible .entry k() {{ ret; }}\n"),
    );
    assert_eq!(cause, Cause::NoKernelImage, "{text}");
    let missing =
        device.load("other", archive::ptx("add", DType::F32, DType::F32, (5, 0)).unwrap().into_bytes());
    assert!(matches!(missing, Err(Error::Backend { .. })), "{missing:?}");
    b.alloc(&[10], DType::F32).and_then(|mut x| b.fill_random(&mut x, 1, 1.0)).unwrap();
    b.synchronize().unwrap();
}

/// The driver's view of every kernel is the declared one; loading compares them.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn every_variant_loads_with_the_parameters_that_rust_passes() {
    let b = CudaBackend::new().unwrap();
    let device = &*b.inner.device;
    let functions = Functions::new(KernelSource::Embedded);
    let mut loaded = 0;
    for scalar in DType::FLOATS {
        for weight in DType::FLOATS {
            let keys = functions::keys(scalar, weight, device.capability);
            functions.preload(device, &keys).unwrap();
            for key in keys {
                let function = functions.get(device, key).unwrap();
                functions::check(key.0, |_| device.parameters(function, 100)).unwrap();
                loaded += 1;
            }
        }
    }
    assert!(loaded > 60, "{loaded}");
}

/// What one bf16 `generate` loads, beyond the context: under 1 s before the driver has compiled it, under 30 ms after.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn kernels_load_in_time() {
    if child::is_child() {
        let b = CudaBackend::new().unwrap();
        let threads = std::env::var("TORCHLESS_TEST_THREADS").is_err();
        let start = Instant::now();
        let keys = functions::keys(DType::BF16, DType::BF16, (9, 0));
        let count = if threads {
            b.preload(DType::BF16, DType::BF16).unwrap()
        } else {
            for key in &keys {
                b.inner.functions.get(&b.inner.device, *key).unwrap();
            }
            keys.len()
        };
        println!("\nLOADED {count} in {} us", start.elapsed().as_micros());
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let time = |variables: &[(&str, &str)]| {
        let output = child::run("device::tests::loading::kernels_load_in_time", variables);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|l| l.starts_with("LOADED")).unwrap().to_owned();
        let time = Duration::from_micros(line.rsplit(' ').nth(1).unwrap().parse().unwrap());
        println!("{line}");
        time
    };
    let path = cache.path().to_str().unwrap();
    let cached = [("CUDA_CACHE_PATH", path)];
    let cold = time(&cached);
    let warm = (0..3).map(|_| time(&cached)).min().unwrap();
    print!("one thread, warm: ");
    time(&[("CUDA_CACHE_PATH", path), ("TORCHLESS_TEST_THREADS", "1")]);
    print!("one thread, never cached: ");
    time(&[("CUDA_CACHE_DISABLE", "1"), ("TORCHLESS_TEST_THREADS", "1")]);
    assert!(cold < Duration::from_secs(1), "cold: {cold:?}");
    assert!(warm < Duration::from_millis(30), "warm: {warm:?}");
}
