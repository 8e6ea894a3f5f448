use backend_api::Result;
use backend_api::ops::Add;

use crate::CpuTensor;
use crate::kernel::rowwise::add_assign;
use crate::tensor::elementwise;

pub(crate) fn add(op: Add<'_, CpuTensor>) -> Result<()> {
    elementwise(op.io, Some(op.y), add_assign)
}
