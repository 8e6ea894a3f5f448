//! Products on tensor cores, and what follows one directly, by our own kernels.
#![expect(unsafe_code, reason = "launches")]

use backend_api::ops::{Matmul, WeightLayout};
use backend_api::{DType, Mat, MatMut, Result};

use crate::blas;
use crate::kernels::archive::Target;
use crate::kernels::{matmul_mma, matmul_wgmma, swiglu_wgmma};
use crate::launch::Out;
use crate::ops::{dtype, is_half, launched};
use crate::tensor::{aligned, read, write};
use crate::tensor_map::TensorMap;
use crate::{CudaBackend, CudaTensor};

/// A kernel for such a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// `mma.sync`, from compute capability 8.0 on.
    Mma,
    /// `wgmma`, on [`Target::HOPPER`].
    Wgmma,
}

/// The kernel for a product of many rows, if there is one for its types, its layout and the card.
pub(crate) fn choose(on: Target, op: &Matmul<'_, CudaTensor>) -> Option<Kernel> {
    let (x, w, out) = (op.x.operand().dtype, op.w.operand().dtype, op.out.operand().dtype);
    let typed = is_half(x) && w == x && (out == x || out == DType::F32);
    let even = op.x.n_cols().is_multiple_of(8)
        && (op.layout == WeightLayout::OutIn || op.out.n_cols().is_multiple_of(8));
    if !(typed && even && aligned(&op.x) && aligned(&op.w)) {
        return None;
    }
    match on.capability {
        _ if on == Target::HOPPER => Some(Kernel::Wgmma),
        (8.., _) => Some(Kernel::Mma),
        _ => None,
    }
}

/// Runs a product by the kernel that [`choose`] names.
pub(crate) fn matmul(b: &CudaBackend, op: Matmul<'_, CudaTensor>, kernel: Kernel) -> Result<()> {
    let Matmul { x, w, mut out, accumulate, layout } = op;
    let scalar = x.operand().dtype;
    let wide_out = u32::from(out.operand().dtype != scalar);
    let (m, n, k) = (x.n_rows() as u64, out.n_cols() as u64, x.n_cols() as u64);
    // A row alone may have any stride, but copies want even the addresses of rows that are not there to be aligned.
    let [x_stride, w_stride] = [&x, &w].map(|m| if m.n_rows() == 1 { 0 } else { m.window().stride as u64 });
    let ((x, _), (w, _), (out, out_stride)) = (read(&x), read(&w), write(&mut out));
    let (plain, accumulate) = (u32::from(layout == WeightLayout::InOut), u32::from(accumulate));
    let multiprocessors = b.inner.device.multiprocessors;
    let done = match kernel {
        Kernel::Wgmma => {
            let (grid, cluster) = matmul_wgmma::grid(m, n, k, multiprocessors);
            let mut launch = b.launch("matmul_wgmma", scalar, scalar, grid)?;
            launch.cluster = cluster;
            let args = matmul_wgmma::Args {
                out,
                out_stride,
                x,
                x_stride,
                w,
                w_stride,
                m,
                n,
                k,
                plain,
                accumulate,
                wide_out,
            };
            // SAFETY: the operands are windows of tensors of these types, checked to have this extent; `choose` saw to the rest.
            unsafe { args.launch(launch) }
        }
        Kernel::Mma => {
            let division = matmul_mma::division(m, n, k, multiprocessors);
            let parts = if division.shared > 0 { matmul_mma::parts(multiprocessors) } else { 0 };
            let scratch = b.scratch(parts * size_of::<f32>())?;
            let launch = b.launch("matmul_mma", scalar, scalar, division.grid)?;
            let args = matmul_mma::Args {
                out,
                out_stride,
                x,
                x_stride,
                w,
                w_stride,
                m,
                n,
                k,
                plain,
                accumulate,
                wide_out,
                shared: division.shared,
                parts: Out::new(scratch.address(), parts),
                counters: b.arrivals(),
            };
            // SAFETY: the operands are windows of tensors of these types, checked to have this extent; `choose` saw to the rest.
            // The scratch belongs to the backend, and the stream lets one launch at a time use it.
            unsafe { args.launch(launch) }
        }
    };
    launched("matmul", done)
}

/// Rows from which on both blocks of a cluster have some.
const LEAST_ROWS: usize = 129;

/// The share of work in outputs from which on a product that goes on to SwiGLU beats cuBLAS's, which has more shapes of tiles,
/// followed by a kernel of its own: with 97 % it is 5 % faster, with 85 % it was 8 % slower.
const USEFUL: f64 = 0.93;

/// `silu(x · gateᵀ) · (x · upᵀ)` in one kernel, with gate and up one after the other in `w`; false if there is none for the
/// types and the card, or two are faster, having queued nothing.
pub(crate) fn swiglu(
    b: &CudaBackend,
    x: &Mat<'_, CudaTensor>,
    w: &Mat<'_, CudaTensor>,
    out: &mut MatMut<'_, CudaTensor>,
) -> Result<bool> {
    let (scalar, device) = (dtype(x), &b.inner.device);
    let typed = is_half(scalar) && dtype(w) == scalar && out.operand().dtype == scalar;
    let sized = x.n_rows() >= LEAST_ROWS && x.n_cols() > 0 && i32::try_from(w.n_rows()).is_ok();
    let (m, ffn, k) = (x.n_rows() as u64, out.n_cols() as u64, x.n_cols() as u64);
    let grid = swiglu_wgmma::grid(m, ffn, device.multiprocessors);
    let Some((grid, useful)) = grid.filter(|_| device.target == Target::HOPPER && typed && sized) else {
        return Ok(false);
    };
    if useful < USEFUL && blas::is_there(b) {
        return Ok(false);
    }
    let [rows, outputs] = swiglu_wgmma::BOXES;
    let (Some(x), Some(w)) = (TensorMap::new(x, rows), TensorMap::new(w, outputs)) else {
        return Ok(false);
    };
    let mut launch = b.launch("swiglu_wgmma", scalar, scalar, grid)?;
    launch.cluster = swiglu_wgmma::CLUSTER;
    let (out, out_stride) = write(out);
    let args = swiglu_wgmma::Args { out, out_stride, x, w, m, ffn, k };
    // SAFETY: the operands are windows of tensors of these types, checked to have this extent; the maps are made of two of
    // them, with boxes of as many rows as the kernel has.
    launched("norm_swiglu", unsafe { args.launch(launch) }).map(|()| true)
}
