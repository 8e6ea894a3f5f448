use backend_api::Result;
use backend_api::ops::Mul;

use crate::CpuTensor;
use crate::kernel::rowwise::mul_assign;
use crate::tensor::elementwise;

pub(crate) fn mul(op: Mul<'_, CpuTensor>) -> Result<()> {
    elementwise(op.io, Some(op.y), mul_assign)
}
