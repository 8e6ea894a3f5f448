use backend_api::Result;
use backend_api::ops::RmsNorm;

use crate::CpuTensor;
use crate::kernel::rowwise::rmsnorm_assign;
use crate::tensor::{floats, in_place, with_floats};

pub(crate) fn rmsnorm(op: RmsNorm<'_, CpuTensor>) -> Result<()> {
    let RmsNorm { io, weight, eps } = op;
    let weight = floats(weight)?;
    in_place(io, |rows| {
        with_floats!(weight, weight => rmsnorm_assign(rows, weight.row(0), eps));
        Ok(())
    })
}
