//! The front of a feed-forward layer as one operation (SwiGLU: Shazeer 2020, arXiv:2002.05202).

use crate::op::{Check, cost};
use crate::ops::{Matmul, Mul, RmsNorm, Silu, WeightLayout};
use crate::{DeviceId, DeviceTensor, Io, KernelBackend, Mat, MatMut, Op, Result};

/// `out = silu(h·gateᵀ) · (h·upᵀ)` with `h = rmsnorm(x)`. `scratch` and `gate_up` are unspecified afterwards.
#[derive(Debug)]
pub struct NormSwiglu<'a, T> {
    /// `[rows, hidden_size]`.
    pub x: Mat<'a, T>,
    /// Norm weight, `[1, hidden_size]`.
    pub norm: Mat<'a, T>,
    /// Of the norm.
    pub eps: f32,
    /// `[2 · intermediate_size, hidden_size]`: the rows of gate, then those of up.
    pub w: Mat<'a, T>,
    /// `[rows, intermediate_size]`.
    pub out: MatMut<'a, T>,
    /// `[rows, hidden_size]`.
    pub scratch: MatMut<'a, T>,
    /// `[rows, 2 · intermediate_size]`.
    pub gate_up: MatMut<'a, T>,
}

impl<T: DeviceTensor> Op for NormSwiglu<'_, T> {
    const NAME: &'static str = "norm_swiglu";

    fn validate(&self) -> Result<DeviceId> {
        let check = Check::new(Self::NAME, &self.x);
        check.eps(self.eps)?;
        let (rows, hidden, ffn) = (self.x.n_rows(), self.x.n_cols(), self.out.n_cols());
        check.float("x", &self.x, (rows, hidden))?;
        check.float("norm", &self.norm, (1, hidden))?;
        check.float("w", &self.w, (ffn.saturating_mul(2), hidden))?;
        check.float("out", &self.out, (rows, ffn))?;
        check.float("scratch", &self.scratch, (rows, hidden))?;
        check.float("gate_up", &self.gate_up, (rows, ffn.saturating_mul(2)))?;
        check.done()
    }

    fn bytes(&self) -> u64 {
        self.x.operand().bytes()
            + self.norm.operand().bytes()
            + self.w.operand().bytes()
            + self.out.operand().bytes()
    }

    fn flops(&self) -> u64 {
        cost(&[2, self.x.n_rows(), self.w.n_rows(), self.x.n_cols()])
    }
}

/// The operation in terms of the primitive ones.
///
/// # Errors
/// Those of the primitive operations.
pub fn compose<B: KernelBackend>(b: &B, op: NormSwiglu<'_, B::Tensor>) -> Result<()> {
    let NormSwiglu { x, norm, eps, w, out, mut scratch, mut gate_up } = op;
    let ffn = out.n_cols();
    b.rmsnorm_into(RmsNorm { io: Io::Into(x, scratch.by_ref()), weight: norm, eps }.check()?)?;
    let product = Matmul {
        x: scratch.as_mat(),
        w,
        out: gate_up.by_ref(),
        accumulate: false,
        layout: WeightLayout::OutIn,
    };
    b.matmul_into(product.check()?)?;
    b.silu_into(Silu { io: Io::InPlace(gate_up.by_ref().cols(0..ffn)?) }.check()?)?;
    let gate_up = gate_up.as_mat();
    let io = Io::Into(gate_up.cols(0..ffn)?, out);
    b.mul_into(Mul { io, y: gate_up.cols(ffn..2 * ffn)? }.check()?)
}
