//! Norm and product go through the caller's scratch; the activation runs while the result is written.

use backend_api::ops::{Matmul, NormSwiglu, RmsNorm, WeightLayout};
use backend_api::{Io, Result};

use super::{matmul, rmsnorm};
use crate::CpuTensor;
use crate::kernel::rowwise::{for_each_row, swiglu};
use crate::tensor::{Widened, update};

pub(crate) fn norm_swiglu(op: NormSwiglu<'_, CpuTensor>) -> Result<()> {
    let NormSwiglu { x, norm, eps, w, out, mut scratch, mut gate_up } = op;
    rmsnorm(RmsNorm { io: Io::Into(x, scratch.by_ref()), weight: norm, eps })?;
    let (layout, accumulate) = (WeightLayout::OutIn, false);
    matmul(Matmul { x: scratch.as_mat(), w, out: gate_up.by_ref(), accumulate, layout })?;
    let gate_up = Widened::new(gate_up.as_mat())?;
    let gate_up = gate_up.rows()?;
    update(out, false, |out| {
        let ffn = out.cols();
        for_each_row(out, |i, row| {
            let (gate, up) = gate_up.row(i).split_at(ffn);
            swiglu(gate, up, row);
        });
        Ok(())
    })
}
