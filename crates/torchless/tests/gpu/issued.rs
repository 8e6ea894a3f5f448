//! A backend without graphs.

use torchless::ops::*;
use torchless::{Checked, Counters, DType, DeviceId, DeviceInfo, Fill, KernelBackend, MemoryInfo, Result};

/// A backend whose steps are issued one operation after the other. If it is `plain`, fused operations are composed, and
/// activations are f32 beside weights of every type.
pub(crate) struct Issued<B> {
    pub(crate) inner: B,
    pub(crate) plain: bool,
}

macro_rules! forward {
    ($($method:ident($($name:ident: $type:ty),*) -> $out:ty;)*) => {
        $(fn $method(&self, $($name: $type),*) -> $out { self.inner.$method($($name),*) })*
    };
}

impl<B: KernelBackend> KernelBackend for Issued<B> {
    type Tensor = B::Tensor;
    type Graph = ();

    fn activation_dtype(&self, weights: DType) -> DType {
        if self.plain { DType::F32 } else { self.inner.activation_dtype(weights) }
    }

    forward! {
        name() -> &str;
        device() -> DeviceId;
        info() -> DeviceInfo;
        counters() -> Counters;
        memory() -> MemoryInfo;
        synchronize() -> Result<()>;
        read_bandwidth() -> Result<f64>;
        alloc(shape: &[usize], dtype: DType) -> Result<B::Tensor>;
        upload(shape: &[usize], dtype: DType, fill: Fill<'_>) -> Result<B::Tensor>;
        write(dst: &mut B::Tensor, offset: usize, src: &[u8]) -> Result<()>;
        read(src: &B::Tensor, offset: usize, out: &mut [u8]) -> Result<()>;
        fill_random(dst: &mut B::Tensor, seed: u64, scale: f32) -> Result<()>;
        matmul_into(op: Checked<Matmul<'_, B::Tensor>>) -> Result<()>;
        rmsnorm_into(op: Checked<RmsNorm<'_, B::Tensor>>) -> Result<()>;
        softmax_into(op: Checked<Softmax<'_, B::Tensor>>) -> Result<()>;
        silu_into(op: Checked<Silu<'_, B::Tensor>>) -> Result<()>;
        apply_rope_into(op: Checked<ApplyRope<'_, B::Tensor>>) -> Result<()>;
        compute_attention_scores_into(op: Checked<ComputeAttentionScores<'_, B::Tensor>>) -> Result<()>;
        weighted_sum_rows_into(op: Checked<WeightedSumRows<'_, B::Tensor>>) -> Result<()>;
        add_into(op: Checked<Add<'_, B::Tensor>>) -> Result<()>;
        mul_into(op: Checked<Mul<'_, B::Tensor>>) -> Result<()>;
        embed_into(op: Checked<Embed<'_, B::Tensor>>) -> Result<()>;
        append_rows_into(op: Checked<AppendRows<'_, B::Tensor>>) -> Result<()>;
        argmax_into(op: Checked<Argmax<'_, B::Tensor>>) -> Result<()>;
        sample_into(op: Checked<Sample<'_, B::Tensor>>) -> Result<()>;
    }

    fn step(
        &self,
        (): &mut (),
        first: usize,
        body: &mut (dyn FnMut(&Self, Option<usize>) -> Result<()> + Send),
    ) -> Result<()> {
        body(self, Some(first))
    }

    fn norm_qkv_rope_append(&self, op: Checked<NormQkvRopeAppend<'_, B::Tensor>>) -> Result<()> {
        match self.plain {
            true => norm_qkv_rope_append::compose(self, op.on(self.device())?),
            false => self.inner.norm_qkv_rope_append(op),
        }
    }
    fn attention(&self, op: Checked<Attention<'_, B::Tensor>>) -> Result<()> {
        match self.plain {
            true => attention::compose(self, op.on(self.device())?),
            false => self.inner.attention(op),
        }
    }
    fn norm_swiglu(&self, op: Checked<NormSwiglu<'_, B::Tensor>>) -> Result<()> {
        match self.plain {
            true => norm_swiglu::compose(self, op.on(self.device())?),
            false => self.inner.norm_swiglu(op),
        }
    }
}
