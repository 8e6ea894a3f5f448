//! The backend that was chosen, itself a backend.

use backend_api::ops::*;
use backend_api::{
    Checked, Counters, DType, DeviceId, DeviceInfo, Fill, KernelBackend, MemoryInfo, Op, Result,
};
use backend_cpu::{CpuBackend, CpuTensor};

use crate::lower::Lower;
use crate::unified::Part;
use crate::{Candidate, UnifiedTensor};

/// A backend chosen by [`init_backend`](crate::init_backend).
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
}

/// A captured step of a [`Backend`].
#[derive(Debug, Default)]
pub struct Graph {
    cpu: <CpuBackend as KernelBackend>::Graph,
}

impl Backend {
    pub(crate) fn from_cpu(cpu: CpuBackend, report: Vec<Candidate>) -> Self {
        Self { inner: Inner::Cpu(cpu), report }
    }

    /// Each backend that was considered, in order of preference, and why it was taken or left.
    pub fn report(&self) -> &[Candidate] {
        &self.report
    }
}

/// Runs `$body` with `$b` as the inner backend.
macro_rules! inner {
    ($self:ident, $b:ident => $body:expr) => {
        match &$self.inner {
            Inner::Cpu($b) => $body,
        }
    };
}

/// Runs `$body` with `$b` as the inner backend and `$wrap` as the variant of its tensors.
macro_rules! inner_tensor {
    ($self:ident, $b:ident => $body:expr) => {
        match &$self.inner {
            Inner::Cpu($b) => $body.map(UnifiedTensor::Cpu),
        }
    };
}

/// Every operation, fused ones too, must stand here: one left out would be composed of others.
macro_rules! forward {
    ($($method:ident($op:ident);)*) => { $(
        fn $method(&self, op: Checked<$op<'_, UnifiedTensor>>) -> Result<()> {
            let op = op.on(self.device())?;
            match &self.inner {
                Inner::Cpu(b) => b.$method(Lower::<CpuTensor>::lower(op)?.check()?),
            }
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
    fn counters(&self) -> Counters {
        inner!(self, b => b.counters())
    }
    fn memory(&self) -> MemoryInfo {
        inner!(self, b => b.memory())
    }
    fn synchronize(&self) -> Result<()> {
        inner!(self, b => b.synchronize())
    }
    fn read_bandwidth(&self) -> Result<f64> {
        inner!(self, b => b.read_bandwidth())
    }
    fn alloc(&self, shape: &[usize], dtype: DType) -> Result<UnifiedTensor> {
        inner_tensor!(self, b => b.alloc(shape, dtype))
    }
    fn upload(&self, shape: &[usize], dtype: DType, fill: Fill<'_>) -> Result<UnifiedTensor> {
        inner_tensor!(self, b => b.upload(shape, dtype, fill))
    }
    fn write(&self, dst: &mut UnifiedTensor, offset: usize, src: &[u8]) -> Result<()> {
        inner!(self, b => b.write(Part::write(dst)?, offset, src))
    }
    fn read(&self, src: &UnifiedTensor, offset: usize, out: &mut [u8]) -> Result<()> {
        inner!(self, b => b.read(Part::read(src)?, offset, out))
    }
    fn fill_random(&self, dst: &mut UnifiedTensor, seed: u64, scale: f32) -> Result<()> {
        inner!(self, b => b.fill_random(Part::write(dst)?, seed, scale))
    }
    fn step(
        &self,
        graph: &mut Graph,
        first: usize,
        body: &mut (dyn FnMut(&Self, Option<usize>) -> Result<()> + Send),
    ) -> Result<()> {
        match &self.inner {
            Inner::Cpu(b) => b.step(&mut graph.cpu, first, &mut |_, first| body(self, first)),
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
