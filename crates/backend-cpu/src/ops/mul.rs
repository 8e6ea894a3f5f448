use backend_api::Result;
use backend_api::ops::Mul;

use crate::CpuTensor;
use crate::kernel::rowwise::{mul_assign, for_each_row};
use crate::tensor::{Widened, in_place};

pub(crate) fn mul(op: Mul<'_, CpuTensor>) -> Result<()> {
    let y = Widened::new(op.y)?;
    let y = y.rows()?;
    in_place(op.io, |rows| {
        for_each_row(rows, |i, row| mul_assign(row, y.row(i)));
        Ok(())
    })
}
