use backend_api::Result;
use backend_api::ops::ComputeAttentionScores;

use crate::CpuTensor;
use crate::kernel::gemm;
use crate::kernel::rowwise::for_each_row;
use crate::tensor::{Widened, floats, update, with_floats};

pub(crate) fn compute_attention_scores(op: ComputeAttentionScores<'_, CpuTensor>) -> Result<()> {
    let ComputeAttentionScores { q, k, scale, out } = op;
    let (q, k) = (Widened::new(q)?, floats(k)?);
    let q = q.rows()?;
    update(out, false, |mut out| {
        with_floats!(k, k => gemm::matmul(q, k, out.reborrow(), false));
        for_each_row(out, |_, row| row.iter_mut().for_each(|score| *score *= scale));
        Ok(())
    })
}
