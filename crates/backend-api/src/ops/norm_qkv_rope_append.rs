//! The front of an attention layer as one operation.

use crate::op::{Check, cost};
use crate::ops::{AppendRows, ApplyRope, Matmul, RmsNorm, WeightLayout};
use crate::{At, DeviceId, DeviceTensor, Heads, Io, KernelBackend, Mat, MatMut, Op, Result};

/// `qkv = rmsnorm(x)·wᵀ`; queries and keys turned to their positions; keys and values written to the cache.
///
/// A row of `qkv` holds `n_heads` queries, `n_kv_heads` keys and `n_kv_heads` values. Afterwards its queries are turned;
/// its other columns, and `scratch`, are unspecified. Positions outside the tables or the cache have the results that
/// [`ApplyRope`] and [`AppendRows`] define.
#[derive(Debug)]
pub struct NormQkvRopeAppend<'a, T> {
    /// `[rows, hidden_size]`.
    pub x: Mat<'a, T>,
    /// Norm weight, `[1, hidden_size]`.
    pub norm: Mat<'a, T>,
    /// Of the norm.
    pub eps: f32,
    /// `[qkv_dim, hidden_size]`: rows of queries, keys, values.
    pub w: Mat<'a, T>,
    /// How a row divides into heads.
    pub heads: Heads,
    /// f32 `[positions, head_dim / 2]`.
    pub cos: Mat<'a, T>,
    /// f32 `[positions, head_dim / 2]`.
    pub sin: Mat<'a, T>,
    /// Positions of the rows.
    pub at: At<'a, T>,
    /// `[rows, qkv_dim]`.
    pub qkv: MatMut<'a, T>,
    /// Key cache, `[capacity, kv_dim]`.
    pub k: MatMut<'a, T>,
    /// Value cache, `[capacity, kv_dim]`.
    pub v: MatMut<'a, T>,
    /// `[rows, hidden_size]`.
    pub scratch: MatMut<'a, T>,
}

impl<T: DeviceTensor> Op for NormQkvRopeAppend<'_, T> {
    const NAME: &'static str = "norm_qkv_rope_append";

    fn validate(&self) -> Result<DeviceId> {
        let check = Check::new(Self::NAME, &self.x);
        check.heads(&self.heads)?;
        check.eps(self.eps)?;
        let (rows, hidden, capacity) = (self.x.n_rows(), self.x.n_cols(), self.k.n_rows());
        check.float("x", &self.x, (rows, hidden))?;
        check.float("norm", &self.norm, (1, hidden))?;
        check.float("w", &self.w, (self.heads.qkv_dim(), hidden))?;
        check.rotary(&self.cos, &self.sin, &self.at, (rows, self.heads.head_dim))?;
        check.float("qkv", &self.qkv, (rows, self.heads.qkv_dim()))?;
        check.float("k", &self.k, (capacity, self.heads.kv_dim()))?;
        check.float("v", &self.v, (capacity, self.heads.kv_dim()))?;
        check.float("scratch", &self.scratch, (rows, hidden))?;
        check.done()
    }

    fn bytes(&self) -> u64 {
        let rows = self.x.n_rows();
        let kv = self.k.operand().dtype.bytes(2 * self.heads.kv_dim()).unwrap_or(usize::MAX);
        self.x.operand().bytes()
            + self.norm.operand().bytes()
            + self.w.operand().bytes()
            + self.qkv.operand().bytes()
            + cost(&[rows, kv])
    }

    fn flops(&self) -> u64 {
        cost(&[2, self.x.n_rows(), self.x.n_cols(), self.heads.qkv_dim()])
    }
}

/// The operation in terms of the primitive ones.
///
/// # Errors
/// Those of the primitive operations.
pub fn compose<B: KernelBackend>(b: &B, op: NormQkvRopeAppend<'_, B::Tensor>) -> Result<()> {
    let NormQkvRopeAppend { x, norm, eps, w, heads, cos, sin, at, mut qkv, k, v, mut scratch } = op;
    b.rmsnorm_into(RmsNorm { io: Io::Into(x, scratch.by_ref()), weight: norm, eps }.check()?)?;
    let product =
        Matmul { x: scratch.as_mat(), w, out: qkv.by_ref(), accumulate: false, layout: WeightLayout::OutIn };
    b.matmul_into(product.check()?)?;
    let (q, kv) = (heads.q_dim(), heads.kv_dim());
    let io = Io::InPlace(qkv.by_ref().cols(0..q + kv)?);
    b.apply_rope_into(ApplyRope { io, cos, sin, at, head_dim: heads.head_dim }.check()?)?;
    b.append_rows_into(AppendRows { src: qkv.as_mat().cols(q..q + kv)?, dst: k, at }.check()?)?;
    b.append_rows_into(AppendRows { src: qkv.as_mat().cols(q + kv..q + 2 * kv)?, dst: v, at }.check()?)
}
