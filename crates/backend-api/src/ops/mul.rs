//! Elementwise product.

use crate::op::{Check, cost};
use crate::{DeviceId, DeviceTensor, Io, KernelBackend, Mat, MatMut, Op, Result};

/// `out = x · y`, elementwise.
#[derive(Debug)]
pub struct Mul<'a, T> {
    /// `x` and the output, `[rows, cols]` both.
    pub io: Io<'a, T>,
    /// `[rows, cols]`.
    pub y: Mat<'a, T>,
}

impl<T: DeviceTensor> Op for Mul<'_, T> {
    const NAME: &'static str = "mul";

    fn validate(&self) -> Result<DeviceId> {
        let (x, out) = self.io.operands();
        let check = Check::new(Self::NAME, &x);
        let shape = (x.window.rows, x.window.cols);
        check.float("x", &x, shape)?;
        check.float("y", &self.y, shape)?;
        check.float("out", &out, shape)?;
        check.done()
    }

    fn bytes(&self) -> u64 {
        let (x, out) = self.io.operands();
        x.bytes() + self.y.operand().bytes() + out.bytes()
    }

    fn flops(&self) -> u64 {
        cost(&[self.io.operands().0.window.elements()])
    }
}

pub(crate) fn mul<B: KernelBackend>(b: &B, x: &B::Tensor, y: &B::Tensor) -> Result<B::Tensor> {
    let mut out = b.alloc(x.shape(), x.dtype())?;
    let io = Io::Into(Mat::new(x), MatMut::new(&mut out));
    b.mul_into(Mul { io, y: Mat::new(y) }.check()?)?;
    Ok(out)
}
