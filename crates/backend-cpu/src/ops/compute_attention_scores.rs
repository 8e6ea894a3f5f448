//! A product per group of heads or per head; the scale is applied to its result.

use backend_api::ops::ComputeAttentionScores;
use backend_api::{Heads, Result};

use crate::CpuTensor;
use crate::kernel::element::Element;
use crate::kernel::gemm;
use crate::kernel::part::part;
use crate::kernel::rows::{Rows, RowsMut};
use crate::kernel::rowwise::for_each_row;
use crate::tensor::{Widened, floats, update, with_floats};

pub(crate) fn compute_attention_scores(op: ComputeAttentionScores<'_, CpuTensor>) -> Result<()> {
    let ComputeAttentionScores { q, k, heads, scale, out } = op;
    let (q, k) = (Widened::new(q)?, floats(k)?);
    let q = q.rows()?;
    update(out, false, |mut out| {
        with_floats!(k, k => products(heads, q, k, out.reborrow()));
        for_each_row(out, |_, row| row.iter_mut().for_each(|score| *score *= scale));
        Ok(())
    })
}

/// The unscaled scores: a product per row and key/value head, or per query head, whichever makes fewer.
fn products<K: Element>(heads: Heads, q: Rows<'_, f32>, k: Rows<'_, K>, mut out: RowsMut<'_, f32>) {
    let Heads { n_heads, n_kv_heads, head_dim } = heads;
    let group = heads.group();
    let keys_of = |kv: usize| k.columns(kv * head_dim..(kv + 1) * head_dim);
    if q.rows() < group {
        for (row, kv) in (0..q.rows()).flat_map(|row| (0..n_kv_heads).map(move |kv| (row, kv))) {
            let queries = part(q.row(row), kv * group * head_dim..);
            let Some(queries) = Rows::contiguous(queries, group, head_dim) else { continue };
            let first = row * n_heads + kv * group;
            gemm::matmul(queries, keys_of(kv), out.slice(first..first + group), false);
        }
        return;
    }
    for head in 0..n_heads {
        let queries = q.columns(head * head_dim..(head + 1) * head_dim);
        gemm::matmul(queries, keys_of(head / group), out.every(n_heads, head), false);
    }
}
