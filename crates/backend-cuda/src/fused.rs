//! The fused operations of a decoding step, for one row in the residual stream's f32; other rows and types are composed.
#![expect(unsafe_code, reason = "launches")]

use backend_api::ops::{Matmul, NormQkvRopeAppend, NormSwiglu, RmsNorm, WeightLayout};
use backend_api::{DType, Io, KernelBackend, Mat, MatMut, Op, Result};

use crate::kernels;
use crate::launch::longest_row;
use crate::ops::{dtype, launched, scalar};
use crate::tensor::{aligned, is_settled, read, write};
use crate::{CudaBackend, CudaTensor, prefill, tensor_cores};

type B = CudaBackend;
type T = CudaTensor;

/// Warps that share a row of `w`, if the kernels take these operands: one f32 row, weights of one type and aligned.
fn share(b: &B, x: &Mat<'_, T>, norm: &Mat<'_, T>, w: &Mat<'_, T>) -> Option<u32> {
    let k = x.n_cols();
    let typed = dtype(x) == DType::F32 && dtype(norm) == dtype(w);
    let even = k > 0 && k.is_multiple_of(8) && [x, norm, w].into_iter().all(aligned);
    let fits = k <= longest_row(b.inner.device.shared_memory, DType::F32);
    let one = x.n_rows() == 1 && typed && even && fits;
    one.then(|| kernels::matmul_vec::share_of_norm(dtype(w).bytes(k).unwrap_or(0) as u64))
}

pub(crate) fn norm_qkv_rope_append(b: &B, op: NormQkvRopeAppend<'_, T>) -> Result<()> {
    let weight = dtype(&op.w);
    let stored = [op.qkv.operand().dtype, op.k.operand().dtype, op.v.operand().dtype];
    let rows = op.heads.qkv_dim() as u64;
    let share = share(b, &op.x, &op.norm, &op.w)
        .filter(|_| op.heads.head_dim.is_multiple_of(4) && stored.iter().all(|t| *t == weight));
    let Some((share, grid)) =
        share.and_then(|share| Some((share, kernels::norm_qkv_rope_append::grid(rows, share)?)))
    else {
        return prefill::norm_qkv_rope_append(b, op);
    };
    let NormQkvRopeAppend { x, norm, eps, w, heads, cos, sin, at, mut qkv, mut k, mut v, .. } = op;
    let settled = is_settled(&w, &b.inner.device) && is_settled(&norm, &b.inner.device);
    let mut launch = b.launch("norm_qkv_rope_append", DType::F32, weight, grid)?.overlapping(settled);
    let hidden = x.n_cols() as u32;
    launch.shared = Some(4 * hidden);
    let (capacity, table_rows) = (k.n_rows() as u64, cos.n_rows() as u64);
    let ((keys, keys_stride), (values, values_stride)) = (write(&mut k), write(&mut v));
    let ((w, w_stride), (cos, cos_stride), (sin, sin_stride)) = (read(&w), read(&cos), read(&sin));
    let args = kernels::norm_qkv_rope_append::Args {
        q: write(&mut qkv).0,
        keys,
        keys_stride,
        values,
        values_stride,
        x: read(&x).0,
        norm: read(&norm).0,
        w,
        w_stride,
        cos,
        cos_stride,
        sin,
        sin_stride,
        position: read(&at.positions).0,
        table_rows,
        capacity,
        k: hidden,
        n_heads: heads.n_heads as u32,
        n_kv_heads: heads.n_kv_heads as u32,
        head_dim: heads.head_dim as u32,
        share,
        eps,
    };
    // SAFETY: the operands are windows of tensors of these types, checked to have this extent; `share` saw to alignment and
    // shared memory, and only settled weights are read early.
    launched("norm_qkv_rope_append", unsafe { args.launch(launch) })
}

pub(crate) fn norm_swiglu(b: &B, op: NormSwiglu<'_, T>) -> Result<()> {
    let (weight, ffn) = (dtype(&op.w), op.out.n_cols() as u64);
    let share = share(b, &op.x, &op.norm, &op.w).filter(|_| op.out.operand().dtype == weight);
    let Some((share, grid)) =
        share.and_then(|share| Some((share, kernels::norm_swiglu::grid(ffn, share, weight)?)))
    else {
        return many_rows(b, op);
    };
    let NormSwiglu { x, norm, eps, w, mut out, .. } = op;
    let settled = is_settled(&w, &b.inner.device) && is_settled(&norm, &b.inner.device);
    let mut launch = b.launch("norm_swiglu", DType::F32, weight, grid)?.overlapping(settled);
    let k = x.n_cols() as u32;
    launch.shared = Some(4 * k);
    let (w, w_stride) = read(&w);
    let args = kernels::norm_swiglu::Args {
        out: write(&mut out).0,
        x: read(&x).0,
        norm: read(&norm).0,
        w,
        w_stride,
        ffn,
        k,
        share,
        eps,
    };
    // SAFETY: the operands are windows of tensors of these types, checked to have this extent; `share` saw to alignment and
    // shared memory, and only settled weights are read early.
    launched("norm_swiglu", unsafe { args.launch(launch) })
}

/// Norm, and then product and SwiGLU in one or two passes.
fn many_rows(b: &B, op: NormSwiglu<'_, T>) -> Result<()> {
    let NormSwiglu { x, norm, eps, w, mut out, mut scratch, mut gate_up } = op;
    b.rmsnorm_into(RmsNorm { io: Io::Into(x, scratch.by_ref()), weight: norm, eps }.check()?)?;
    if tensor_cores::swiglu(b, &scratch.as_mat(), &w, &mut out)? {
        return Ok(());
    }
    let product = Matmul {
        x: scratch.as_mat(),
        w,
        out: gate_up.by_ref(),
        accumulate: false,
        layout: WeightLayout::OutIn,
    };
    b.matmul_into(product.check()?)?;
    swiglu(b, &gate_up.as_mat(), &mut out)
}

/// `out [rows, cols] = silu(gate) · up` of `gate_up [rows, 2 · cols]`, as the checked operation says.
pub(crate) fn swiglu(b: &B, gate_up: &Mat<'_, T>, out: &mut MatMut<'_, T>) -> Result<()> {
    let operands = [("gate_up", dtype(gate_up)), ("out", out.operand().dtype)];
    let scalar = scalar("norm_swiglu", &operands)?;
    let (rows, cols) = (out.n_rows() as u64, out.n_cols() as u64);
    let launch = b.launch("swiglu", scalar, scalar, kernels::swiglu::grid(rows, cols))?;
    let ((x, x_stride), (out, out_stride)) = (read(gate_up), write(out));
    let args = kernels::swiglu::Args { out, out_stride, x, x_stride, rows, cols };
    // SAFETY: the operands are windows of tensors of this type, checked to have this extent.
    launched("norm_swiglu", unsafe { args.launch(launch) })
}
