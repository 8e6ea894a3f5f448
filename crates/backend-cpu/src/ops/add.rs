use backend_api::Result;
use backend_api::ops::Add;

use crate::CpuTensor;
use crate::kernel::rowwise::{add_assign, for_each_row};
use crate::tensor::{Widened, in_place};

pub(crate) fn add(op: Add<'_, CpuTensor>) -> Result<()> {
    let y = Widened::new(op.y)?;
    let y = y.rows()?;
    in_place(op.io, |rows| {
        for_each_row(rows, |i, row| add_assign(row, y.row(i)));
        Ok(())
    })
}
