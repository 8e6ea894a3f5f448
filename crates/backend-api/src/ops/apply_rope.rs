//! Rotary position embedding (Su et al. 2021, arXiv:2104.09864) in the half-split layout.

use crate::op::{Check, cost};
use crate::{At, DeviceId, DeviceTensor, Io, KernelBackend, Mat, MatMut, Op, Result};

/// Turns each head of `head_dim` elements by its row's position `p`; with `h = head_dim / 2` and `i < h`:
/// `out[i] = x[i]·cos[p, i] − x[i + h]·sin[p, i]`, `out[i + h] = x[i + h]·cos[p, i] + x[i]·sin[p, i]`.
/// A row whose position lies outside the tables becomes NaN.
#[derive(Debug)]
pub struct ApplyRope<'a, T> {
    /// `[rows, heads · head_dim]` both.
    pub io: Io<'a, T>,
    /// f32 `[positions, head_dim / 2]`.
    pub cos: Mat<'a, T>,
    /// f32 `[positions, head_dim / 2]`.
    pub sin: Mat<'a, T>,
    /// Positions of the rows.
    pub at: At<'a, T>,
    /// Elements of a head; even.
    pub head_dim: usize,
}

impl<T: DeviceTensor> Op for ApplyRope<'_, T> {
    const NAME: &'static str = "apply_rope";

    fn validate(&self) -> Result<DeviceId> {
        let (x, out) = self.io.operands();
        let check = Check::new(Self::NAME, &x);
        let (rows, cols) = (x.window.rows, x.window.cols);
        check.rotary(&self.cos, &self.sin, &self.at, (rows, self.head_dim))?;
        check.float("x", &x, (rows, cols.next_multiple_of(self.head_dim)))?;
        check.float("out", &out, (rows, cols))?;
        check.done()
    }

    fn bytes(&self) -> u64 {
        let (x, out) = self.io.operands();
        x.bytes() + out.bytes() + cost(&[4, x.window.rows, self.head_dim])
    }

    fn flops(&self) -> u64 {
        cost(&[3, self.io.operands().0.window.elements()])
    }
}

pub(crate) fn apply_rope<B: KernelBackend>(
    b: &B,
    x: &B::Tensor,
    (cos, sin): (&B::Tensor, &B::Tensor),
    positions: &B::Tensor,
    head_dim: usize,
) -> Result<B::Tensor> {
    let mut out = b.alloc(x.shape(), x.dtype())?;
    let io = Io::Into(Mat::new(x), MatMut::new(&mut out));
    let at = At { positions: Mat::vector(positions), first: None, distinct: false };
    b.apply_rope_into(ApplyRope { io, cos: Mat::new(cos), sin: Mat::new(sin), at, head_dim }.check()?)?;
    Ok(out)
}
