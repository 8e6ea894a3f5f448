//! Rows are converted one at a time; an id outside the table gives a row of NaN.

use backend_api::Result;
use backend_api::ops::Embed;

use crate::CpuTensor;
use crate::kernel::element::Element;
use crate::kernel::rows::{Rows, RowsMut};
use crate::tensor::{FloatsMut, copy, floats, floats_mut, integers, with_floats};

pub(crate) fn embed(op: Embed<'_, CpuTensor>) -> Result<()> {
    let Embed { table, ids, out } = op;
    let (table, ids) = (floats(table)?, integers(ids)?.row(0));
    match floats_mut(out)? {
        FloatsMut::F32(out) => with_floats!(table, table => gather(table, ids, out)),
        FloatsMut::F16(out) => with_floats!(table, table => gather(table, ids, out)),
        FloatsMut::BF16(out) => with_floats!(table, table => gather(table, ids, out)),
    }
    Ok(())
}

fn gather<A: Element, B: Element>(table: Rows<'_, A>, ids: &[u32], mut out: RowsMut<'_, B>) {
    for (i, id) in ids.iter().enumerate() {
        let id = *id as usize;
        if id < table.rows() {
            copy(table.row(id), out.row(i));
        } else {
            out.row(i).fill(B::from_f32(f32::NAN));
        }
    }
}
