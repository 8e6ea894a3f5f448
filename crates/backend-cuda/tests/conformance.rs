//! The suite that every backend must pass, on a GPU: `cargo test --release -p backend-cuda -- --ignored`.

use backend_cuda::CudaBackend;

mod plain {
    use super::*;
    conformance::suite!(CudaBackend::new().unwrap(), ignore = "needs an NVIDIA GPU");
}

mod poisoned {
    use super::*;
    conformance::suite!(CudaBackend::poisoned(0).unwrap(), ignore = "needs an NVIDIA GPU");
}

/// On a newer card: what an older one runs.
mod compute_80 {
    use super::*;
    conformance::suite!(CudaBackend::with_capability(0, (8, 0)).unwrap(), ignore = "needs an NVIDIA GPU");
}
