//! A product per group of heads or per head, straight into the columns of the result.

use backend_api::ops::WeightedSumRows;
use backend_api::{Heads, Result};

use crate::CpuTensor;
use crate::kernel::element::Element;
use crate::kernel::gemm;
use crate::kernel::part::part_mut;
use crate::kernel::rows::{Rows, RowsMut};
use crate::tensor::{Widened, floats, update, with_floats};

pub(crate) fn weighted_sum_rows(op: WeightedSumRows<'_, CpuTensor>) -> Result<()> {
    let WeightedSumRows { weights, rows, heads, out } = op;
    let (weights, rows) = (Widened::new(weights)?, floats(rows)?);
    let weights = weights.rows()?;
    update(out, false, |out| {
        with_floats!(rows, rows => products(heads, weights, rows, out));
        Ok(())
    })
}

/// A product per row and key/value head, or per query head, whichever makes fewer.
fn products<V: Element>(heads: Heads, weights: Rows<'_, f32>, rows: Rows<'_, V>, mut out: RowsMut<'_, f32>) {
    let Heads { n_heads, n_kv_heads, head_dim } = heads;
    let group = heads.group();
    let values_of = |kv: usize| rows.columns(kv * head_dim..(kv + 1) * head_dim);
    if out.rows() < group {
        for (row, kv) in (0..out.rows()).flat_map(|row| (0..n_kv_heads).map(move |kv| (row, kv))) {
            let first = row * n_heads + kv * group;
            let sums = part_mut(out.row(row), kv * group * head_dim..);
            let Some(sums) = RowsMut::contiguous(sums, group, head_dim) else { continue };
            gemm::matmul_plain(weights.slice(first..first + group), values_of(kv), sums, false);
        }
        return;
    }
    for head in 0..n_heads {
        let sums = out.columns(head * head_dim..(head + 1) * head_dim);
        gemm::matmul_plain(weights.every(n_heads, head), values_of(head / group), sums, false);
    }
}
