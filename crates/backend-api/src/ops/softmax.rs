//! Softmax over rows.

use crate::op::{Check, cost};
use crate::{DeviceId, DeviceTensor, Io, KernelBackend, Mat, MatMut, Op, Result};

/// `out[r, c] = exp(x[r, c] − max_c x[r, c]) / Σ_c exp(x[r, c] − max_c x[r, c])`. A row of −∞ alone, and a row with a NaN
/// or +∞, gives NaN.
#[derive(Debug)]
pub struct Softmax<'a, T> {
    /// `[rows, cols]` both.
    pub io: Io<'a, T>,
}

impl<T: DeviceTensor> Op for Softmax<'_, T> {
    const NAME: &'static str = "softmax";

    fn validate(&self) -> Result<DeviceId> {
        let (x, out) = self.io.operands();
        let check = Check::new(Self::NAME, &x);
        let shape = (x.window.rows, x.window.cols);
        check.float("x", &x, shape)?;
        check.float("out", &out, shape)?;
        check.done()
    }

    fn bytes(&self) -> u64 {
        let (x, out) = self.io.operands();
        x.bytes() + out.bytes()
    }

    fn flops(&self) -> u64 {
        cost(&[5, self.io.operands().0.window.elements()])
    }
}

pub(crate) fn softmax<B: KernelBackend>(b: &B, x: &B::Tensor) -> Result<B::Tensor> {
    let mut out = b.alloc(x.shape(), x.dtype())?;
    let io = Io::Into(Mat::new(x), MatMut::new(&mut out));
    b.softmax_into(Softmax { io }.check()?)?;
    Ok(out)
}
