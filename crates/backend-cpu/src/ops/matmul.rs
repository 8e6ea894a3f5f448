use backend_api::Result;
use backend_api::ops::{Matmul, WeightLayout};

use crate::CpuTensor;
use crate::kernel::gemm;
use crate::tensor::{Widened, floats, update, with_floats};

pub(crate) fn matmul(op: Matmul<'_, CpuTensor>) -> Result<()> {
    let Matmul { x, w, out, accumulate, layout } = op;
    let (x, w) = (Widened::new(x)?, floats(w)?);
    let x = x.rows()?;
    update(out, accumulate, |out| {
        with_floats!(w, w => match layout {
            WeightLayout::OutIn => gemm::matmul(x, w, out, accumulate),
            WeightLayout::InOut => gemm::matmul_plain(x, w, out, accumulate),
        });
        Ok(())
    })
}
