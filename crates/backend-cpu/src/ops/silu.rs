use backend_api::Result;
use backend_api::ops::Silu;

use crate::CpuTensor;
use crate::kernel::rowwise::{for_each_row, silu_assign};
use crate::tensor::in_place;

pub(crate) fn silu(op: Silu<'_, CpuTensor>) -> Result<()> {
    in_place(op.io, |rows| {
        for_each_row(rows, |_, row| silu_assign(row));
        Ok(())
    })
}
