//! Weighted sums of rows: attention's output from its probabilities.

use crate::op::{Check, cost};
use crate::{DeviceId, DeviceTensor, KernelBackend, Mat, MatMut, Op, Result};

/// `out[i, c] = Σ_j weights[i, j] · rows[j, c]`, accumulated in f32 or better.
#[derive(Debug)]
pub struct WeightedSumRows<'a, T> {
    /// `[m, n]`.
    pub weights: Mat<'a, T>,
    /// `[n, cols]`.
    pub rows: Mat<'a, T>,
    /// `[m, cols]`.
    pub out: MatMut<'a, T>,
}

impl<T: DeviceTensor> Op for WeightedSumRows<'_, T> {
    const NAME: &'static str = "weighted_sum_rows";

    fn validate(&self) -> Result<DeviceId> {
        let check = Check::new(Self::NAME, &self.weights);
        let (m, n, cols) = (self.weights.n_rows(), self.weights.n_cols(), self.rows.n_cols());
        check.float("weights", &self.weights, (m, n))?;
        check.float("rows", &self.rows, (n, cols))?;
        check.float("out", &self.out, (m, cols))?;
        check.done()
    }

    fn bytes(&self) -> u64 {
        self.weights.operand().bytes() + self.rows.operand().bytes() + self.out.operand().bytes()
    }

    fn flops(&self) -> u64 {
        cost(&[2, self.weights.n_rows(), self.weights.n_cols(), self.rows.n_cols()])
    }
}

pub(crate) fn weighted_sum_rows<B: KernelBackend>(
    b: &B,
    weights: &B::Tensor,
    rows: &B::Tensor,
) -> Result<B::Tensor> {
    let mut out = b.alloc(&[Mat::new(weights).n_rows(), Mat::new(rows).n_cols()], weights.dtype())?;
    let op = WeightedSumRows { weights: Mat::new(weights), rows: Mat::new(rows), out: MatMut::new(&mut out) };
    b.weighted_sum_rows_into(op.check()?)?;
    Ok(out)
}
