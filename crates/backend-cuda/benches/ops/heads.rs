//! Attention over the cache of a layer, of one token and of a prompt: 32 query heads, 8 key/value heads of 128 elements.

use backend_cuda::backend_api::ops::{Attention, ComputeAttentionScores, WeightedSumRows};
use backend_cuda::{At, CudaBackend, DType, Heads, HostTensor, KernelBackend, Mat, MatMut, Result};

use crate::measure::{Bench, Bound, By, Case, Work, issue, random, sets};

pub(crate) const HEADS: Heads = Heads { n_heads: 32, n_kv_heads: 8, head_dim: 128 };
const KEYS: usize = 32_768;

pub(crate) fn all(bench: &mut Bench) {
    for dtype in [DType::BF16, DType::F32] {
        let case = |op, keys: usize| Case::new(op, format!("{keys} keys"), dtype, Bound::Read);
        bench.run(case("compute_attention_scores", KEYS), |b| scores(b, dtype));
        bench.run(case("weighted_sum_rows", KEYS), |b| sums(b, dtype));
        for keys in [512, 4096, KEYS] {
            bench.run(case("attention", keys), |b| attention(b, 1, keys, dtype));
        }
    }
    let dtype = DType::BF16;
    for (rows, by) in [(512, By::Torchless), (2048, By::Torchless), (2048, By::Older)] {
        let case = Case::new("attention", format!("prompt of {rows}"), dtype, Bound::Read);
        bench.run(Case { by, ..case }, |b| attention(b, rows, rows, dtype));
    }
}

fn scores(b: &CudaBackend, dtype: DType) -> Result<Work> {
    let q = random(b, &[1, HEADS.q_dim()], dtype)?;
    let n = sets(dtype.bytes(KEYS * HEADS.kv_dim()).unwrap());
    let set = |_| Ok((random(b, &[KEYS, HEADS.kv_dim()], dtype)?, b.alloc(&[HEADS.n_heads, KEYS], dtype)?));
    let mut sets = (0..n).map(set).collect::<Result<Vec<_>>>()?;
    Ok(Work::new(n, move |b, i| {
        let (k, out) = &mut sets[i];
        let (q, k, out) = (Mat::new(&q), Mat::new(k), MatMut::new(out));
        let op = ComputeAttentionScores { q, k, heads: HEADS, scale: HEADS.scale(), out };
        issue(op, |op| b.compute_attention_scores_into(op))
    }))
}

fn sums(b: &CudaBackend, dtype: DType) -> Result<Work> {
    let mut out = b.alloc(&[1, HEADS.q_dim()], dtype)?;
    let n = sets(dtype.bytes(KEYS * HEADS.kv_dim()).unwrap());
    let set = |_| Ok((random(b, &[HEADS.n_heads, KEYS], dtype)?, random(b, &[KEYS, HEADS.kv_dim()], dtype)?));
    let sets = (0..n).map(set).collect::<Result<Vec<_>>>()?;
    Ok(Work::new(n, move |b, i| {
        let (weights, rows) = &sets[i];
        let (weights, rows, out) = (Mat::new(weights), Mat::new(rows), MatMut::new(&mut out));
        issue(WeightedSumRows { weights, rows, heads: HEADS, out }, |op| b.weighted_sum_rows_into(op))
    }))
}

/// The last rows of as many positions as there are keys.
fn attention(b: &CudaBackend, rows: usize, keys: usize, dtype: DType) -> Result<Work> {
    let q = random(b, &[rows, HEADS.q_dim()], dtype)?;
    let mut out = b.alloc(&[rows, HEADS.q_dim()], dtype)?;
    let mut scratch = b.alloc(&[HEADS.n_heads, keys], DType::F32)?;
    let first = keys - rows;
    let positions =
        b.to_device(&HostTensor::from_vec(&[rows], (first..keys).map(|p| p as u32).collect())?)?;
    // The host knows the positions of a prompt, not those of a replayed step.
    let first = (rows > 1).then_some(first);
    let n = sets(dtype.bytes(2 * keys * HEADS.kv_dim()).unwrap());
    let cache = || random(b, &[keys, HEADS.kv_dim()], dtype);
    let caches = (0..n).map(|_| Ok((cache()?, cache()?))).collect::<Result<Vec<_>>>()?;
    Ok(Work::new(n, move |b, i| {
        let (k, v) = &caches[i];
        let op = Attention {
            q: Mat::new(&q),
            k: Mat::new(k),
            v: Mat::new(v),
            heads: HEADS,
            window: None,
            at: At { positions: Mat::vector(&positions), first, distinct: false },
            out: MatMut::new(&mut out),
            scratch: MatMut::new(&mut scratch),
        };
        issue(op, |op| b.attention(op))
    }))
}
