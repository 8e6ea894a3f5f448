//! Attention scores of one head.

use crate::op::{Check, cost};
use crate::{DeviceId, DeviceTensor, KernelBackend, Mat, MatMut, Op, Result};

/// `out[i, j] = scale · Σ_c q[i, c] · k[j, c]`, accumulated in f32 or better.
#[derive(Debug)]
pub struct ComputeAttentionScores<'a, T> {
    /// Queries, `[rows, head_dim]`.
    pub q: Mat<'a, T>,
    /// Keys, `[keys, head_dim]`.
    pub k: Mat<'a, T>,
    /// Usually `1 / √head_dim`.
    pub scale: f32,
    /// `[rows, keys]`.
    pub out: MatMut<'a, T>,
}

impl<T: DeviceTensor> Op for ComputeAttentionScores<'_, T> {
    const NAME: &'static str = "compute_attention_scores";

    fn validate(&self) -> Result<DeviceId> {
        let check = Check::new(Self::NAME, &self.q);
        let (rows, dim, keys) = (self.q.n_rows(), self.q.n_cols(), self.k.n_rows());
        check.float("q", &self.q, (rows, dim))?;
        check.float("k", &self.k, (keys, dim))?;
        check.float("out", &self.out, (rows, keys))?;
        check.done()
    }

    fn bytes(&self) -> u64 {
        self.q.operand().bytes() + self.k.operand().bytes() + self.out.operand().bytes()
    }

    fn flops(&self) -> u64 {
        cost(&[2, self.q.n_rows(), self.q.n_cols(), self.k.n_rows()])
    }
}

pub(crate) fn compute_attention_scores<B: KernelBackend>(
    b: &B,
    q: &B::Tensor,
    k: &B::Tensor,
    scale: f32,
) -> Result<B::Tensor> {
    let mut out = b.alloc(&[Mat::new(q).n_rows(), Mat::new(k).n_rows()], q.dtype())?;
    let op = ComputeAttentionScores { q: Mat::new(q), k: Mat::new(k), scale, out: MatMut::new(&mut out) };
    b.compute_attention_scores_into(op.check()?)?;
    Ok(out)
}
