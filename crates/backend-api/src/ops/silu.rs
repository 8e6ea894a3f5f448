//! Sigmoid-weighted linear unit (Elfwing et al. 2017, arXiv:1702.03118).

use crate::op::{Check, cost};
use crate::{DeviceId, DeviceTensor, Io, KernelBackend, Mat, MatMut, Op, Result};

/// `out = x / (1 + exp(−x))`, elementwise.
#[derive(Debug)]
pub struct Silu<'a, T> {
    /// `[rows, cols]` both.
    pub io: Io<'a, T>,
}

impl<T: DeviceTensor> Op for Silu<'_, T> {
    const NAME: &'static str = "silu";

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
        cost(&[4, self.io.operands().0.window.elements()])
    }
}

pub(crate) fn silu<B: KernelBackend>(b: &B, x: &B::Tensor) -> Result<B::Tensor> {
    let mut out = b.alloc(x.shape(), x.dtype())?;
    let io = Io::Into(Mat::new(x), MatMut::new(&mut out));
    b.silu_into(Silu { io }.check()?)?;
    Ok(out)
}
