use backend_api::Result;
use backend_api::ops::ApplyRope;

use crate::CpuTensor;
use crate::kernel::rowwise;
use crate::tensor::{Widened, in_place, integers};

pub(crate) fn apply_rope(op: ApplyRope<'_, CpuTensor>) -> Result<()> {
    let ApplyRope { io, cos, sin, at, head_dim } = op;
    let (cos, sin) = (Widened::new(cos)?, Widened::new(sin)?);
    let (cos, sin) = (cos.rows()?, sin.rows()?);
    let positions = integers(at.positions)?.row(0);
    in_place(io, |mut rows| {
        for (i, position) in positions.iter().enumerate() {
            let (row, p) = (rows.row(i), *position as usize);
            if p < cos.rows() {
                rowwise::rope(row, cos.row(p), sin.row(p), head_dim);
            } else {
                row.fill(f32::NAN);
            }
        }
        Ok(())
    })
}
