//! The backend: threads, counters, and the list of operations.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use backend_api::ops::*;
use backend_api::{
    Checked, Counters, DType, DeviceId, DeviceInfo, DeviceTensor, Error, Fill, KernelBackend, MemoryInfo, Op,
    Result,
};
use rayon::prelude::*;

use crate::memory::{CHECK_FROM, Lease, Stats, available};
use crate::{CpuTensor, kernel, ops};

/// Bytes that one call of an upload's `fill` is asked for.
const UPLOAD_PART: usize = 8 << 20;

/// A smallest page of memory.
const PAGE: usize = 4096;

/// Bytes that the read-bandwidth probe streams: more than the last-level cache of current machines.
const PROBE_BYTES: usize = 1 << 30;

/// Runs operations on the CPU, on a thread pool of its own or on rayon's global one.
///
/// A clone is the same backend: it shares threads, counters and memory accounting.
#[derive(Clone, Debug)]
pub struct CpuBackend {
    device: DeviceId,
    stats: Arc<Stats>,
    pool: Option<Arc<rayon::ThreadPool>>,
}

/// Options of a [`CpuBackend`].
#[derive(Clone, Debug, Default)]
pub struct CpuBackendBuilder {
    threads: Option<usize>,
}

impl CpuBackendBuilder {
    /// Number of threads; one per core if not set.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Makes the backend.
    ///
    /// # Errors
    /// [`Error::Argument`] for 0 threads or more than 1024, [`Error::Backend`] if the system gives no threads.
    pub fn build(self) -> Result<CpuBackend> {
        let Some(threads) = self.threads else { return Ok(CpuBackend::new()) };
        if !(1..=1024).contains(&threads) {
            return Err(Error::Argument {
                name: "threads",
                reason: format!("{threads} is not between 1 and 1024"),
            });
        }
        let pool =
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(|e| Error::Backend {
                backend: "cpu".into(),
                op: format!("starting {threads} threads"),
                reason: e.to_string(),
            })?;
        Ok(CpuBackend { pool: Some(Arc::new(pool)), ..CpuBackend::new() })
    }
}

impl Default for CpuBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl CpuBackend {
    /// A backend on rayon's global thread pool: one thread per core.
    pub fn new() -> Self {
        Self { device: DeviceId::unique("cpu", 0), stats: Arc::default(), pool: None }
    }

    /// Options.
    pub fn builder() -> CpuBackendBuilder {
        CpuBackendBuilder::default()
    }

    /// Threads that operations are spread over.
    pub fn threads(&self) -> usize {
        self.pool.as_ref().map_or_else(rayon::current_num_threads, |p| p.current_num_threads())
    }

    /// Floating-point operations per second of the machine's multiply-add units, measured; takes less than a second.
    pub fn fma_peak(&self) -> f64 {
        self.install(kernel::probe::fma_peak)
    }

    fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(f),
            None => f(),
        }
    }

    fn run<O: Op + Send>(&self, op: Checked<O>, f: impl FnOnce(O) -> Result<()> + Send) -> Result<()> {
        let op = op.on(self.device)?;
        self.stats.launches.fetch_add(1, Relaxed);
        self.install(|| f(op))
    }
}

fn span(tensor: &CpuTensor, offset: usize, len: usize) -> Result<std::ops::Range<usize>> {
    let end = offset.checked_add(len).filter(|end| *end <= tensor.bytes().len());
    end.map(|end| offset..end).ok_or_else(|| Error::Shape {
        op: "transfer",
        operand: "bytes",
        expected: vec![tensor.bytes().len()],
        got: vec![offset, len],
    })
}

impl KernelBackend for CpuBackend {
    type Tensor = CpuTensor;
    type Graph = ();

    fn name(&self) -> &str {
        "cpu"
    }

    fn device(&self) -> DeviceId {
        self.device
    }

    fn info(&self) -> DeviceInfo {
        let mut features = vec![format!("threads: {}", self.threads())];
        features.push(instruction_set().to_owned());
        DeviceInfo {
            id: self.device,
            name: cpu_name(),
            features,
            total_memory: available().map(|(_, total)| total),
        }
    }

    fn counters(&self) -> Counters {
        self.stats.counters()
    }

    fn memory(&self) -> MemoryInfo {
        self.stats.memory()
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn read_bandwidth(&self) -> Result<f64> {
        let _lease = Lease::new(&Arc::default(), PROBE_BYTES)?;
        Ok(self.install(|| kernel::probe::read_bandwidth(PROBE_BYTES)))
    }

    fn alloc(&self, shape: &[usize], dtype: DType) -> Result<CpuTensor> {
        let mut tensor = self.reserve(shape, dtype)?;
        if tensor.bytes().len() >= CHECK_FROM {
            // The system counts memory as used once it is touched: the next allocation must see that this one is gone.
            let pages = tensor.bytes_mut().par_chunks_mut(PAGE);
            self.install(|| pages.for_each(|page| page[0] = std::hint::black_box(0)));
        }
        Ok(tensor)
    }

    fn upload(&self, shape: &[usize], dtype: DType, fill: Fill<'_>) -> Result<CpuTensor> {
        let mut tensor = self.reserve(shape, dtype)?;
        self.stats.writes.fetch_add(1, Relaxed);
        let parts = tensor.bytes_mut().par_chunks_mut(UPLOAD_PART).enumerate();
        self.install(|| parts.try_for_each(|(i, part)| fill(i * UPLOAD_PART, part)))?;
        Ok(tensor)
    }

    fn write(&self, dst: &mut CpuTensor, offset: usize, src: &[u8]) -> Result<()> {
        self.owns("write", dst)?;
        self.stats.writes.fetch_add(1, Relaxed);
        let span = span(dst, offset, src.len())?;
        dst.bytes_mut()[span].copy_from_slice(src);
        Ok(())
    }

    fn read(&self, src: &CpuTensor, offset: usize, out: &mut [u8]) -> Result<()> {
        self.owns("read", src)?;
        self.stats.reads.fetch_add(1, Relaxed);
        out.copy_from_slice(&src.bytes()[span(src, offset, out.len())?]);
        Ok(())
    }

    fn fill_random(&self, dst: &mut CpuTensor, seed: u64, scale: f32) -> Result<()> {
        self.owns("fill_random", dst)?;
        self.install(|| ops::fill_random(dst, seed, scale))
    }

    fn step(
        &self,
        (): &mut (),
        first: usize,
        body: &mut (dyn FnMut(&Self, Option<usize>) -> Result<()> + Send),
    ) -> Result<()> {
        // The whole step runs on the pool, so that its operations need not wake it one by one.
        match &self.pool {
            Some(pool) => pool.install(|| body(self, Some(first))),
            None => rayon::scope(|_| body(self, Some(first))),
        }
    }

    fn matmul_into(&self, op: Checked<Matmul<'_, CpuTensor>>) -> Result<()> {
        self.run(op, ops::matmul)
    }
    fn rmsnorm_into(&self, op: Checked<RmsNorm<'_, CpuTensor>>) -> Result<()> {
        self.run(op, ops::rmsnorm)
    }
    fn softmax_into(&self, op: Checked<Softmax<'_, CpuTensor>>) -> Result<()> {
        self.run(op, ops::softmax)
    }
    fn silu_into(&self, op: Checked<Silu<'_, CpuTensor>>) -> Result<()> {
        self.run(op, ops::silu)
    }
    fn apply_rope_into(&self, op: Checked<ApplyRope<'_, CpuTensor>>) -> Result<()> {
        self.run(op, ops::apply_rope)
    }
    fn compute_attention_scores_into(
        &self,
        op: Checked<ComputeAttentionScores<'_, CpuTensor>>,
    ) -> Result<()> {
        self.run(op, ops::compute_attention_scores)
    }
    fn weighted_sum_rows_into(&self, op: Checked<WeightedSumRows<'_, CpuTensor>>) -> Result<()> {
        self.run(op, ops::weighted_sum_rows)
    }
    fn add_into(&self, op: Checked<Add<'_, CpuTensor>>) -> Result<()> {
        self.run(op, ops::add)
    }
    fn mul_into(&self, op: Checked<Mul<'_, CpuTensor>>) -> Result<()> {
        self.run(op, ops::mul)
    }
    fn embed_into(&self, op: Checked<Embed<'_, CpuTensor>>) -> Result<()> {
        self.run(op, ops::embed)
    }
    fn append_rows_into(&self, op: Checked<AppendRows<'_, CpuTensor>>) -> Result<()> {
        self.run(op, ops::append_rows)
    }
    fn argmax_into(&self, op: Checked<Argmax<'_, CpuTensor>>) -> Result<()> {
        self.run(op, ops::argmax)
    }
    fn sample_into(&self, op: Checked<Sample<'_, CpuTensor>>) -> Result<()> {
        self.run(op, ops::sample)
    }
    fn attention(&self, op: Checked<Attention<'_, CpuTensor>>) -> Result<()> {
        self.run(op, ops::attention)
    }
    fn norm_swiglu(&self, op: Checked<NormSwiglu<'_, CpuTensor>>) -> Result<()> {
        self.run(op, ops::norm_swiglu)
    }
}

impl CpuBackend {
    fn reserve(&self, shape: &[usize], dtype: DType) -> Result<CpuTensor> {
        CpuTensor::zeros(shape, dtype, self.device, |bytes| Lease::new(&self.stats, bytes))
    }

    fn owns(&self, op: &'static str, tensor: &CpuTensor) -> Result<()> {
        if tensor.device() == self.device {
            return Ok(());
        }
        Err(Error::Device { op, operand: "tensor", expected: self.device, got: tensor.device() })
    }
}

/// The processor's product name.
fn cpu_name() -> String {
    let mut system = sysinfo::System::new();
    system.refresh_cpu_list(sysinfo::CpuRefreshKind::nothing());
    let name = system.cpus().first().map(|c| c.brand().trim().to_owned()).unwrap_or_default();
    if name.is_empty() { std::env::consts::ARCH.to_owned() } else { name }
}

/// The vector instructions that the kernels run with.
fn instruction_set() -> &'static str {
    match kernel::lanes::Level::best() {
        #[cfg(target_arch = "x86_64")]
        kernel::lanes::Level::V4(_) => "AVX-512",
        #[cfg(target_arch = "x86_64")]
        kernel::lanes::Level::V3(_) => "AVX2+FMA",
        kernel::lanes::Level::Portable => "portable",
    }
}
