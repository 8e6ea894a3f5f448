//! Rows of an embedding table.

use crate::op::Check;
use crate::{DeviceId, DeviceTensor, KernelBackend, Mat, MatMut, Op, Result};

/// `out[i, c] = table[ids[i], c]`. A row whose id lies outside the table becomes NaN.
#[derive(Debug)]
pub struct Embed<'a, T> {
    /// `[vocab, cols]`.
    pub table: Mat<'a, T>,
    /// u32 `[1, n]`.
    pub ids: Mat<'a, T>,
    /// `[n, cols]`.
    pub out: MatMut<'a, T>,
}

impl<T: DeviceTensor> Op for Embed<'_, T> {
    const NAME: &'static str = "embed";

    fn validate(&self) -> Result<DeviceId> {
        let check = Check::new(Self::NAME, &self.table);
        let (vocab, cols, n) = (self.table.n_rows(), self.table.n_cols(), self.out.n_rows());
        check.float("table", &self.table, (vocab, cols))?;
        check.index("ids", &self.ids, (1, n))?;
        check.float("out", &self.out, (n, cols))?;
        check.done()
    }

    fn bytes(&self) -> u64 {
        let row = self.table.operand().dtype.bytes(self.table.n_cols()).unwrap_or(usize::MAX) as u64;
        self.ids.operand().bytes() + self.out.operand().bytes() + row * self.out.n_rows() as u64
    }

    fn flops(&self) -> u64 {
        0
    }
}

pub(crate) fn embed<B: KernelBackend>(b: &B, table: &B::Tensor, ids: &B::Tensor) -> Result<B::Tensor> {
    let ids = Mat::vector(ids);
    let mut out = b.alloc(&[ids.n_cols(), Mat::new(table).n_cols()], table.dtype())?;
    b.embed_into(Embed { table: Mat::new(table), ids, out: MatMut::new(&mut out) }.check()?)?;
    Ok(out)
}
