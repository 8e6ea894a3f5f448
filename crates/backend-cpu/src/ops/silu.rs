use backend_api::Result;
use backend_api::ops::Silu;

use crate::CpuTensor;
use crate::kernel::rowwise::silu_assign;
use crate::tensor::elementwise;

pub(crate) fn silu(op: Silu<'_, CpuTensor>) -> Result<()> {
    elementwise(op.io, None, |x, _| silu_assign(x))
}
