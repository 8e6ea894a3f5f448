use backend_api::Result;
use backend_api::ops::RmsNorm;

use crate::CpuTensor;
use crate::kernel::rowwise;
use crate::tensor::{Widened, in_place};

pub(crate) fn rmsnorm(op: RmsNorm<'_, CpuTensor>) -> Result<()> {
    let RmsNorm { io, weight, eps } = op;
    let weight = Widened::new(weight)?;
    let weight = weight.rows()?.row(0);
    in_place(io, |rows| {
        rowwise::rmsnorm(rows, weight, eps);
        Ok(())
    })
}
