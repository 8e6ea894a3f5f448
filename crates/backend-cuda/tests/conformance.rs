//! The suite that every backend must pass, on a GPU: `cargo test --release -p backend-cuda -- --ignored`; without the cases
//! that need gigabytes, `-- --ignored --skip huge`. Under a sanitizer, `quick::` alone, and on a newer card `quick_80::` and
//! `quick_50::` for what only older ones run:
//! `compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 1 CONFORMANCE --ignored quick::`, one tool after the
//! other; some tests ask for more memory than there is, which is an error of the driver that is meant. racecheck wants
//! `--test-threads=1` and the card for itself: launches of several threads at once are too much for it.

use std::sync::OnceLock;

use backend_api::Result;
#[cfg(feature = "nvrtc")]
use backend_cuda::KernelSource;
use backend_cuda::{CudaBackend, CudaBackendBuilder, KernelBackend};

/// A backend of its own, on a context that lives as long as the process: making one takes far longer than a case.
fn backend(with: impl Fn(CudaBackendBuilder) -> CudaBackendBuilder) -> Result<CudaBackend> {
    static CONTEXT: OnceLock<Result<CudaBackend>> = OnceLock::new();
    CONTEXT.get_or_init(CudaBackend::new);
    with(CudaBackend::builder()).build()
}

/// A module per way to make a backend, with the group of cases that it is held to, and `huge_suite` where tensors of more than
/// 2^31 elements are made, too.
macro_rules! modes {
    ($why:literal; $($(#[$doc:meta])* $name:ident($group:ident $($huge:ident)?): $with:expr;)*) => {
        $(
            $(#[$doc])*
            mod $name {
                use super::*;
                conformance::suite!(backend($with).unwrap(), ignore = $why, group = $group);
                $(conformance::$huge!(backend($with).unwrap());)?
            }
        )*
    };
}

modes! {
    "needs an NVIDIA GPU";
    plain(Full huge_suite): |b| b;
    poison(Full): |b| b.poison(true);
    /// Every product through our own kernels.
    without_blas(Full huge_suite): |b| b.blas(false);
    poison_without_blas(Full): |b| b.blas(false).poison(true);
    /// As on the oldest card.
    portable(Full huge_suite): |b| b.kernel_target((5, 0)).blas(false);
    /// On a newer card: what an older one runs.
    compute_80(Full huge_suite): |b| b.kernel_target((8, 0)).blas(false);
    poison_80(Full): |b| b.kernel_target((8, 0)).blas(false).poison(true);
    /// Through our own kernels alone: a sanitizer that watches cuBLAS as well takes minutes to load it.
    quick(Quick): |b| b.blas(false);
    quick_80(Quick): |b| b.kernel_target((8, 0)).blas(false);
    quick_50(Quick): |b| b.kernel_target((5, 0)).blas(false);
}

#[cfg(feature = "nvrtc")]
modes! {
    "needs an NVIDIA GPU and NVRTC";
    nvrtc(Full): |b| b.kernels(KernelSource::Nvrtc);
    nvrtc_poison(Full): |b| b.kernels(KernelSource::Nvrtc).blas(false).poison(true);
    nvrtc_80(Full): |b| b.kernels(KernelSource::Nvrtc).kernel_target((8, 0)).blas(false);
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
