//! Queries are widened; keys and values are read as they are stored, or widened where they differ in type.

use backend_api::Result;
use backend_api::ops::Attention;

use crate::CpuTensor;
use crate::kernel::attention::{Inputs, attention as attend};
use crate::tensor::{Floats, Widened, floats, integers, update};

pub(crate) fn attention(op: Attention<'_, CpuTensor>) -> Result<()> {
    let Attention { q, k, v, heads, window, at, out, .. } = op;
    let q = Widened::new(q)?;
    let (q, positions) = (q.rows()?, integers(at.positions)?.row(0));
    let scale = heads.scale();
    let (k_wide, v_wide);
    let (k, v) = match (floats(k)?, floats(v)?) {
        (k_stored, v_stored) if k_stored.same_type(&v_stored) => (k_stored, v_stored),
        _ => {
            (k_wide, v_wide) = (Widened::new(k)?, Widened::new(v)?);
            (Floats::F32(k_wide.rows()?), Floats::F32(v_wide.rows()?))
        }
    };
    /// Runs with keys and values of one type, for each type that they can have.
    macro_rules! each {
        ($out:ident, $($variant:ident)*) => {
            match (k, v) {
                $((Floats::$variant(k), Floats::$variant(v)) => {
                    attend(Inputs { q, k, v, heads, scale, window, positions }, $out);
                })*
                _ => {}
            }
        };
    }
    update(out, false, |out| {
        each!(out, F32 F16 BF16);
        Ok(())
    })
}
