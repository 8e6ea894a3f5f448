//! Loading of kernels: errors, signatures, time.

use std::time::{Duration, Instant};

use backend_api::ops::{Matmul, WeightLayout};
use backend_api::{Cause, DType, Error, KernelBackend, Mat, MatMut, Op};

use super::child;
use crate::CudaBackend;
use crate::KernelSource;
use crate::device::Device;
use crate::forecast::tests::mistral;
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

/// Variable that makes a child load its kernels on one thread.
const ONE_THREAD: &str = "TORCHLESS_TEST_ONE_THREAD";

/// What a process took to get ready, beyond the context.
#[derive(Clone, Copy, Debug)]
struct Start {
    /// What is loaded with a model's weights: kernels, and cuBLAS beside them where there is one.
    kernels: Duration,
    /// What the first product loads: the first prompt waits for it.
    product: Duration,
}

/// Takes the times in a process of its own, and writes them.
fn start() {
    let b = CudaBackend::new().unwrap();
    let began = Instant::now();
    if std::env::var_os(ONE_THREAD).is_some() {
        for key in functions::of_model(&mistral(DType::BF16), b.inner.device.capability) {
            b.inner.functions.get(&b.inner.device, key).unwrap();
        }
    } else {
        b.prepare(&mistral(DType::BF16)).unwrap();
    }
    let kernels = began.elapsed();
    let [x, w, mut out] = [[512, 4096], [4096, 4096], [512, 4096]].map(|shape| {
        let mut tensor = b.alloc(&shape, DType::BF16).unwrap();
        b.fill_random(&mut tensor, 1, 1.0).unwrap();
        tensor
    });
    b.synchronize().unwrap();
    let began = Instant::now();
    let name = b.cublas().unwrap_or_else(|_| "no cuBLAS".to_owned());
    let op = Matmul {
        x: Mat::new(&x),
        w: Mat::new(&w),
        out: MatMut::new(&mut out),
        accumulate: false,
        layout: WeightLayout::OutIn,
    };
    b.matmul_into(op.check().unwrap()).unwrap();
    b.synchronize().unwrap();
    let (product, count) = (began.elapsed(), b.loaded_kernels());
    println!("\nSTART {} {} us: {count} kernels, {name}", kernels.as_micros(), product.as_micros());
}

fn started(what: &str, variables: &[(&str, &str)]) -> Start {
    let output = child::run("device::tests::loading::kernels_load_in_time", variables);
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("START ")).unwrap();
    println!("{what}: {line}");
    let mut numbers = line.split(' ').map(|n| Duration::from_micros(n.parse().unwrap()));
    Start { kernels: numbers.next().unwrap(), product: numbers.next().unwrap() }
}

/// What one bf16 `generate` loads, beyond the context: under 1 s before the driver has compiled it, under 30 ms after.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn kernels_load_in_time() {
    if child::is_child() {
        return start();
    }
    let cache = tempfile::tempdir().unwrap();
    let cached = ("CUDA_CACHE_PATH", cache.path().to_str().unwrap());
    // The first process also brings the libraries' files into memory.
    started("one thread, no cache", &[("CUDA_CACHE_DISABLE", "1"), (ONE_THREAD, "1")]);
    let cold = started("cold", &[cached]);
    let warm = [(); 3].map(|()| started("warm", &[cached]));
    started("one thread, warm", &[cached, (ONE_THREAD, "1")]);
    let best = |of: fn(&Start) -> Duration| warm.iter().map(of).min().unwrap();
    let (kernels, all) = (best(|s| s.kernels), best(|s| s.kernels + s.product));
    println!("cold {cold:?}; warm {kernels:?}, with a first product {all:?}");
    assert!(cold.kernels + cold.product < Duration::from_secs(1), "cold: {cold:?}");
    assert!(all < Duration::from_millis(30), "warm: {warm:?}");
}
