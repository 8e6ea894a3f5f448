use backend_api::Result;
use backend_api::ops::Softmax;

use crate::CpuTensor;
use crate::kernel::rowwise::softmax_assign;
use crate::tensor::in_place;

pub(crate) fn softmax(op: Softmax<'_, CpuTensor>) -> Result<()> {
    in_place(op.io, |rows| {
        softmax_assign(rows);
        Ok(())
    })
}
