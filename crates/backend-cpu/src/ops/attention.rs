use backend_api::Result;
use backend_api::ops::Attention;

use crate::CpuTensor;
use crate::kernel::attention::{Heads as KernelHeads, attention as attend};
use crate::tensor::{Floats, Widened, floats, integers, update};

pub(crate) fn attention(op: Attention<'_, CpuTensor>) -> Result<()> {
    let Attention { q, k, v, heads, window, at, out, .. } = op;
    let q = Widened::new(q)?;
    let (q, positions) = (q.rows()?, integers(at.positions)?.row(0));
    let scale = heads.scale();
    let heads = KernelHeads { n_heads: heads.n_heads, n_kv_heads: heads.n_kv_heads, head_dim: heads.head_dim };
    let (k_wide, v_wide);
    let (k, v) = match (floats(k)?, floats(v)?) {
        (k, v) if k.same_type(&v) => (k, v),
        _ => {
            (k_wide, v_wide) = (Widened::new(k)?, Widened::new(v)?);
            (Floats::F32(k_wide.rows()?), Floats::F32(v_wide.rows()?))
        }
    };
    update(out, false, |out| {
        match (k, v) {
            (Floats::F32(k), Floats::F32(v)) => attend(q, k, v, heads, scale, window, positions, out),
            (Floats::F16(k), Floats::F16(v)) => attend(q, k, v, heads, scale, window, positions, out),
            (Floats::BF16(k), Floats::BF16(v)) => attend(q, k, v, heads, scale, window, positions, out),
            _ => {}
        }
        Ok(())
    })
}
