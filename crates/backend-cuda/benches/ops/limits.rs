//! What the card can do.

use std::fmt;
use std::thread::sleep;
use std::time::Instant;

use backend_cuda::{CudaBackend, DType, KernelBackend, Result};

use crate::measure::{Bound, Cost, REST, Work, random};
use crate::products::{Shape, product};

/// Bytes and operations per second.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Reading, and nothing else.
    pub(crate) read: f64,
    /// Copying, where what is read and what is written both count.
    pub(crate) copy: f64,
    /// Between pinned memory of the host and the card.
    pub(crate) bus: f64,
    pub(crate) flops_bf16: f64,
    pub(crate) flops_f32: f64,
    /// Whether those are cuBLAS's, or what our own kernels reach.
    pub(crate) by_blas: bool,
}

/// Products among which the fastest shows what the card can compute.
const LARGE: [(Shape, DType); 6] = [
    ((8192, 8192, 8192), DType::BF16),
    ((2048, 28672, 4096), DType::BF16),
    ((2048, 4096, 14336), DType::BF16),
    ((4096, 4096, 14336), DType::BF16),
    ((8192, 4096, 4096), DType::F32),
    ((4096, 8192, 4096), DType::F32),
];

impl Limits {
    /// The least time that the card needs to move so many bytes and to compute so much.
    pub(crate) fn seconds(&self, cost: Cost, bound: Bound, dtype: DType) -> (f64, f64) {
        let bandwidth = match bound {
            Bound::Read => self.read,
            Bound::Copy => self.copy,
            Bound::Bus => self.bus,
        };
        let peak = if dtype == DType::F32 { self.flops_f32 } else { self.flops_bf16 };
        (cost.bytes as f64 / bandwidth, cost.flops as f64 / peak)
    }

    pub(crate) fn measure(b: &CudaBackend, by_blas: bool) -> Result<Self> {
        let peak = |dtype| -> Result<f64> {
            let mut best = 0.0f64;
            for (shape, _) in LARGE.iter().filter(|l| l.1 == dtype) {
                best = best.max(flops(b, *shape, dtype)?);
            }
            Ok(best)
        };
        Ok(Self {
            read: b.read_bandwidth()?,
            copy: b.copy_bandwidth()?,
            bus: bus(b)?,
            flops_bf16: peak(DType::BF16)?,
            flops_f32: peak(DType::F32)?,
            by_blas,
        })
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [read, copy] = [self.read, self.copy].map(|rate| rate / 1e12);
        let [bf16, f32] = [self.flops_bf16, self.flops_f32].map(|rate| rate / 1e12);
        write!(
            f,
            "limits: read {read:.2} TB/s, copy {copy:.2} TB/s, host to device {:.1} GB/s, ",
            self.bus / 1e9
        )?;
        let products = if self.by_blas { "products" } else { "products of own kernels" };
        write!(f, "{products} {bf16:.0} TFLOP/s in bf16 and {f32:.1} in f32")
    }
}

/// The rate of one product: the fastest of a few bursts.
fn flops(b: &CudaBackend, (m, n, k): Shape, dtype: DType) -> Result<f64> {
    let (x, w) = (random(b, &[m, k], dtype)?, random(b, &[n, k], dtype)?);
    let mut out = b.alloc(&[m, n], dtype)?;
    let mut work = Work::new(1, move |b, _| product(b, &x, &w, &mut out));
    work.prepare(b)?;
    let mut best = f64::INFINITY;
    for _ in 0..4 {
        sleep(REST);
        best = best.min(work.seconds(b, 4)?);
    }
    Ok(work.cost().flops as f64 / best)
}

/// Uploads what is already in the staging buffers.
fn bus(b: &CudaBackend) -> Result<f64> {
    let bytes = 1usize << 30;
    let mut best = 0.0f64;
    for _ in 0..4 {
        let start = Instant::now();
        let tensor = b.upload(&[bytes / 4], DType::F32, &|_, _| Ok(()))?;
        b.synchronize()?;
        best = best.max(bytes as f64 / start.elapsed().as_secs_f64());
        drop(tensor);
    }
    Ok(best)
}
