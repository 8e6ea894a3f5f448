//! A backend without graphs.

use torchless::ops::*;
use torchless::{Checked, DType, KernelBackend, Result};

/// A backend whose steps are issued one operation after the other. If it is `plain`, fused operations are composed, and
/// activations are f32 beside weights of every type.
pub(crate) struct Issued<B> {
    pub(crate) inner: B,
    pub(crate) plain: bool,
}

impl<B: KernelBackend> KernelBackend for Issued<B> {
    type Tensor = B::Tensor;

    fn activation_dtype(&self, weights: DType) -> DType {
        if self.plain { DType::F32 } else { self.inner.activation_dtype(weights) }
    }

    conformance::forward! { inner:
        matmul_into(Matmul), rmsnorm_into(RmsNorm), softmax_into(Softmax), silu_into(Silu),
        apply_rope_into(ApplyRope), compute_attention_scores_into(ComputeAttentionScores),
        weighted_sum_rows_into(WeightedSumRows), add_into(Add), mul_into(Mul), embed_into(Embed),
        append_rows_into(AppendRows), argmax_into(Argmax), sample_into(Sample)
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
