//! From a checked operation to the launch of its kernel.
#![expect(unsafe_code, reason = "launches")]

use backend_api::ops::*;
use backend_api::{DType, DeviceTensor, Error, Io, Mat, MatMut, Result};

use crate::device::{DriverError, failure};
use crate::kernels;
use crate::launch::{In, Out, Scalar};
use crate::tensor::{read, write};
use crate::{CudaBackend, CudaTensor, graph};

type B = CudaBackend;
type T = CudaTensor;

pub(crate) fn launched(op: &'static str, done: Result<(), DriverError>) -> Result<()> {
    done.map_err(|e| failure(op, e))
}

/// Whether tensor cores multiply this type.
pub(crate) fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

/// The one type of several operands.
pub(crate) fn scalar(op: &'static str, operands: &[(&'static str, DType)]) -> Result<DType> {
    let first = operands.first().map_or(DType::F32, |o| o.1);
    match operands.iter().find(|o| o.1 != first) {
        Some((operand, got)) => {
            Err(Error::DType { op, operand, expected: "the type of the other activations", got: *got })
        }
        None => Ok(first),
    }
}

/// The type of a weight beside activations of type `scalar`: the same, or any beside f32.
pub(crate) fn weight(op: &'static str, operand: &'static str, scalar: DType, got: DType) -> Result<DType> {
    if got == scalar || scalar == DType::F32 {
        return Ok(got);
    }
    Err(Error::DType { op, operand, expected: "the type of the activations", got })
}

pub(crate) fn dtype(m: &Mat<'_, T>) -> DType {
    m.operand().dtype
}

/// Input and output of an operation that may run in place: their type, addresses, row steps and common shape. In place, both
/// are the same memory, which the kernels that are launched with this allow.
struct InOut<'a> {
    scalar: DType,
    out_type: DType,
    x: In<'a, Scalar>,
    x_stride: u64,
    out: Out<'a, Scalar>,
    out_stride: u64,
    rows: u64,
    cols: u64,
}

/// The output may also be of type `other`, where there is one.
fn io<'a>(op: &'static str, io: Io<'a, T>, other: Option<DType>) -> Result<InOut<'a>> {
    let (a, b) = io.operands();
    let (scalar, out_type) = (a.dtype, b.dtype);
    if other != Some(out_type) {
        self::scalar(op, &[("x", scalar), ("out", out_type)])?;
    }
    let (rows, cols) = (a.window.rows as u64, a.window.cols as u64);
    let (x, mut out) = match io {
        Io::Into(x, out) => (Some(read(&x)), out),
        Io::InPlace(out) => (None, out),
    };
    let (out, out_stride) = write::<Scalar>(&mut out);
    let (x, x_stride) = x.unwrap_or_else(|| (out.as_input(), out_stride));
    Ok(InOut { scalar, out_type, x, x_stride, out, out_stride, rows, cols })
}

pub(crate) fn softmax(b: &B, op: Softmax<'_, T>) -> Result<()> {
    let InOut { scalar, x, x_stride, out, out_stride, rows, cols, .. } = io("softmax", op.io, None)?;
    let launch = b.launch("softmax", scalar, scalar, kernels::softmax::grid(rows))?;
    let args = kernels::softmax::Args { out, out_stride, x, x_stride, rows, cols };
    // SAFETY: the operands are windows of tensors of this type, checked to have this extent.
    launched("softmax", unsafe { args.launch(launch) })
}

pub(crate) fn silu(b: &B, op: Silu<'_, T>) -> Result<()> {
    let InOut { scalar, x, x_stride, out, out_stride, rows, cols, .. } = io("silu", op.io, None)?;
    let launch = b.launch("silu", scalar, scalar, kernels::silu::grid(rows, cols, scalar))?;
    let args = kernels::silu::Args { out, out_stride, x, x_stride, rows, cols };
    // SAFETY: the operands are windows of tensors of this type, checked to have this extent.
    launched("silu", unsafe { args.launch(launch) })
}

pub(crate) fn add(b: &B, op: Add<'_, T>) -> Result<()> {
    let y_type = dtype(&op.y);
    let (y, y_stride) = read(&op.y);
    let InOut { scalar, x, x_stride, out, out_stride, rows, cols, .. } = io("add", op.io, None)?;
    self::scalar("add", &[("x", scalar), ("y", y_type)])?;
    let launch = b.launch("add", scalar, scalar, kernels::add::grid(rows, cols))?;
    let args = kernels::add::Args { out, out_stride, x, x_stride, y, y_stride, rows, cols };
    // SAFETY: the operands are windows of tensors of this type, checked to have this extent.
    launched("add", unsafe { args.launch(launch) })
}

pub(crate) fn mul(b: &B, op: Mul<'_, T>) -> Result<()> {
    let y_type = dtype(&op.y);
    let (y, y_stride) = read(&op.y);
    let InOut { scalar, x, x_stride, out, out_stride, rows, cols, .. } = io("mul", op.io, None)?;
    self::scalar("mul", &[("x", scalar), ("y", y_type)])?;
    let launch = b.launch("mul", scalar, scalar, kernels::mul::grid(rows, cols))?;
    let args = kernels::mul::Args { out, out_stride, x, x_stride, y, y_stride, rows, cols };
    // SAFETY: the operands are windows of tensors of this type, checked to have this extent.
    launched("mul", unsafe { args.launch(launch) })
}

pub(crate) fn rmsnorm(b: &B, op: RmsNorm<'_, T>) -> Result<()> {
    let (w_type, x_type) = (dtype(&op.weight), op.io.operands().0.dtype);
    let weight = weight("rmsnorm", "weight", x_type, w_type)?;
    let (w, _) = read(&op.weight);
    let InOut { scalar, out_type, x, x_stride, out, out_stride, rows, cols } =
        io("rmsnorm", op.io, Some(weight))?;
    let launch = b.launch("rmsnorm", scalar, weight, kernels::rmsnorm::grid(rows))?;
    let narrow = u32::from(out_type != scalar);
    let args = kernels::rmsnorm::Args { out, out_stride, x, x_stride, w, rows, cols, eps: op.eps, narrow };
    // SAFETY: the operands are windows of tensors of these types, checked to have this extent.
    launched("rmsnorm", unsafe { args.launch(launch) })
}

pub(crate) fn apply_rope(b: &B, op: ApplyRope<'_, T>) -> Result<()> {
    let ((cos, cos_stride), (sin, sin_stride)) = (read(&op.cos), read(&op.sin));
    let (positions, _) = read(&op.at.positions);
    let (head_dim, table_rows) = (op.head_dim as u64, op.cos.n_rows() as u64);
    let InOut { scalar, x, x_stride, out, out_stride, rows, cols, .. } = io("apply_rope", op.io, None)?;
    let launch = b.launch("apply_rope", scalar, scalar, kernels::apply_rope::grid(rows, cols))?;
    let args = kernels::apply_rope::Args {
        out,
        out_stride,
        x,
        x_stride,
        cos,
        cos_stride,
        sin,
        sin_stride,
        positions,
        rows,
        cols,
        head_dim,
        table_rows,
    };
    // SAFETY: the operands are windows of tensors of these types, checked to have this extent.
    launched("apply_rope", unsafe { args.launch(launch) })
}

pub(crate) fn embed(b: &B, op: Embed<'_, T>) -> Result<()> {
    let Embed { table, ids, mut out } = op;
    let scalar = out.operand().dtype;
    let weight = weight("embed", "table", scalar, dtype(&table))?;
    let (rows, cols, vocab) = (out.n_rows() as u64, out.n_cols() as u64, table.n_rows() as u64);
    let ((table, table_stride), (ids, _), (out, out_stride)) = (read(&table), read(&ids), write(&mut out));
    let launch = b.launch("embed", scalar, weight, kernels::embed::grid(rows, cols))?;
    let args = kernels::embed::Args { out, out_stride, table, table_stride, ids, rows, cols, vocab };
    // SAFETY: the operands are windows of tensors of these types, checked to have this extent.
    launched("embed", unsafe { args.launch(launch) })
}

pub(crate) fn append_rows(b: &B, op: AppendRows<'_, T>) -> Result<()> {
    let AppendRows { src, mut dst, at } = op;
    let (scalar, stored) = (dtype(&src), dst.operand().dtype);
    let weight = if stored == DType::U32 { stored } else { weight("append_rows", "dst", scalar, stored)? };
    let (rows, cols, capacity) = (src.n_rows() as u64, src.n_cols() as u64, dst.n_rows() as u64);
    let distinct = u32::from(at.is_distinct());
    let ((src, src_stride), (positions, _)) = (read(&src), read(&at.positions));
    let (dst, dst_stride) = write(&mut dst);
    let launch = b.launch("append_rows", scalar, weight, kernels::append_rows::grid(rows))?;
    let args = kernels::append_rows::Args {
        dst,
        dst_stride,
        src,
        src_stride,
        positions,
        rows,
        cols,
        capacity,
        distinct,
    };
    // SAFETY: the operands are windows of tensors of these types, checked to have this extent.
    launched("append_rows", unsafe { args.launch(launch) })
}

pub(crate) fn argmax(b: &B, op: Argmax<'_, T>) -> Result<()> {
    let Argmax { logits, mut id, position } = op;
    let scalar = dtype(&logits);
    let (rows, cols) = (logits.n_rows() as u64, logits.n_cols() as u64);
    let ((x, x_stride), (id, _)) = (read(&logits), write(&mut id));
    let position = position.map_or_else(|| Out::new(0, 0), |mut p| write(&mut p).0);
    let splits = kernels::argmax::splits(rows, cols, b.inner.device.multiprocessors);
    let extent = if splits > 1 { rows as usize * splits as usize } else { 0 };
    let scratch = b.scratch(extent * size_of::<u64>())?;
    let (partials, counters) = (Out::new(scratch.address(), extent), b.arrivals());
    let launch = b.launch("argmax", scalar, scalar, kernels::argmax::grid(rows, splits))?;
    let args = kernels::argmax::Args { id, position, x, x_stride, rows, cols, partials, counters, splits };
    // SAFETY: the operands are windows of tensors of these types, checked to have this extent. Where there are splits, rows
    // are fewer than multiprocessors and so than counters, and the stream lets one launch at a time use scratch and
    // counters.
    launched("argmax", unsafe { args.launch(launch) })
}

pub(crate) fn sample(b: &B, op: Sample<'_, T>) -> Result<()> {
    use kernels::sample::{Args, SPACE, grid};
    let Sample { logits, mut history, mut id, mut position, params } = op;
    let (scalar, n, device) = (dtype(&logits), logits.n_cols(), &b.inner.device);
    // Beside `space`, 8 bytes of weight and 4 of logit per id.
    let scratch = b.scratch(8 * SPACE + 12 * n)?;
    let space = scratch.address();
    let weights = space.wrapping_add(8 * SPACE as u64);
    let args = Args {
        id: write(&mut id).0,
        position: write(&mut position).0,
        context: history.n_cols() as u64,
        history: write(&mut history).0,
        logits: read(&logits).0,
        vocab: n as u32,
        penalized: Out::new(weights.wrapping_add(8 * n as u64), n),
        weights: Out::new(weights, n),
        space: Out::new(space, SPACE),
        counters: b.arrivals(),
        repetition_penalty: params.repetition_penalty,
        temperature: params.temperature,
        top_k: params.top_k as u64,
        top_p: params.top_p,
        least: params.min_p_weight().min(WEIGHT_ONE),
        seed: params.seed,
    };
    // A card that cannot promise to run all blocks at once runs one.
    let together = device.cooperates && device.target.capability >= (6, 0);
    let blocks = if together { grid(n, device.multiprocessors) } else { 1 };
    let mut launch = b.launch("sample", scalar, scalar, blocks)?;
    launch.together = together;
    // SAFETY: the operands are windows of tensors of these types, checked to have this extent; the scratch and the
    // counters belong to the backend, and the stream lets one launch at a time use them; blocks that wait for each
    // other run together.
    launched("sample", unsafe { args.launch(launch) })
}

pub(crate) fn fill_random(b: &B, dst: &mut T, seed: u64, scale: f32) -> Result<()> {
    let scalar = dst.dtype();
    if !scalar.is_float() {
        return Err(Error::DType {
            op: "fill_random",
            operand: "dst",
            expected: "a float type",
            got: scalar,
        });
    }
    let mut all = MatMut::vector(dst);
    let n = all.n_cols() as u64;
    let args = kernels::fill_random::Args { out: write(&mut all).0, n, seed, scale };
    let launch = b.launch("fill_random", scalar, scalar, kernels::fill_random::grid(n))?;
    // SAFETY: the operand is the whole of a tensor of this type.
    launched("fill_random", unsafe { args.launch(launch) })?;
    dst.written.note(&b.inner.device.clock, graph::is_capturing(&b.inner.device));
    Ok(())
}
