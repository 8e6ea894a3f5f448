//! The backend that was chosen, itself a backend.

use backend_api::ops::*;
use backend_api::{
    Checked, Counters, DType, DeviceId, DeviceInfo, Fill, KernelBackend, MemoryInfo, Op, Pending, Result,
    SlowPath, Workload,
};
use backend_cpu::CpuBackend;
#[cfg(feature = "cuda")]
use backend_cuda::CudaBackend;

use crate::lower::Lower;
use crate::{Candidate, UnifiedTensor};

/// A backend chosen by [`init_backend`](crate::init_backend), or made of one with `From`.
///
/// It forwards every operation, fused ones too, to the backend that it holds.
#[derive(Debug)]
pub struct Backend {
    inner: Inner,
    report: Vec<Candidate>,
}

#[derive(Debug)]
enum Inner {
    Cpu(CpuBackend),
    #[cfg(feature = "cuda")]
    Cuda(CudaBackend),
}

/// A captured step of a [`Backend`].
#[derive(Debug, Default)]
pub struct Graph {
    cpu: <CpuBackend as KernelBackend>::Graph,
    #[cfg(feature = "cuda")]
    cuda: <CudaBackend as KernelBackend>::Graph,
}

impl From<CpuBackend> for Backend {
    fn from(cpu: CpuBackend) -> Self {
        Self::made(Inner::Cpu(cpu))
    }
}

#[cfg(feature = "cuda")]
impl From<CudaBackend> for Backend {
    fn from(cuda: CudaBackend) -> Self {
        Self::made(Inner::Cuda(cuda))
    }
}

impl Backend {
    fn made(inner: Inner) -> Self {
        Self { inner, report: Vec::new() }
    }

    pub(crate) fn with_report(self, report: Vec<Candidate>) -> Self {
        Self { report, ..self }
    }

    /// Each backend that was considered, in order of preference, and why it was taken or left; empty for a backend made with
    /// `From`.
    pub fn report(&self) -> &[Candidate] {
        &self.report
    }
}

/// Runs `$body` with `$b` as the inner backend.
macro_rules! inner {
    ($self:ident, $b:ident => $body:expr) => {
        match &$self.inner {
            Inner::Cpu($b) => $body,
            #[cfg(feature = "cuda")]
            Inner::Cuda($b) => $body,
        }
    };
}

/// Every operation, fused ones too, must stand here: one left out would be composed of others.
macro_rules! forward {
    ($($method:ident($op:ident);)*) => { $(
        fn $method(&self, op: Checked<$op<'_, UnifiedTensor>>) -> Result<()> {
            let op = op.on(self.device())?;
            inner!(self, b => b.$method(op.lower(b)?.check()?))
        }
    )* };
}

impl KernelBackend for Backend {
    type Tensor = UnifiedTensor;
    type Graph = Graph;

    fn name(&self) -> &str {
        inner!(self, b => b.name())
    }
    fn device(&self) -> DeviceId {
        inner!(self, b => b.device())
    }
    fn info(&self) -> DeviceInfo {
        inner!(self, b => b.info())
    }
    fn activation_dtype(&self, weights: DType) -> DType {
        inner!(self, b => b.activation_dtype(weights))
    }
    fn prefill_chunk(&self) -> usize {
        inner!(self, b => b.prefill_chunk())
    }
    fn prepare(&self, workload: &Workload) -> Result<()> {
        inner!(self, b => b.prepare(workload))
    }
    fn counters(&self) -> Counters {
        inner!(self, b => b.counters())
    }
    fn memory(&self) -> MemoryInfo {
        inner!(self, b => b.memory())
    }
    fn taken(&self, bytes: u64) -> u64 {
        inner!(self, b => b.taken(bytes))
    }
    fn overhead(&self, workload: &Workload) -> u64 {
        inner!(self, b => b.overhead(workload))
    }
    fn slow_paths(&self, workload: &Workload) -> Vec<SlowPath> {
        inner!(self, b => b.slow_paths(workload))
    }
    fn product_library(&self) -> Result<Option<String>> {
        inner!(self, b => b.product_library())
    }
    fn synchronize(&self) -> Result<()> {
        inner!(self, b => b.synchronize())
    }
    fn read_bandwidth(&self) -> Result<f64> {
        inner!(self, b => b.read_bandwidth())
    }
    fn alloc(&self, shape: &[usize], dtype: DType) -> Result<UnifiedTensor> {
        inner!(self, b => b.alloc(shape, dtype).map(UnifiedTensor::from))
    }
    fn upload(&self, shape: &[usize], dtype: DType, fill: Fill<'_>) -> Result<UnifiedTensor> {
        inner!(self, b => b.upload(shape, dtype, fill).map(UnifiedTensor::from))
    }
    fn write(&self, dst: &mut UnifiedTensor, offset: usize, src: &[u8]) -> Result<()> {
        inner!(self, b => b.write(dst.part_mut(b)?, offset, src))
    }
    fn read(&self, src: &UnifiedTensor, offset: usize, out: &mut [u8]) -> Result<()> {
        inner!(self, b => b.read(src.part(b)?, offset, out))
    }
    fn read_later(&self, src: &UnifiedTensor, offset: usize, len: usize) -> Result<Pending> {
        inner!(self, b => b.read_later(src.part(b)?, offset, len))
    }
    fn fill_random(&self, dst: &mut UnifiedTensor, seed: u64, scale: f32) -> Result<()> {
        inner!(self, b => b.fill_random(dst.part_mut(b)?, seed, scale))
    }
    fn chunk_rows(&self, rows: usize) -> Option<usize> {
        inner!(self, b => b.chunk_rows(rows))
    }
    fn step(
        &self,
        graph: &mut Graph,
        first: usize,
        body: &mut (dyn FnMut(&Self, Option<usize>) -> Result<()> + Send),
    ) -> Result<()> {
        match &self.inner {
            Inner::Cpu(b) => b.step(&mut graph.cpu, first, &mut |_, first| body(self, first)),
            #[cfg(feature = "cuda")]
            Inner::Cuda(b) => b.step(&mut graph.cuda, first, &mut |_, first| body(self, first)),
        }
    }

    forward! {
        matmul_into(Matmul);
        rmsnorm_into(RmsNorm);
        softmax_into(Softmax);
        silu_into(Silu);
        apply_rope_into(ApplyRope);
        compute_attention_scores_into(ComputeAttentionScores);
        weighted_sum_rows_into(WeightedSumRows);
        add_into(Add);
        mul_into(Mul);
        embed_into(Embed);
        append_rows_into(AppendRows);
        argmax_into(Argmax);
        sample_into(Sample);
        norm_qkv_rope_append(NormQkvRopeAppend);
        attention(Attention);
        norm_swiglu(NormSwiglu);
    }
}
