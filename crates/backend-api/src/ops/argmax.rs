//! The most likely token.

use crate::op::{Check, cost};
use crate::{DType, DeviceId, DeviceTensor, KernelBackend, Mat, MatMut, Op, Result};

/// `id[r] = argmax_c logits[r, c]`, the lowest index of equal values; [`NO_ID`] for a row that has a NaN or no column.
/// Then, if `position` is given, `position[r] += 1`.
#[derive(Debug)]
pub struct Argmax<'a, T> {
    /// `[rows, vocab]`, vocab < 2^32.
    pub logits: Mat<'a, T>,
    /// u32 `[1, rows]`.
    pub id: MatMut<'a, T>,
    /// u32 `[1, rows]`.
    pub position: Option<MatMut<'a, T>>,
}

/// What [`Argmax`] and [`Sample`](super::Sample) write when the logits allow no choice.
pub const NO_ID: u32 = u32::MAX;

impl<T: DeviceTensor> Op for Argmax<'_, T> {
    const NAME: &'static str = "argmax";

    fn validate(&self) -> Result<DeviceId> {
        let check = Check::new(Self::NAME, &self.logits);
        let (rows, vocab) = (self.logits.n_rows(), self.logits.n_cols());
        check.float("logits", &self.logits, (rows, vocab))?;
        check.index("id", &self.id, (1, rows))?;
        if let Some(position) = &self.position {
            check.index("position", position, (1, rows))?;
        }
        check.fits_u32("logits", vocab)?;
        check.done()
    }

    fn bytes(&self) -> u64 {
        self.logits.operand().bytes() + self.id.operand().bytes()
    }

    fn flops(&self) -> u64 {
        cost(&[self.logits.n_rows(), self.logits.n_cols()])
    }
}

pub(crate) fn argmax<B: KernelBackend>(b: &B, logits: &B::Tensor) -> Result<B::Tensor> {
    let logits = Mat::new(logits);
    let mut id = b.alloc(&[logits.n_rows()], DType::U32)?;
    b.argmax_into(Argmax { logits, id: MatMut::vector(&mut id), position: None }.check()?)?;
    Ok(id)
}
