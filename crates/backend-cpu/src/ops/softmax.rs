use backend_api::Result;
use backend_api::ops::Softmax;

use crate::CpuTensor;
use crate::kernel::rowwise::softmax_assign;
use crate::tensor::rowwise;

pub(crate) fn softmax(op: Softmax<'_, CpuTensor>) -> Result<()> {
    rowwise(op.io, |_, rows| softmax_assign(rows))
}
