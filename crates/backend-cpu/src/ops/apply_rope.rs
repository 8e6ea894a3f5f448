//! Heads are turned in place, in f32; a row whose position is beyond the tables becomes NaN.

use backend_api::Result;
use backend_api::ops::ApplyRope;

use crate::CpuTensor;
use crate::kernel::rowwise::{for_each_row, rotate_heads};
use crate::tensor::{Widened, integers, rowwise};

pub(crate) fn apply_rope(op: ApplyRope<'_, CpuTensor>) -> Result<()> {
    let ApplyRope { io, cos, sin, at, .. } = op;
    let (cos, sin) = (Widened::new(cos)?, Widened::new(sin)?);
    let (cos, sin) = (cos.rows()?, sin.rows()?);
    let positions = integers(at.positions)?.row(0);
    rowwise(io, |first, rows| {
        for_each_row(rows, |i, row| match positions.get(first + i).map(|p| *p as usize) {
            Some(p) if p < cos.rows() => rotate_heads(row, cos.row(p), sin.row(p)),
            _ => row.fill(f32::NAN),
        });
    })
}
