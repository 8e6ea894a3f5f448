//! Weighted sums of rows: attention's output from its probabilities.

use crate::op::{Check, cost};
use crate::{DeviceId, DeviceTensor, Heads, KernelBackend, Mat, MatMut, Op, Result};

/// `out[i, h·cols + c] = Σ_j weights[i·n_heads + h, j] · rows[j, (h / group)·cols + c]` with `cols = head_dim` and
/// `group = n_heads / n_kv_heads`, accumulated in f32 or better.
#[derive(Debug)]
pub struct WeightedSumRows<'a, T> {
    /// `[m · n_heads, n]`: the heads of the first row of `out`, then those of the next.
    pub weights: Mat<'a, T>,
    /// `[n, n_kv_heads · cols]`.
    pub rows: Mat<'a, T>,
    /// How a row divides into heads, which may have any number of elements, none included.
    pub heads: Heads,
    /// `[m, n_heads · cols]`.
    pub out: MatMut<'a, T>,
}

impl<T: DeviceTensor> Op for WeightedSumRows<'_, T> {
    const NAME: &'static str = "weighted_sum_rows";

    fn validate(&self) -> Result<DeviceId> {
        let check = Check::new(Self::NAME, &self.weights);
        let (m, n) = (self.out.n_rows(), self.weights.n_cols());
        let of_heads = check.rows_of_heads(&self.heads, m)?;
        check.float("weights", &self.weights, (of_heads, n))?;
        check.float("rows", &self.rows, (n, self.heads.kv_dim()))?;
        check.float("out", &self.out, (m, self.heads.q_dim()))?;
        check.done()
    }

    fn bytes(&self) -> u64 {
        self.weights.operand().bytes() + self.rows.operand().bytes() + self.out.operand().bytes()
    }

    fn flops(&self) -> u64 {
        cost(&[2, self.weights.n_rows(), self.weights.n_cols(), self.heads.head_dim])
    }
}

pub(crate) fn weighted_sum_rows<B: KernelBackend>(
    b: &B,
    weights: &B::Tensor,
    rows: &B::Tensor,
) -> Result<B::Tensor> {
    let mut out = b.alloc(&[Mat::new(weights).n_rows(), Mat::new(rows).n_cols()], weights.dtype())?;
    let (weights, rows) = (Mat::new(weights), Mat::new(rows));
    let heads = Heads::single(rows.n_cols());
    let op = WeightedSumRows { weights, rows, heads, out: MatMut::new(&mut out) };
    b.weighted_sum_rows_into(op.check()?)?;
    Ok(out)
}
