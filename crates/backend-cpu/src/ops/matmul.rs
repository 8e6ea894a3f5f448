//! Inputs are widened and results narrowed a block of rows at a time; weights are read as they are stored.

use backend_api::Result;
use backend_api::ops::{Matmul, WeightLayout};

use crate::CpuTensor;
use crate::kernel::gemm;
use crate::tensor::{Widened, floats, update, with_floats};

/// Rows that are widened, packed and narrowed at a time: far more than a prompt's chunk has.
const ROWS: usize = 1 << 16;

pub(crate) fn matmul(op: Matmul<'_, CpuTensor>) -> Result<()> {
    let Matmul { x, w, mut out, accumulate, layout } = op;
    let (m, w) = (x.n_rows(), floats(w)?);
    for first in (0..m.max(1)).step_by(ROWS) {
        let rows = first..m.min(first + ROWS);
        let x = Widened::new(x.rows(rows.clone())?)?;
        let x = x.rows()?;
        update(out.by_ref().rows(rows)?, accumulate, |out| {
            with_floats!(w, w => match layout {
                WeightLayout::OutIn => gemm::matmul(x, w, out, accumulate),
                WeightLayout::InOut => gemm::matmul_plain(x, w, out, accumulate),
            });
            Ok(())
        })?;
    }
    Ok(())
}
