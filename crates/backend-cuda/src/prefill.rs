//! What a prompt's many rows have of their own: attention on tensor cores, and the front of its layer.
#![expect(unsafe_code, reason = "launches")]

use backend_api::ops::{
    Attention, Matmul, NormQkvRopeAppend, RmsNorm, WeightLayout, norm_qkv_rope_append as front,
};
use backend_api::{DType, Error, Io, KernelBackend, Mat, Op, Result};

use crate::device::Device;
use crate::kernels::archive::Target;
use crate::kernels::{attention_prefill_mma as mma, attention_prefill_wgmma as wgmma, rope_append};
use crate::ops::{is_half, launched};
use crate::tensor::{aligned, read, write};
use crate::tensor_map::TensorMap;
use crate::{CudaBackend, CudaTensor};

/// A kernel for such an operation, and the blocks of its launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// `mma.sync`, from compute capability 8.0 on.
    Mma(u32),
    /// `wgmma`, on [`Target::HOPPER`].
    Wgmma(u32),
}

/// The longest head that the kernels take.
pub(crate) const MOST_HEAD_DIM: usize = 256;

/// Rows, and queries that share keys, from which on a block has enough of them for its keys to be read less often than by a
/// kernel that takes one row at a time.
const LEAST: (usize, usize) = (16, 64);

/// Keys that a kernel may look beyond the cache.
const KEYS: usize = 128;

/// Whether Hopper's tensor cores take heads of this length; older ones' are faster for others.
pub(crate) fn is_for_wgmma(on: Target, head_dim: usize) -> bool {
    on == Target::HOPPER && wgmma::HEAD_DIMS.contains(&head_dim)
}

/// The kernel for many rows, if there is one for the types, the layout and the card.
pub(crate) fn choose(
    device: &Device,
    op: &Attention<'_, CudaTensor>,
    (scalar, weight): (DType, DType),
) -> Option<Kernel> {
    let (rows, heads) = (op.q.n_rows(), op.heads);
    let queries = rows.checked_mul(heads.group())?;
    let typed = scalar == weight && is_half(scalar);
    let fits = heads.head_dim % 8 == 0
        && (1..=MOST_HEAD_DIM).contains(&heads.head_dim)
        && u32::try_from(queries).is_ok()
        && u32::try_from(op.k.n_rows() + KEYS).is_ok();
    let even = [&op.q, &op.k, &op.v, &op.out.as_mat()].into_iter().all(aligned);
    if rows < LEAST.0 || queries < LEAST.1 || !(typed && fits && even) {
        return None;
    }
    let (rows, n_kv_heads, group) = (rows as u64, heads.n_kv_heads as u64, heads.group() as u64);
    match device.target.capability {
        _ if is_for_wgmma(device.target, heads.head_dim) && i32::try_from(op.k.n_rows()).is_ok() => {
            wgmma::grid(rows, n_kv_heads, group, device.multiprocessors).map(Kernel::Wgmma)
        }
        (8.., _) => mma::grid(rows, n_kv_heads, group, heads.head_dim as u32).map(Kernel::Mma),
        _ => None,
    }
}

/// Runs an operation by the kernel that [`choose`] names.
pub(crate) fn attention(
    b: &CudaBackend,
    op: Attention<'_, CudaTensor>,
    types: (DType, DType),
    kernel: Kernel,
) -> Result<()> {
    match kernel {
        Kernel::Wgmma(grid) => on_wgmma(b, op, types, grid),
        Kernel::Mma(grid) => on_mma(b, op, types, grid),
    }
}

fn on_wgmma(
    b: &CudaBackend,
    op: Attention<'_, CudaTensor>,
    (scalar, weight): (DType, DType),
    grid: u32,
) -> Result<()> {
    let Attention { q, k, v, heads, window, at, mut out, .. } = op;
    let map = |m: &Mat<'_, CudaTensor>| TensorMap::of_heads(m, heads.head_dim, wgmma::KEYS);
    let (Some(keys), Some(values)) = (map(&k), map(&v)) else {
        let reason = "the driver describes no cache to the copy engine".into();
        return Err(Error::Backend { backend: "cuda".into(), op: "attention".into(), reason });
    };
    let (rows, capacity) = (q.n_rows() as u64, k.n_rows() as u64);
    let ((q, q_stride), (k, k_stride), (v, v_stride)) = (read(&q), read(&k), read(&v));
    let ((positions, _), (out, out_stride)) = (read(&at.positions), write(&mut out));
    let launch = b.launch("attention_prefill_wgmma", scalar, weight, grid)?;
    let args = wgmma::Args {
        out,
        out_stride,
        q,
        q_stride,
        k,
        k_stride,
        v,
        v_stride,
        keys,
        values,
        positions,
        rows,
        capacity,
        window: window.map_or(u64::MAX, |w| w as u64),
        n_kv_heads: heads.n_kv_heads as u32,
        group: heads.group() as u32,
        head_dim: heads.head_dim as u32,
        scale: heads.scale(),
    };
    // SAFETY: the operands are windows of tensors of these types, checked to have this extent; `choose` saw to the rest.
    launched("attention", unsafe { args.launch(launch) })
}

fn on_mma(
    b: &CudaBackend,
    op: Attention<'_, CudaTensor>,
    (scalar, weight): (DType, DType),
    grid: u32,
) -> Result<()> {
    let Attention { q, k, v, heads, window, at, mut out, .. } = op;
    let (rows, capacity, head_dim) = (q.n_rows() as u64, k.n_rows() as u64, heads.head_dim as u32);
    let ((q, q_stride), (k, k_stride), (v, v_stride)) = (read(&q), read(&k), read(&v));
    let ((positions, _), (out, out_stride)) = (read(&at.positions), write(&mut out));
    let mut launch = b.launch("attention_prefill_mma", scalar, weight, grid)?;
    launch.shared = Some(mma::shared(head_dim));
    let args = mma::Args {
        out,
        out_stride,
        q,
        q_stride,
        k,
        k_stride,
        v,
        v_stride,
        positions,
        rows,
        capacity,
        window: window.map_or(u64::MAX, |w| w as u64),
        n_kv_heads: heads.n_kv_heads as u32,
        group: heads.group() as u32,
        head_dim,
        scale: heads.scale(),
    };
    // SAFETY: the operands are windows of tensors of these types, checked to have this extent; `choose` saw to the rest.
    launched("attention", unsafe { args.launch(launch) })
}

/// Whether one pass over the projections gives the same as the operations that it is composed of.
fn in_one_pass(op: &NormQkvRopeAppend<'_, CudaTensor>) -> bool {
    let (scalar, stored) = (op.qkv.operand().dtype, op.k.operand().dtype);
    let typed = op.v.operand().dtype == stored && (stored == scalar || scalar == DType::F32);
    typed && op.at.is_distinct() && u32::try_from(op.heads.qkv_dim()).is_ok()
}

/// Norm, product, and then everything else, in one pass if possible.
pub(crate) fn norm_qkv_rope_append(b: &CudaBackend, mut op: NormQkvRopeAppend<'_, CudaTensor>) -> Result<()> {
    if !in_one_pass(&op) {
        return front::compose(b, op);
    }
    let io = Io::Into(op.x, op.scratch.by_ref());
    b.rmsnorm_into(RmsNorm { io, weight: op.norm, eps: op.eps }.check()?)?;
    let (x, out) = (op.scratch.as_mat(), op.qkv.by_ref());
    let product = Matmul { x, w: op.w, out, accumulate: false, layout: WeightLayout::OutIn };
    b.matmul_into(product.check()?)?;
    rope_append(b, op)
}

/// What follows norm and product.
///
/// # Errors
/// [`Error::Unsupported`] where one pass would not give the same.
pub(crate) fn rope_append(b: &CudaBackend, op: NormQkvRopeAppend<'_, CudaTensor>) -> Result<()> {
    if !in_one_pass(&op) {
        return Err(Error::Unsupported {
            what: "turning and appending in one pass".into(),
            supported: "caches of the type of the projections, or of any beside f32, and distinct positions"
                .into(),
        });
    }
    let NormQkvRopeAppend { heads, cos, sin, at, mut qkv, mut k, mut v, .. } = op;
    let (scalar, stored) = (qkv.operand().dtype, k.operand().dtype);
    let (rows, capacity) = (qkv.n_rows() as u64, k.n_rows() as u64);
    let launch = b.launch("rope_append", scalar, stored, rope_append::grid(rows))?;
    let table_rows = cos.n_rows() as u64;
    let ((cos, cos_stride), (sin, sin_stride)) = (read(&cos), read(&sin));
    let ((keys, keys_stride), (values, values_stride)) = (write(&mut k), write(&mut v));
    let (qkv, qkv_stride) = write(&mut qkv);
    let args = rope_append::Args {
        qkv,
        qkv_stride,
        keys,
        keys_stride,
        values,
        values_stride,
        cos,
        cos_stride,
        sin,
        sin_stride,
        positions: read(&at.positions).0,
        rows,
        table_rows,
        capacity,
        n_heads: heads.n_heads as u32,
        n_kv_heads: heads.n_kv_heads as u32,
        head_dim: heads.head_dim as u32,
    };
    // SAFETY: the operands are windows of tensors of these types, checked to have this extent; consecutive positions are
    // distinct.
    launched("norm_qkv_rope_append", unsafe { args.launch(launch) })
}
