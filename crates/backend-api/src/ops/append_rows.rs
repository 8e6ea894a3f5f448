//! Rows written where their positions say: how keys and values enter the cache.

use crate::op::Check;
use crate::{At, DType, DeviceId, DeviceTensor, KernelBackend, Mat, MatMut, Op, Result};

/// `dst[at[i], c] = src[i, c]`, rounded to `dst`'s type. A row whose position lies outside `dst` is not written; of
/// rows with equal positions, one is. Both are float types, or both u32.
#[derive(Debug)]
pub struct AppendRows<'a, T> {
    /// `[n, cols]`.
    pub src: Mat<'a, T>,
    /// `[capacity, cols]`.
    pub dst: MatMut<'a, T>,
    /// Positions of the rows.
    pub at: At<'a, T>,
}

impl<T: DeviceTensor> Op for AppendRows<'_, T> {
    const NAME: &'static str = "append_rows";

    fn validate(&self) -> Result<DeviceId> {
        let check = Check::new(Self::NAME, &self.src);
        let (n, cols, capacity) = (self.src.n_rows(), self.src.n_cols(), self.dst.n_rows());
        if self.src.operand().dtype == DType::U32 {
            check.index("src", &self.src, (n, cols))?;
            check.index("dst", &self.dst, (capacity, cols))?;
        } else {
            check.float("src", &self.src, (n, cols))?;
            check.float("dst", &self.dst, (capacity, cols))?;
        }
        check.index("positions", &self.at.positions, (1, n))?;
        check.done()
    }

    fn bytes(&self) -> u64 {
        let row = self.dst.operand().dtype.bytes(self.dst.n_cols()).unwrap_or(usize::MAX) as u64;
        self.src.operand().bytes() + row * self.src.n_rows() as u64 + self.at.positions.operand().bytes()
    }

    fn flops(&self) -> u64 {
        0
    }
}

pub(crate) fn append_rows<B: KernelBackend>(
    b: &B,
    src: &B::Tensor,
    dst: &mut B::Tensor,
    positions: &B::Tensor,
) -> Result<()> {
    let at = At { positions: Mat::vector(positions), first: None, distinct: false };
    b.append_rows_into(AppendRows { src: Mat::new(src), dst: MatMut::new(dst), at }.check()?)
}
