//! Products with a weight matrix.

use crate::op::{Check, cost};
use crate::{DeviceId, DeviceTensor, KernelBackend, Mat, MatMut, Op, Result};

/// How the weights of a [`Matmul`] are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightLayout {
    /// `w` is `[n, k]`, a row per output, as models store it: `out = x·wᵀ`.
    #[default]
    OutIn,
    /// `w` is `[k, n]`: the plain product `out = x·w`.
    InOut,
}

/// `out[m, n] = Σ_k x[m, k] · w[n, k]`, accumulated in f32 or better.
#[derive(Debug)]
pub struct Matmul<'a, T> {
    /// `[m, k]`.
    pub x: Mat<'a, T>,
    /// `[n, k]`, or `[k, n]` with [`WeightLayout::InOut`].
    pub w: Mat<'a, T>,
    /// `[m, n]`.
    pub out: MatMut<'a, T>,
    /// Adds to what `out` holds (a residual) instead of overwriting it.
    pub accumulate: bool,
    /// How `w` is stored.
    pub layout: WeightLayout,
}

impl<T: DeviceTensor> Op for Matmul<'_, T> {
    const NAME: &'static str = "matmul";

    fn validate(&self) -> Result<DeviceId> {
        let check = Check::new(Self::NAME, &self.x);
        let (m, k, n) = (self.x.n_rows(), self.x.n_cols(), self.out.n_cols());
        check.float("x", &self.x, (m, k))?;
        let w = if self.layout == WeightLayout::OutIn { (n, k) } else { (k, n) };
        check.float("w", &self.w, w)?;
        check.float("out", &self.out, (m, n))?;
        check.done()
    }

    fn bytes(&self) -> u64 {
        let out = self.out.operand().bytes();
        self.x.operand().bytes() + self.w.operand().bytes() + out + if self.accumulate { out } else { 0 }
    }

    fn flops(&self) -> u64 {
        cost(&[2, self.x.n_rows(), self.x.n_cols(), self.out.n_cols()])
    }
}

/// `x [m, k]` times `w [n, k]` transposed, as `[m, n]` of `x`'s type.
pub(crate) fn matmul<B: KernelBackend>(b: &B, x: &B::Tensor, w: &B::Tensor) -> Result<B::Tensor> {
    run(b, Mat::new(x), &[Mat::new(x).n_rows(), Mat::new(w).n_rows()], w)
}

/// `w [n, k]` times the vector `x [k]`, as `[n]` of `x`'s type.
pub(crate) fn matmul_vec<B: KernelBackend>(b: &B, w: &B::Tensor, x: &B::Tensor) -> Result<B::Tensor> {
    run(b, Mat::vector(x), &[Mat::new(w).n_rows()], w)
}

fn run<B: KernelBackend>(b: &B, x: Mat<'_, B::Tensor>, shape: &[usize], w: &B::Tensor) -> Result<B::Tensor> {
    let mut out = b.alloc(shape, x.operand().dtype)?;
    let op = Matmul {
        x,
        w: Mat::new(w),
        out: MatMut::new(&mut out),
        accumulate: false,
        layout: WeightLayout::OutIn,
    };
    b.matmul_into(op.check()?)?;
    Ok(out)
}
