//! What needs the backend's stream.

use std::time::Instant;

use backend_api::ops::{Matmul, WeightLayout};
use backend_api::{Cause, DType, Error, KernelBackend, Mat, MatMut, Op};

use super::{Absent, Missing};
use crate::graph::CudaGraph;
use crate::libraries::{self, Places, Platform};
use crate::{CudaBackend, CudaTensor};

fn random(b: &CudaBackend, shape: &[usize], seed: u64) -> CudaTensor {
    let mut tensor = b.alloc(shape, DType::BF16).unwrap();
    b.fill_random(&mut tensor, seed, 1.0).unwrap();
    tensor
}

fn product(b: &CudaBackend, x: &CudaTensor, w: &CudaTensor, out: &mut CudaTensor) {
    let (x, w, out) = (Mat::new(x), Mat::new(w), MatMut::new(out));
    let op = Matmul { x, w, out, accumulate: false, layout: WeightLayout::OutIn };
    b.matmul_into(op.check().unwrap()).unwrap();
}

/// Runs `body` captured, then the graph; `times` times in all.
fn captured(b: &CudaBackend, times: usize, body: &mut (dyn FnMut() + Send)) {
    let (mut graph, before) = (CudaGraph::default(), b.counters());
    b.step(&mut graph, 0, &mut |_, _| Ok(())).unwrap();
    for _ in 0..times {
        b.step(&mut graph, 0, &mut |_, _| {
            body();
            Ok(())
        })
        .unwrap();
    }
    b.synchronize().unwrap();
    assert_eq!(b.counters().captures, before.captures + 1);
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_product_can_be_captured_the_first_time_too() {
    for warm in [true, false] {
        for (m, n, k) in [(64, 4096, 14_336), (40, 1000, 520)] {
            let b = CudaBackend::new().unwrap();
            let (x, w) = (random(&b, &[m, k], 1), random(&b, &[n, k], 2));
            let mut outs = [(); 2].map(|()| b.alloc(&[m, n], DType::BF16).unwrap());
            let [want, got] = &mut outs;
            b.cublas().unwrap();
            if warm {
                product(&b, &x, &w, want);
            }
            let before = (b.counters().allocations, b.pool_stats().misses);
            captured(&b, 3, &mut || product(&b, &x, &w, got));
            assert_eq!(before, (b.counters().allocations, b.pool_stats().misses));
            product(&b, &x, &w, want);
            assert!(b.download(want).unwrap() == b.download(got).unwrap(), "warm {warm}, {m} x {n} x {k}");
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn nothing_is_opened_during_a_capture() {
    let b = CudaBackend::new().unwrap();
    let (x, w) = (random(&b, &[64, 256], 1), random(&b, &[128, 256], 2));
    let mut outs = [(); 2].map(|()| b.alloc(&[64, 128], DType::BF16).unwrap());
    let [first, second] = &mut outs;
    b.launch("matmul", DType::BF16, DType::BF16, 0).unwrap();
    captured(&b, 1, &mut || product(&b, &x, &w, first));
    assert!(b.inner.blas.opened.get().is_none());
    product(&b, &x, &w, second);
    assert!(b.inner.blas.opened.get().is_some());
    let values = |t: &CudaTensor| conformance::decode(DType::BF16, &b.download(t).unwrap());
    assert!(conformance::tolerance::nmse(&values(first), &values(second)) < 3e-5);
}

/// What the first product pays: shown, not judged.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn start_is_timed() {
    let b = CudaBackend::new().unwrap();
    let (x, w) = (random(&b, &[512, 4096], 1), random(&b, &[4096, 4096], 2));
    let mut out = b.alloc(&[512, 4096], DType::BF16).unwrap();
    b.synchronize().unwrap();
    let mut last = Instant::now();
    let mut lap = |what: &str| {
        b.synchronize().unwrap();
        println!("{what}: {:.3} ms", last.elapsed().as_secs_f64() * 1e3);
        last = Instant::now();
    };
    lap("nothing");
    b.cublas().unwrap();
    lap("open");
    product(&b, &x, &w, &mut out);
    lap("first product");
    product(&b, &x, &w, &mut out);
    lap("again");
    for m in [100, 101, 102] {
        let x = random(&b, &[m, 4096], 1);
        let mut out = b.alloc(&[m, 4096], DType::BF16).unwrap();
        product(&b, &x, &w, &mut out);
        lap("another number of rows");
    }
}

#[test]
fn a_missing_library_is_no_obstacle_and_says_what_helps() {
    let places = Places { by_name: false, directories: vec!["/nowhere/lib".into()] };
    let open = libraries::open("cublasLt", &[13, 12], &places, |_| Ok::<_, String>(()));
    let missing = Missing::from(open.unwrap_err());
    let error = Error::from(Absent::Missing(&missing));
    assert!(matches!(error, Error::Unavailable { cause: Cause::NoBlas, .. }), "{error}");
    let text = error.to_string();
    let searched = [Platform::HERE.file("cublasLt", 13), Platform::HERE.file("cublasLt", 12)];
    let remedies = ["nothing needs it", "own kernels", "CUDA toolkit", "pip install", "LD_LIBRARY_PATH"];
    for part in ["was not found", "/nowhere/lib"].into_iter().chain(remedies) {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(searched.iter().all(|file| text.contains(file)), "{text}");
}
