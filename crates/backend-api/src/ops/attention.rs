//! Causal attention over the cache.

use crate::op::{Check, cost};
use crate::ops::{ComputeAttentionScores, Softmax, WeightedSumRows};
use crate::{At, DeviceId, DeviceTensor, Heads, Io, KernelBackend, Mat, MatMut, Op, Result};

/// For each row at position `p` and each query head: `out = softmax(q·Kᵀ / √head_dim)·V` over the cached positions
/// `max(0, p + 1 − window) ..= p` (Vaswani et al. 2017; grouped queries: Ainslie et al. 2023, arXiv:2305.13245).
///
/// Positions beyond the cache see the cache's last row as their own. What the cache holds beyond a row's position has no
/// influence. `scratch` is unspecified afterwards.
#[derive(Debug)]
pub struct Attention<'a, T> {
    /// `[rows, n_heads · head_dim]`.
    pub q: Mat<'a, T>,
    /// Key cache, `[capacity, n_kv_heads · head_dim]`.
    pub k: Mat<'a, T>,
    /// Value cache, `[capacity, n_kv_heads · head_dim]`.
    pub v: Mat<'a, T>,
    /// How a row divides into heads.
    pub heads: Heads,
    /// How many positions a row sees, its own included; all if absent.
    pub window: Option<usize>,
    /// Positions of the rows.
    pub at: At<'a, T>,
    /// `[rows, n_heads · head_dim]`.
    pub out: MatMut<'a, T>,
    /// f32 `[n_heads, capacity]`.
    pub scratch: MatMut<'a, T>,
}

impl<T: DeviceTensor> Op for Attention<'_, T> {
    const NAME: &'static str = "attention";

    fn validate(&self) -> Result<DeviceId> {
        let check = Check::new(Self::NAME, &self.q);
        check.heads(&self.heads)?;
        let (rows, capacity) = (self.q.n_rows(), self.k.n_rows());
        check.float("q", &self.q, (rows, self.heads.q_dim()))?;
        check.float("k", &self.k, (capacity.max(1), self.heads.kv_dim()))?;
        check.float("v", &self.v, (capacity, self.heads.kv_dim()))?;
        check.index("positions", &self.at.positions, (1, rows))?;
        check.float("out", &self.out, (rows, self.heads.q_dim()))?;
        check.f32("scratch", &self.scratch, (self.heads.n_heads, capacity))?;
        check.fits_u32("k", capacity)?;
        if self.window == Some(0) {
            let reason = "attention: must be at least 1; leave it out to see all positions".into();
            return Err(crate::Error::Argument { name: "window", reason });
        }
        check.done()
    }

    fn bytes(&self) -> u64 {
        let keys = self.keys_seen().1;
        let row = self.k.operand().dtype.bytes(2 * self.heads.kv_dim()).unwrap_or(usize::MAX);
        self.q.operand().bytes() + self.out.operand().bytes() + cost(&[keys, row])
    }

    fn flops(&self) -> u64 {
        cost(&[4, self.keys_seen().0, self.heads.q_dim()])
    }
}

impl<T: DeviceTensor> Attention<'_, T> {
    /// Keys summed over the rows, and distinct keys; as if the cache were full where the host does not know better.
    fn keys_seen(&self) -> (usize, usize) {
        let (rows, capacity) = (self.q.n_rows(), self.k.n_rows());
        let window = self.window.unwrap_or(capacity).min(capacity);
        let first = self.at.first.unwrap_or(capacity.saturating_sub(rows));
        let seen = |row: usize| first.saturating_add(row + 1).min(window);
        let all = (0..rows).map(seen).sum();
        (all, first.saturating_add(rows).min(capacity).min(window + rows.saturating_sub(1)))
    }
}

/// The operation in terms of the primitive ones, a row at a time.
///
/// # Errors
/// [`Error::Captured`](crate::Error::Captured) inside a captured step, and those of the primitive operations.
pub fn compose<B: KernelBackend>(b: &B, op: Attention<'_, B::Tensor>) -> Result<()> {
    let Attention { q, k, v, heads, window, at, mut out, mut scratch } = op;
    let first = at.host_first("attention")?;
    for row in 0..q.n_rows() {
        let end = first.saturating_add(row + 1).min(k.n_rows());
        let begin = window.map_or(0, |w| end.saturating_sub(w));
        let mut scores = scratch.by_ref().cols(0..end - begin)?;
        let product = ComputeAttentionScores {
            q: q.rows(row..row + 1)?,
            k: k.rows(begin..end)?,
            heads,
            scale: heads.scale(),
            out: scores.by_ref(),
        };
        b.compute_attention_scores_into(product.check()?)?;
        b.softmax_into(Softmax { io: Io::InPlace(scores.by_ref()) }.check()?)?;
        let sum = WeightedSumRows {
            weights: scores.as_mat(),
            rows: v.rows(begin..end)?,
            heads,
            out: out.by_ref().rows(row..row + 1)?,
        };
        b.weighted_sum_rows_into(sum.check()?)?;
    }
    Ok(())
}
