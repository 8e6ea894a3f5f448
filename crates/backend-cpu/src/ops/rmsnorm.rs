use backend_api::Result;
use backend_api::ops::RmsNorm;

use crate::CpuTensor;
use crate::kernel::rowwise::rmsnorm_assign;
use crate::tensor::{Widened, rowwise};

pub(crate) fn rmsnorm(op: RmsNorm<'_, CpuTensor>) -> Result<()> {
    let RmsNorm { io, weight, eps } = op;
    let weight = Widened::new(weight)?;
    let weight = weight.rows()?.row(0);
    rowwise(io, |_, rows| rmsnorm_assign(rows, weight, eps))
}
