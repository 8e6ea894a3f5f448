use backend_api::Result;
use backend_api::ops::Silu;

use crate::CpuTensor;
use crate::kernel::rowwise;
use crate::tensor::in_place;

pub(crate) fn silu(op: Silu<'_, CpuTensor>) -> Result<()> {
    in_place(op.io, |rows| {
        rowwise::silu(rows);
        Ok(())
    })
}
