//! Products of matrices: by the library, or by our kernel for the shape.
#![expect(unsafe_code, reason = "launches")]

use backend_api::ops::{Matmul, WeightLayout};
use backend_api::{DType, Error, Result};

use crate::blas::{self, By};
use crate::kernels::{matmul, matmul_few, matmul_vec};
use crate::launch::{Out, longest_row};
use crate::ops::{dtype, launched, weight};
use crate::tensor::{aligned, is_settled, read, write};
use crate::{CudaBackend, CudaTensor, tensor_cores};

/// Types of a product: of `x`, of `w`, and whether `out` is f32 beside a narrower `x`.
type Types = (DType, DType, u32);

pub(crate) fn matmul(b: &CudaBackend, mut op: Matmul<'_, CudaTensor>) -> Result<()> {
    let types = types(&op)?;
    let streamed = vector(b, &op, types);
    let by = blas::matmul(b, &op.x, &op.w, &mut op.out, op.accumulate, op.layout, streamed.is_some())?;
    match (by, streamed) {
        (By::Library, _) => Ok(()),
        (By::Vector, Some((share, grid))) => one_row(b, op, types, share, grid),
        (by, _) => match tensor_cores::choose(b.inner.device.target, &op) {
            Some(kernel) => tensor_cores::matmul(b, op, kernel),
            None if by != By::Tiles => few_rows(b, op, types),
            None => many_rows(b, op, types),
        },
    }
}

fn types(op: &Matmul<'_, CudaTensor>) -> Result<Types> {
    let (scalar, out) = (dtype(&op.x), op.out.operand().dtype);
    let weight = weight("matmul", "w", scalar, dtype(&op.w))?;
    if out != scalar && out != DType::F32 {
        let expected = "f32 or the type of `x`";
        return Err(Error::DType { op: "matmul", operand: "out", expected, got: out });
    }
    Ok((scalar, weight, u32::from(out != scalar)))
}

/// Warps that share a row, and blocks, if the kernel that streams weights past one vector takes the product.
fn vector(b: &CudaBackend, op: &Matmul<'_, CudaTensor>, (scalar, weight, _): Types) -> Option<(u32, u32)> {
    let k = op.x.n_cols();
    let fits = k <= longest_row(b.inner.device.shared_memory, scalar);
    let even = k.is_multiple_of(8) && aligned(&op.x) && aligned(&op.w);
    if op.x.n_rows() != 1 || op.layout != WeightLayout::OutIn || !fits || !even {
        return None;
    }
    let share = matmul_vec::share(weight.bytes(k)? as u64);
    Some((share, matmul_vec::grid(op.out.n_cols() as u64, share)?))
}

fn one_row(
    b: &CudaBackend,
    op: Matmul<'_, CudaTensor>,
    (scalar, weight, wide): Types,
    share: u32,
    grid: u32,
) -> Result<()> {
    let Matmul { x, w, mut out, accumulate, .. } = op;
    let (n, k) = (out.n_cols() as u64, x.n_cols());
    let settled = is_settled(&w, &b.inner.device);
    let mut launch = b.launch("matmul_vec", scalar, weight, grid)?.overlapping(settled);
    launch.shared = scalar.bytes(k).map(|bytes| bytes as u32);
    let ((x, _), (w, w_stride), (out, _)) = (read(&x), read(&w), write(&mut out));
    let accumulate = u32::from(accumulate);
    let args = matmul_vec::Args { out, x, w, w_stride, n, k: k as u32, share, accumulate, wide };
    // SAFETY: the operands are windows of tensors of these types, checked to have this extent; `vector` saw to alignment and
    // shared memory, and only settled weights are read early.
    launched("matmul", unsafe { args.launch(launch) })
}

fn few_rows(b: &CudaBackend, op: Matmul<'_, CudaTensor>, (scalar, weight, wide): Types) -> Result<()> {
    let Matmul { x, w, mut out, accumulate, layout } = op;
    let (m, n, k) = (x.n_rows() as u64, out.n_cols() as u64, x.n_cols() as u64);
    let ((x, x_stride), (w, w_stride), (out, out_stride)) = (read(&x), read(&w), write(&mut out));
    let plain = layout == WeightLayout::InOut;
    let (grid, lanes) = matmul_few::division(m, n, k, plain, b.inner.device.multiprocessors);
    let (launch, accumulate) = (b.launch("matmul_few", scalar, weight, grid)?, u32::from(accumulate));
    let args =
        matmul_few::Args { out, out_stride, x, x_stride, w, w_stride, m, n, k, lanes, accumulate, wide };
    // SAFETY: the operands are windows of tensors of these types, checked to have this extent.
    launched("matmul", unsafe { args.launch(launch) })
}

fn many_rows(b: &CudaBackend, op: Matmul<'_, CudaTensor>, (scalar, weight, wide): Types) -> Result<()> {
    let Matmul { x, w, mut out, accumulate, layout } = op;
    let (m, n, k) = (x.n_rows() as u64, out.n_cols() as u64, x.n_cols() as u64);
    let ((x, x_stride), (w, w_stride), (out, out_stride)) = (read(&x), read(&w), write(&mut out));
    let (plain, accumulate) = (u32::from(layout == WeightLayout::InOut), u32::from(accumulate));
    let multiprocessors = b.inner.device.multiprocessors;
    let (division, large) = matmul::division(m, n, k, multiprocessors);
    let extent = if division.shared > 0 { matmul::parts(multiprocessors) } else { 0 };
    let scratch = b.scratch(extent * size_of::<f32>())?;
    let launch = b.launch("matmul", scalar, weight, division.grid)?;
    let args = matmul::Args {
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
        wide,
        large: u32::from(large),
        shared: division.shared,
        parts: Out::new(scratch.address(), extent),
        counters: b.arrivals(),
    };
    // SAFETY: the operands are windows of tensors of these types, checked to have this extent. The scratch belongs to the
    // backend, and the stream lets one launch at a time use it and the counters, of which there are more than blocks.
    launched("matmul", unsafe { args.launch(launch) })
}
