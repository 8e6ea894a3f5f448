//! The suite that every backend must pass, on a GPU: `cargo test --release -p backend-cuda -- --ignored`; without the cases
//! that need gigabytes, `-- --ignored --skip huge`. Under a sanitizer, `quick::` alone, and on a newer card `quick_80::` for what
//! only older ones run: `compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 1 CONFORMANCE --ignored quick::`,
//! one tool after the other; some tests ask for more memory than there is, which is an error of the driver that is meant. racecheck
//! wants `--test-threads=1` and the card for itself: launches of several threads at once are too much for it.

use std::sync::OnceLock;

use backend_api::Result;
use backend_cuda::{CudaBackend, CudaBackendBuilder, KernelBackend};

/// A backend of its own, on a context that lives as long as the process: making one takes far longer than a case.
fn backend(with: impl Fn(CudaBackendBuilder) -> CudaBackendBuilder) -> Result<CudaBackend> {
    static CONTEXT: OnceLock<Result<CudaBackend>> = OnceLock::new();
    CONTEXT.get_or_init(CudaBackend::new);
    with(CudaBackend::builder()).build()
}

mod plain {
    use super::*;
    conformance::suite!(backend(|b| b).unwrap(), ignore = "needs an NVIDIA GPU");
    conformance::huge_suite!(backend(|b| b).unwrap());
}

mod poison {
    use super::*;
    conformance::suite!(backend(|b| b.poison(true)).unwrap(), ignore = "needs an NVIDIA GPU");
}

/// Every product through our own kernels.
mod without_blas {
    use super::*;
    conformance::suite!(backend(|b| b.blas(false)).unwrap(), ignore = "needs an NVIDIA GPU");
    conformance::huge_suite!(backend(|b| b.blas(false)).unwrap());
}

/// As on the oldest card.
mod portable {
    use super::*;
    conformance::suite!(
        backend(|b| b.kernel_target((5, 0)).blas(false)).unwrap(),
        ignore = "needs an NVIDIA GPU"
    );
    conformance::huge_suite!(backend(|b| b.kernel_target((5, 0)).blas(false)).unwrap());
}

#[cfg(feature = "nvrtc")]
mod nvrtc {
    use super::*;
    use backend_cuda::KernelSource;
    conformance::suite!(
        backend(|b| b.kernels(KernelSource::Nvrtc)).unwrap(),
        ignore = "needs an NVIDIA GPU and NVRTC"
    );
}

/// Through our own kernels alone: a sanitizer that watches cuBLAS as well takes minutes to load it.
mod quick {
    use super::*;
    conformance::suite!(backend(|b| b.blas(false)).unwrap(), ignore = "needs an NVIDIA GPU", group = Quick);
}

mod quick_80 {
    use super::*;
    conformance::suite!(
        backend(|b| b.kernel_target((8, 0)).blas(false)).unwrap(),
        ignore = "needs an NVIDIA GPU",
        group = Quick
    );
}

/// On a newer card: what an older one runs.
mod compute_80 {
    use super::*;
    conformance::suite!(
        backend(|b| b.kernel_target((8, 0)).blas(false)).unwrap(),
        ignore = "needs an NVIDIA GPU"
    );
    conformance::huge_suite!(backend(|b| b.kernel_target((8, 0)).blas(false)).unwrap());
}

/// What a sanitizer sees of `quick` and `quick_80`: all but the probe of the bandwidth, which reads gigabytes.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn the_quick_group_launches_every_kernel() {
    let card = backend(|b| b.blas(false)).unwrap();
    let older = backend(|b| b.kernel_target((8, 0)).blas(false)).unwrap();
    for b in [&card, &older] {
        conformance::ops::run_all(b, conformance::Group::Quick).unwrap();
        conformance::contract::random_fills(|| b.clone()).unwrap();
    }
    let launched = [card.launched_kernels(), older.launched_kernels()].concat();
    let has_wgmma = card.info().features.contains(&"compute capability 9.0".to_owned());
    let mut missing: Vec<_> = backend_cuda::kernels::signatures().iter().map(|s| s.name).collect();
    missing.retain(|name| !launched.contains(name) && (has_wgmma || !name.ends_with("wgmma")));
    assert_eq!(missing, ["read_probe"]);
}
