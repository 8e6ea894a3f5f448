//! Types that signatures and fields of the facade name can be named through it.

use torchless::{
    Adjustment, Change, CpuBackend, CpuBackendBuilder, Element, Fit, HostElement, HostTensor, Operand,
    StoredTensor, Window,
};

#[test]
fn what_the_api_gives_can_be_named() {
    let _: fn() -> CpuBackendBuilder = CpuBackend::builder;
    let _: fn(&Fit) -> &[Change] = |fit| &fit.changes;
    let _: fn(&Change) -> Adjustment = |change| change.adjustment;
    let _: fn(&[u8]) -> Option<Vec<StoredTensor>> = |header| torchless::stored_tensors(header).ok();
    let _: fn(&Operand) -> &Window = |operand| &operand.window;
}

#[test]
fn host_tensors_of_any_element_can_be_made() {
    fn ones<E: HostElement>(one: E) -> Option<HostTensor> {
        HostTensor::from_vec(&[2], vec![one; 2]).ok()
    }
    assert_eq!(ones(1u32).map(|t| t.dtype()), Some(<u32 as Element>::DTYPE));
}

#[cfg(feature = "cuda")]
#[test]
fn what_the_cuda_backend_gives_can_be_named() {
    use torchless::{CudaBackend, CudaGraph, KernelBackend, PoolStats};

    fn is_its_graph<B: KernelBackend<Graph = CudaGraph>>() {}
    is_its_graph::<CudaBackend>();
    let _: fn(&CudaBackend) -> PoolStats = CudaBackend::pool_stats;
}
