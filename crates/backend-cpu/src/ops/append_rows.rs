//! Rows are converted one at a time; one whose position is beyond the end is left out.

use backend_api::ops::AppendRows;
use backend_api::{DType, Result};

use crate::CpuTensor;
use crate::kernel::element::Element;
use crate::kernel::rows::{Rows, RowsMut};
use crate::tensor::{FloatsMut, copy, floats, floats_mut, integers, integers_mut, with_floats};

pub(crate) fn append_rows(op: AppendRows<'_, CpuTensor>) -> Result<()> {
    let AppendRows { src, dst, at } = op;
    let positions = integers(at.positions)?.row(0);
    if src.operand().dtype == DType::U32 {
        scatter(integers(src)?, positions, integers_mut(dst)?, |from, to| to.copy_from_slice(from));
        return Ok(());
    }
    let src = floats(src)?;
    match floats_mut(dst)? {
        FloatsMut::F32(dst) => with_floats!(src, src => convert(src, positions, dst)),
        FloatsMut::F16(dst) => with_floats!(src, src => convert(src, positions, dst)),
        FloatsMut::BF16(dst) => with_floats!(src, src => convert(src, positions, dst)),
    }
    Ok(())
}

fn convert<A: Element, B: Element>(src: Rows<'_, A>, positions: &[u32], dst: RowsMut<'_, B>) {
    scatter(src, positions, dst, copy);
}

fn scatter<A, B>(
    src: Rows<'_, A>,
    positions: &[u32],
    mut dst: RowsMut<'_, B>,
    copy: impl Fn(&[A], &mut [B]),
) {
    for (i, position) in positions.iter().enumerate() {
        let p = *position as usize;
        if p < dst.rows() {
            copy(src.row(i), dst.row(p));
        }
    }
}
