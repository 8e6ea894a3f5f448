use backend_api::Result;
use backend_api::ops::WeightedSumRows;

use crate::CpuTensor;
use crate::kernel::gemm;
use crate::tensor::{Widened, floats, update, with_floats};

pub(crate) fn weighted_sum_rows(op: WeightedSumRows<'_, CpuTensor>) -> Result<()> {
    let WeightedSumRows { weights, rows, out } = op;
    let (weights, rows) = (Widened::new(weights)?, floats(rows)?);
    let weights = weights.rows()?;
    update(out, false, |out| {
        with_floats!(rows, rows => gemm::matmul_plain(weights, rows, out, false));
        Ok(())
    })
}
