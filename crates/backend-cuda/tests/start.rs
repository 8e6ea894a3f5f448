//! What a process waits for before its first token, beyond the context: kernels, and cuBLAS where there is one. A target of
//! its own, since nothing else may run beside what is timed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use backend_api::ops::{Matmul, WeightLayout};
use backend_api::{DType, KernelBackend, Mat, MatMut, Op, Workload};
use backend_cuda::CudaBackend;

/// Set in the processes that are timed: whether they may use cuBLAS.
const TIMED: &str = "TORCHLESS_TEST_START";

/// What one process took.
#[derive(Clone, Copy, Debug)]
struct Start {
    /// To get ready for a model, as the loading of its weights does on another thread.
    ready: Duration,
    /// For the first product after that.
    product: Duration,
}

/// Takes the times of this process, and writes them.
fn start(blas: bool) {
    let b = CudaBackend::builder().blas(blas).build().unwrap();
    let began = Instant::now();
    b.prepare(&Workload { rows: 2048, ..conformance::mistral(DType::BF16) }).unwrap();
    let ready = began.elapsed();
    let [x, w, mut out] = [[512, 4096], [4096, 4096], [512, 4096]].map(|shape| {
        let mut tensor = b.alloc(&shape, DType::BF16).unwrap();
        b.fill_random(&mut tensor, 1, 1.0).unwrap();
        tensor
    });
    b.synchronize().unwrap();
    let began = Instant::now();
    let (x, w, out) = (Mat::new(&x), Mat::new(&w), MatMut::new(&mut out));
    let op = Matmul { x, w, out, accumulate: false, layout: WeightLayout::OutIn };
    b.matmul_into(op.check().unwrap()).unwrap();
    b.synchronize().unwrap();
    let (product, kernels) = (began.elapsed(), b.loaded_kernels());
    let library = b.cublas().unwrap_or_else(|_| "no cuBLAS".to_owned());
    println!("\nSTART {} {} us: {kernels} kernels, {library}", ready.as_micros(), product.as_micros());
}

/// A process of its own, with the driver's cache in this folder.
fn started(what: &str, blas: bool, cache: &Path) -> Start {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_process_starts_in_time", "--ignored", "--nocapture"]);
    command.env(TIMED, if blas { "cuBLAS" } else { "" }).env("CUDA_CACHE_PATH", cache);
    command.env_remove("CUDA_CACHE_DISABLE").env_remove("CUDA_CACHE_MAXSIZE");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let line = text.lines().find_map(|line| line.strip_prefix("START ")).unwrap();
    println!("{what}: {line}");
    let mut numbers = line.split(' ').map(|n| Duration::from_micros(n.parse().unwrap()));
    Start { ready: numbers.next().unwrap(), product: numbers.next().unwrap() }
}

/// On an H200 with 16 cores: what one bf16 `generate` loads, beyond the context: under 1 s before the driver has compiled the kernels. Then these are there
/// in under 30 ms; the library takes longer, and is waited for by nobody who reads weights meanwhile.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_process_starts_in_time() {
    if let Some(blas) = std::env::var_os(TIMED) {
        return start(!blas.is_empty());
    }
    let folder = || tempfile::tempdir().unwrap();
    // Brings the files of driver and library into memory.
    started("first", true, folder().path());
    let cache = folder();
    let cold = started("cold", true, cache.path());
    let warm = |what, blas| [(); 3].map(|()| started(what, blas, cache.path()));
    let (kernels, all) = (warm("warm, no cuBLAS", false), warm("warm", true));
    if !CudaBackend::new().unwrap().info().name.contains("H200") {
        return;
    }
    let best = |of: fn(&Start) -> Duration, all: &[Start]| all.iter().map(of).min().unwrap();
    assert!(cold.ready + cold.product < Duration::from_secs(1), "cold: {cold:?}");
    let loaded = best(|s| s.ready + s.product, &kernels);
    assert!(loaded < Duration::from_millis(30), "warm: {kernels:?}");
    // What the library loads for any product is loaded by then; each of its kernels still comes with its first product.
    let (ready, product) = (best(|s| s.ready, &all), best(|s| s.product, &all));
    assert!(ready < Duration::from_millis(300), "warm: {all:?}");
    assert!(product < Duration::from_millis(15), "warm: {all:?}");
}
