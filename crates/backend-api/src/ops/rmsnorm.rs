//! Root-mean-square normalisation (Zhang & Sennrich 2019, arXiv:1910.07467).

use crate::op::{Check, cost};
use crate::{DeviceId, DeviceTensor, Io, KernelBackend, Mat, MatMut, Op, Result};

/// `out[r, c] = x[r, c] · weight[c] / √(mean_c(x[r, c]²) + eps)`.
#[derive(Debug)]
pub struct RmsNorm<'a, T> {
    /// `[rows, cols]` both.
    pub io: Io<'a, T>,
    /// `[1, cols]`.
    pub weight: Mat<'a, T>,
    /// Added to the mean of squares; finite, ≥ 0.
    pub eps: f32,
}

impl<T: DeviceTensor> Op for RmsNorm<'_, T> {
    const NAME: &'static str = "rmsnorm";

    fn validate(&self) -> Result<DeviceId> {
        let (x, out) = self.io.operands();
        let check = Check::new(Self::NAME, &x);
        let shape = (x.window.rows, x.window.cols);
        check.float("x", &x, shape)?;
        check.float("weight", &self.weight, (1, shape.1))?;
        check.float("out", &out, shape)?;
        check.eps(self.eps)?;
        check.done()
    }

    fn bytes(&self) -> u64 {
        let (x, out) = self.io.operands();
        x.bytes() + out.bytes() + self.weight.operand().bytes()
    }

    fn flops(&self) -> u64 {
        cost(&[4, self.io.operands().0.window.elements()])
    }
}

pub(crate) fn rmsnorm<B: KernelBackend>(
    b: &B,
    x: &B::Tensor,
    weight: &B::Tensor,
    eps: f32,
) -> Result<B::Tensor> {
    let mut out = b.alloc(x.shape(), x.dtype())?;
    let io = Io::Into(Mat::new(x), MatMut::new(&mut out));
    b.rmsnorm_into(RmsNorm { io, weight: Mat::vector(weight), eps }.check()?)?;
    Ok(out)
}
