//! Products of several heads: a launch per row and key/value head.

use std::ops::Range;

use backend_api::ops::{ComputeAttentionScores, WeightedSumRows};
use backend_api::{Heads, Result};

use crate::ops::{scores_of_head, sum_of_head};
use crate::{CudaBackend, CudaTensor};

pub(crate) fn compute_attention_scores(
    b: &CudaBackend,
    op: ComputeAttentionScores<'_, CudaTensor>,
) -> Result<()> {
    let ComputeAttentionScores { q, k, heads, scale, mut out } = op;
    if heads.n_heads == 1 {
        return scores_of_head(b, q, k, scale, out);
    }
    each_group(heads, q.n_rows(), |row, group| {
        let q = q.sub(row..row + 1, group.of_q)?.reshaped(heads.group(), heads.head_dim)?;
        scores_of_head(b, q, k.cols(group.of_kv)?, scale, out.by_ref().rows(group.rows)?)
    })
}

pub(crate) fn weighted_sum_rows(b: &CudaBackend, op: WeightedSumRows<'_, CudaTensor>) -> Result<()> {
    let WeightedSumRows { weights, rows, heads, mut out } = op;
    if heads.n_heads == 1 {
        return sum_of_head(b, weights, rows, out);
    }
    each_group(heads, out.n_rows(), |row, group| {
        let out = out.by_ref().sub(row..row + 1, group.of_q)?.reshaped(heads.group(), heads.head_dim)?;
        sum_of_head(b, weights.rows(group.rows)?, rows.cols(group.of_kv)?, out)
    })
}

/// Where a row's heads that share a key/value head lie.
struct Group {
    /// Columns among the query heads.
    of_q: Range<usize>,
    /// Columns among the key/value heads.
    of_kv: Range<usize>,
    /// Rows where heads are rows.
    rows: Range<usize>,
}

fn each_group(heads: Heads, rows: usize, mut f: impl FnMut(usize, Group) -> Result<()>) -> Result<()> {
    let (group, dim) = (heads.group(), heads.head_dim);
    for row in 0..rows {
        for kv in 0..heads.n_kv_heads {
            let first = row * heads.n_heads + kv * group;
            let of_q = kv * group * dim..(kv + 1) * group * dim;
            f(row, Group { of_q, of_kv: kv * dim..(kv + 1) * dim, rows: first..first + group })?;
        }
    }
    Ok(())
}
