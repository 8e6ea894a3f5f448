//! Attention scores.

use crate::op::{Check, cost};
use crate::{DeviceId, DeviceTensor, Heads, KernelBackend, Mat, MatMut, Op, Result};

/// `out[r·n_heads + h, j] = scale · Σ_c q[r, h·head_dim + c] · k[j, (h / group)·head_dim + c]` with `group = n_heads / n_kv_heads`,
/// accumulated in f32 or better.
#[derive(Debug)]
pub struct ComputeAttentionScores<'a, T> {
    /// Queries, `[rows, n_heads · head_dim]`.
    pub q: Mat<'a, T>,
    /// Keys, `[keys, n_kv_heads · head_dim]`.
    pub k: Mat<'a, T>,
    /// How a row divides into heads, which may have any number of elements, none included.
    pub heads: Heads,
    /// Usually `1 / √head_dim`.
    pub scale: f32,
    /// `[rows · n_heads, keys]`: the heads of the first row, then those of the next.
    pub out: MatMut<'a, T>,
}

impl<T: DeviceTensor> Op for ComputeAttentionScores<'_, T> {
    const NAME: &'static str = "compute_attention_scores";

    fn validate(&self) -> Result<DeviceId> {
        let check = Check::new(Self::NAME, &self.q);
        let (rows, keys) = (self.q.n_rows(), self.k.n_rows());
        let of_heads = check.rows_of_heads(&self.heads, rows)?;
        check.float("q", &self.q, (rows, self.heads.q_dim()))?;
        check.float("k", &self.k, (keys, self.heads.kv_dim()))?;
        check.float("out", &self.out, (of_heads, keys))?;
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
    let (q, k) = (Mat::new(q), Mat::new(k));
    let heads = Heads::single(q.n_cols());
    let op = ComputeAttentionScores { q, k, heads, scale, out: MatMut::new(&mut out) };
    b.compute_attention_scores_into(op.check()?)?;
    Ok(out)
}
