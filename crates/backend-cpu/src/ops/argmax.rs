//! One thread looks through the logits, which are few beside the weights that were read for them.

use backend_api::Result;
use backend_api::ops::{Argmax, NO_ID};

use crate::CpuTensor;
use crate::tensor::{Widened, integers_mut};

pub(crate) fn argmax(op: Argmax<'_, CpuTensor>) -> Result<()> {
    let Argmax { logits, id, position } = op;
    let logits = Widened::new(logits)?;
    let logits = logits.rows()?;
    let mut ids = integers_mut(id)?;
    for (row, id) in ids.row(0).iter_mut().enumerate() {
        *id = largest(logits.row(row)).unwrap_or(NO_ID);
    }
    if let Some(position) = position {
        integers_mut(position)?.row(0).iter_mut().for_each(|p| *p = p.wrapping_add(1));
    }
    Ok(())
}

/// The lowest index of the largest value; none if there is a NaN or nothing.
pub(crate) fn largest(row: &[f32]) -> Option<u32> {
    let max = row.iter().copied().reduce(|a, b| if b > a || b.is_nan() { b } else { a })?;
    row.iter().position(|v| *v == max).map(|i| i as u32).filter(|_| !row.iter().any(|v| v.is_nan()))
}
