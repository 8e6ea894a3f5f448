//! Between host and card, by the clock of the host: calls return when the data is there.

use std::time::Instant;

use backend_cuda::{CudaBackend, DType, KernelBackend};

use crate::measure::{Bench, Bound, Case, Cost};

const BYTES: usize = 1 << 30;

pub(crate) fn all(bench: &mut Bench) {
    let case = |op| Case::new(op, "1 GiB", DType::BF16, Bound::Bus);
    let backend = bench.backend.clone();
    let shape = [BYTES / 2];
    let mut host = Vec::new();
    bench.time(case("upload"), |times| {
        host.resize(BYTES, 1u8);
        timed(&backend, times, |b| {
            let tensor = b.upload(&shape, DType::BF16, &|offset, out| {
                out.copy_from_slice(&host[offset..offset + out.len()]);
                Ok(())
            });
            drop(tensor.unwrap());
        })
    });
    let mut tensor = None;
    bench.time(case("download"), |times| {
        host.resize(BYTES, 1u8);
        let tensor =
            tensor.get_or_insert_with(|| crate::measure::random(&backend, &shape, DType::BF16).unwrap());
        timed(&backend, times, |b| b.read(tensor, 0, &mut host).unwrap())
    });
}

fn timed(b: &CudaBackend, times: u64, mut run: impl FnMut(&CudaBackend)) -> (f64, Cost) {
    b.synchronize().unwrap();
    let start = Instant::now();
    for _ in 0..times {
        run(b);
    }
    b.synchronize().unwrap();
    (start.elapsed().as_secs_f64() / times as f64, Cost { bytes: BYTES as u64, flops: 0 })
}
