//! Operations on grouped query heads: scores, weighted sums, attention.
#![expect(unsafe_code, reason = "launches")]

use backend_api::ops::{self, AppendRows, Attention, ComputeAttentionScores, Embed, WeightedSumRows};
use backend_api::{At, DType, KernelBackend, Mat, MatMut, Op, Result};

use crate::backend::COUNTERS;
use crate::kernels::division::Division;
use crate::kernels::{
    attention, attention_mma, compute_attention_scores as scores, compute_attention_scores_mma as scores_mma,
    weighted_sum_rows as sums, weighted_sum_rows_mma as sums_mma,
};
use crate::launch::Out;
use crate::ops::{dtype, is_half, launched, scalar, weight};
use crate::tensor::{aligned, is_settled, read, write};
use crate::{CudaBackend, CudaTensor, prefill};

type B = CudaBackend;
type T = CudaTensor;

/// Whether tensor cores take these operands, each of rows of heads of `dim` columns.
fn on_tensor_cores(b: &B, dim: usize, scalar: DType, weight: DType, operands: &[&Mat<'_, T>]) -> bool {
    let halves = scalar == weight && is_half(scalar);
    halves
        && dim.is_multiple_of(8)
        && b.inner.device.target.capability >= (8, 0)
        && operands.iter().all(|m| aligned(m))
}

pub(crate) fn compute_attention_scores(b: &B, op: ComputeAttentionScores<'_, T>) -> Result<()> {
    const OP: &str = ComputeAttentionScores::<T>::NAME;
    let ComputeAttentionScores { q, k, heads, scale, mut out } = op;
    let scalar = scalar(OP, &[("q", dtype(&q)), ("out", out.operand().dtype)])?;
    let weight = weight(OP, "k", scalar, dtype(&k))?;
    let (rows, keys, head_dim) = (q.n_rows() as u64, k.n_rows() as u64, heads.head_dim as u64);
    let (n_kv_heads, group, dim) = (heads.n_kv_heads as u32, heads.group() as u32, heads.head_dim as u32);
    let mma = dim > 0 && on_tensor_cores(b, heads.head_dim, scalar, weight, &[&q, &k]);
    let (settled, multiprocessors) = (is_settled(&k, &b.inner.device), b.inner.device.multiprocessors);
    let ((q, q_stride), (k, k_stride), (out, out_stride)) = (read(&q), read(&k), write(&mut out));
    if mma {
        let grid = scores_mma::grid(rows, keys, n_kv_heads.into(), multiprocessors);
        let launch = b.launch("compute_attention_scores_mma", scalar, weight, grid)?.overlapping(settled);
        let args = scores_mma::Args {
            out,
            out_stride,
            q,
            q_stride,
            k,
            k_stride,
            rows,
            keys,
            n_kv_heads,
            group,
            head_dim: dim,
            scale,
        };
        // SAFETY: the operands are windows of tensors of these types, checked to have this extent and to be aligned; only
        // settled keys are read early.
        return launched(OP, unsafe { args.launch(launch) });
    }
    // Blocks divide the keys of one pass: a row's group, or all rows of a single head.
    let of_pass = if heads.n_heads == 1 { rows } else { rows.min(1) * u64::from(group) };
    let grid = scores::grid(of_pass, keys, head_dim, n_kv_heads.into(), multiprocessors);
    let launch = b.launch(OP, scalar, weight, grid)?;
    let args = scores::Args {
        out,
        out_stride,
        q,
        q_stride,
        k,
        k_stride,
        rows,
        keys,
        n_kv_heads,
        group,
        head_dim: dim,
        scale,
    };
    // SAFETY: the operands are windows of tensors of these types, checked to have this extent.
    launched(OP, unsafe { args.launch(launch) })
}

pub(crate) fn weighted_sum_rows(b: &B, op: WeightedSumRows<'_, T>) -> Result<()> {
    const OP: &str = WeightedSumRows::<T>::NAME;
    let WeightedSumRows { weights, rows, heads, mut out } = op;
    let scalar = scalar(OP, &[("weights", dtype(&weights)), ("out", out.operand().dtype)])?;
    let weight = weight(OP, "rows", scalar, dtype(&rows))?;
    let (m, n, cols) = (out.n_rows() as u64, weights.n_cols() as u64, heads.head_dim as u32);
    let (n_kv_heads, group) = (heads.n_kv_heads as u32, heads.group() as u32);
    let multiprocessors = b.inner.device.multiprocessors;
    let division = sums::Division::new(m, n, n_kv_heads.into(), group.into(), cols.into(), multiprocessors);
    let mma = n <= u32::MAX.into() && on_tensor_cores(b, heads.head_dim, scalar, weight, &[&rows]);
    let settled = is_settled(&rows, &b.inner.device);
    let scratch = b.scratch(division.partials() * size_of::<f32>())?;
    let partials = Out::new(scratch.address(), division.partials());
    let ((weights, weights_stride), (rows, rows_stride)) = (read(&weights), read(&rows));
    let (out, out_stride) = write(&mut out);
    let (splits, counters) = (division.splits, b.arrivals());
    if mma {
        let launch = b.launch("weighted_sum_rows_mma", scalar, weight, division.grid())?.overlapping(settled);
        let args = sums_mma::Args {
            out,
            out_stride,
            weights,
            weights_stride,
            rows,
            rows_stride,
            m,
            n,
            n_kv_heads,
            group,
            cols,
            splits,
            partials,
            counters,
        };
        // SAFETY: the operands are windows of tensors of these types, checked to have this extent and to be aligned; only
        // settled rows are read early. Where there are splits, tiles are fewer than counters, and the stream lets
        // one launch at a time use scratch and counters.
        return launched(OP, unsafe { args.launch(launch) });
    }
    let launch = b.launch(OP, scalar, weight, division.grid())?;
    let args = sums::Args {
        out,
        out_stride,
        weights,
        weights_stride,
        rows,
        rows_stride,
        m,
        n,
        n_kv_heads,
        group,
        cols,
        splits,
        partials,
        counters,
    };
    // SAFETY: the operands are windows of tensors of these types, checked to have this extent; scratch and counters as
    // above.
    launched(OP, unsafe { args.launch(launch) })
}

pub(crate) fn attention(b: &B, op: Attention<'_, T>) -> Result<()> {
    let scalar = scalar("attention", &[("q", dtype(&op.q)), ("out", op.out.operand().dtype)])?;
    if op.heads.head_dim > attention::MOST_HEAD_DIM {
        return if scalar == DType::F32 { ops::attention::compose(b, op) } else { compose_wide(b, op) };
    }
    let stored = self::scalar("attention", &[("k", dtype(&op.k)), ("v", dtype(&op.v))])?;
    let weight = weight("attention", "k", scalar, stored)?;
    if let Some(kernel) = prefill::choose(&b.inner.device, &op, (scalar, weight)) {
        return prefill::attention(b, op, (scalar, weight), kernel);
    }
    match split(b, &op, scalar, weight) {
        Some((division, grid)) => split_keys(b, op, (scalar, weight), division, grid),
        None => whole_rows(b, op, (scalar, weight)),
    }
}

/// As [`ops::attention::compose`], which works in f32, a row at a time: its query is widened, and its result rounded.
fn compose_wide(b: &B, op: Attention<'_, T>) -> Result<()> {
    let Attention { q, k, v, heads, window, at, mut out, mut scratch } = op;
    let row = [1, heads.q_dim()];
    let (mut wide, mut result, zero) = (b.alloc(&row, DType::F32)?, b.alloc(&row, DType::F32)?, T::zero(b));
    let only = At { positions: Mat::vector(&zero), first: Some(0), distinct: true };
    for i in 0..q.n_rows() {
        let (table, ids) = (q.rows(i..i + 1)?, only.positions);
        b.embed_into(Embed { table, ids, out: MatMut::new(&mut wide) }.check()?)?;
        let (q, at) = (Mat::new(&wide), at.rows(i..i + 1)?);
        let (out_row, scratch) = (MatMut::new(&mut result), scratch.by_ref());
        ops::attention::compose(b, Attention { q, k, v, heads, window, at, out: out_row, scratch })?;
        let (src, dst) = (Mat::new(&result), out.by_ref().rows(i..i + 1)?);
        b.append_rows_into(AppendRows { src, dst, at: only }.check()?)?;
    }
    Ok(())
}

/// Multiprocessors, and whether blocks form clusters.
fn card(b: &B) -> (u32, bool) {
    (b.inner.device.multiprocessors, b.inner.device.target.capability >= (9, 0))
}

/// How keys are split, and blocks, if tensor cores take the operation.
fn split(b: &B, op: &Attention<'_, T>, scalar: DType, weight: DType) -> Option<(Division, u32)> {
    let heads = op.heads;
    if heads.head_dim > attention_mma::MOST_HEAD_DIM
        || !on_tensor_cores(b, heads.head_dim, scalar, weight, &[&op.q, &op.k, &op.v])
    {
        return None;
    }
    let keys = op.window.map_or(op.k.n_rows(), |w| w.min(op.k.n_rows())) as u64;
    let (rows, n_kv_heads, group) = (op.q.n_rows() as u64, heads.n_kv_heads as u64, heads.group() as u64);
    let division = attention_mma::division(rows, n_kv_heads, group, keys, card(b));
    let counted = division.splits == 1 || division.tiles <= COUNTERS as u64;
    let counted = counted && op.k.n_rows() <= i32::MAX as usize;
    Some((division, attention_mma::grid(division)?)).filter(|_| counted)
}

fn split_keys(
    b: &B,
    op: Attention<'_, T>,
    (scalar, weight): (DType, DType),
    division: Division,
    grid: u32,
) -> Result<()> {
    let Attention { q, k, v, heads, window, at, mut out, .. } = op;
    let capacity = k.n_rows() as u64;
    let extent = attention_mma::partials(division);
    let scratch = b.scratch(extent * size_of::<f32>())?;
    let ((q, q_stride), (k, k_stride), (v, v_stride)) = (read(&q), read(&k), read(&v));
    let ((positions, _), (out, out_stride)) = (read(&at.positions), write(&mut out));
    let mut launch = b.launch("attention_mma", scalar, weight, grid)?.overlapping(true);
    launch.cluster = division.cluster;
    let args = attention_mma::Args {
        out,
        out_stride,
        q,
        q_stride,
        k,
        k_stride,
        v,
        v_stride,
        positions,
        capacity,
        window: window.map_or(u64::MAX, |w| w as u64),
        n_kv_heads: heads.n_kv_heads as u32,
        group: heads.group() as u32,
        head_dim: heads.head_dim as u32,
        scale: heads.scale(),
        partials: Out::new(scratch.address(), extent),
        counters: b.arrivals(),
        splits: division.splits,
        cluster: division.cluster,
    };
    // SAFETY: the operands are windows of tensors of these types, checked to have this extent and to be aligned; before the
    // kernel waits it reads positions alone, which only say what to prefetch, within the capacity. Where there are
    // splits, tiles are at most as many as counters, and the stream lets one launch at a time use scratch and counters.
    launched("attention", unsafe { args.launch(launch) })
}

fn whole_rows(b: &B, op: Attention<'_, T>, (scalar, weight): (DType, DType)) -> Result<()> {
    let Attention { q, k, v, heads, window, at, mut out, .. } = op;
    let (rows, capacity) = (q.n_rows() as u64, k.n_rows() as u64);
    let (n_kv_heads, group, head_dim) =
        (heads.n_kv_heads as u32, heads.group() as u32, heads.head_dim as u32);
    let keys = window.map_or(capacity, |w| capacity.min(w as u64));
    let division = attention::division(rows, n_kv_heads.into(), group.into(), keys, card(b));
    let extent = attention::partials(division);
    let scratch = b.scratch(extent * size_of::<f32>())?;
    let ((q, q_stride), (k, k_stride), (v, v_stride)) = (read(&q), read(&k), read(&v));
    let ((positions, _), (out, out_stride)) = (read(&at.positions), write(&mut out));
    let mut launch = b.launch("attention", scalar, weight, attention::grid(division))?.overlapping(true);
    launch.cluster = division.cluster;
    let args = attention::Args {
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
        n_kv_heads,
        group,
        head_dim,
        scale: heads.scale(),
        partials: Out::new(scratch.address(), extent),
        counters: b.arrivals(),
        splits: division.splits,
        cluster: division.cluster,
    };
    // SAFETY: the operands are windows of tensors of these types, checked to have this extent; before the
    // kernel waits it reads positions alone, which only say what to prefetch, within the capacity. Where there are splits,
    // tiles are fewer than multiprocessors and so than counters, and the stream lets one launch at a time use
    // scratch and counters.
    launched("attention", unsafe { args.launch(launch) })
}

#[cfg(test)]
mod tests {
    use backend_api::{Heads, HostTensor};

    use super::*;

    /// Random elements, the same for the same seed.
    fn random(b: &B, rows: usize, cols: usize, dtype: DType, seed: u64) -> T {
        let mut tensor = b.alloc(&[rows, cols], dtype).unwrap();
        b.fill_random(&mut tensor, seed, 1.0).unwrap();
        tensor
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn heads_too_long_for_a_kernel_are_composed_in_f32_and_rounded() {
        let b = B::builder().poison(true).build().unwrap();
        let heads = Heads { n_heads: 4, n_kv_heads: 2, head_dim: 264 };
        let (rows, first, capacity) = (3, 600, 603);
        let positions = HostTensor::from_vec(&[1, rows], vec![600u32, 601, 602]).unwrap();
        let positions = b.to_device(&positions).unwrap();
        for dtype in [DType::F16, DType::BF16] {
            let q = random(&b, rows, heads.q_dim(), dtype, 1);
            let [k, v] = [2, 3].map(|seed| random(&b, capacity, heads.kv_dim(), dtype, seed));
            let attention = |q: &T, window| {
                let mut out = b.alloc(&[rows, heads.q_dim()], q.dtype).unwrap();
                let mut scratch = b.alloc(&[heads.n_heads, capacity], DType::F32).unwrap();
                let at = At { positions: Mat::new(&positions), first: Some(first), distinct: true };
                let (k, v, scratch) = (Mat::new(&k), Mat::new(&v), MatMut::new(&mut scratch));
                let (q, out_rows) = (Mat::new(q), MatMut::new(&mut out));
                let op = Attention { q, k, v, heads, window, at, out: out_rows, scratch };
                b.attention(op.check().unwrap()).unwrap();
                b.to_host(&out).unwrap()
            };
            let wide = b.to_device(&b.to_host(&q).unwrap().cast(DType::F32)).unwrap();
            for window in [None, Some(5)] {
                assert_eq!(
                    attention(&q, window),
                    attention(&wide, window).cast(dtype),
                    "{dtype}, {window:?}"
                );
            }
        }
    }
}
