//! Caches and scores of more than 2^31 elements.

use backend_api::ops::{Attention, ComputeAttentionScores, WeightedSumRows};
use backend_api::{At, DType, Heads, KernelBackend, Mat, MatMut, Op};

use super::{
    ALL, COLS, DTYPE, MEMORY, ROWS, SEED, SPAN, case, check_from, element, elements, filled, index, put,
    rows, sized,
};
use crate::Failure;
use crate::case::Run;
use crate::host::{Host, round};
use crate::ops::attention::{head, seen};
use crate::ops::compute_attention_scores::score;
use crate::ops::weighted_sum_rows;
use crate::report::Step;
use crate::tolerance::{Judge, Want};

/// Every head has keys of its own.
const SINGLE: Heads = Heads { n_heads: 8, n_kv_heads: 8, head_dim: COLS / 8 };

/// Four heads share keys.
const GROUPS: Heads = Heads { n_heads: 32, ..SINGLE };

pub(in crate::ops) fn attention<B: KernelBackend>(run: &mut Run<'_, B>) -> Result<(), Failure> {
    let _alone = MEMORY.lock();
    run.case(&case("caches"), "a token sees all", all_keys)?;
    for rows in [1, 64] {
        run.case(&case("caches"), &format!("{rows} tokens see the last"), |b| the_last(b, rows))?;
    }
    Ok(())
}

/// Queries at the end of a cache.
fn attend<B: KernelBackend>(
    b: &B,
    (q, k, v): (&B::Tensor, &B::Tensor, &B::Tensor),
    heads: Heads,
    window: Option<usize>,
) -> Step<B::Tensor> {
    let queries = Mat::new(q).n_rows();
    let first = ROWS - queries;
    let positions = index(b, |row| first + row, queries)?;
    let mut out = b.alloc(&[queries, heads.q_dim()], DTYPE)?;
    let mut scratch = b.alloc(&[heads.n_heads, ROWS], DType::F32)?;
    let op = Attention {
        q: Mat::new(q),
        k: Mat::new(k),
        v: Mat::new(v),
        heads,
        window,
        at: At { positions: Mat::vector(&positions), first: Some(first), distinct: false },
        out: MatMut::new(&mut out),
        scratch: MatMut::new(&mut scratch),
    };
    b.attention(op.check()?)?;
    Ok(out)
}

/// Some keys lie along the queries, and so far out that all others together weigh nothing: 2^21 e^-30.
fn all_keys<B: KernelBackend>(b: &B) -> Step {
    let (q, v) = (filled(b, (1, COLS), SEED + 2, 1.0)?, filled(b, ALL, SEED + 1, 2.0)?);
    let mut k = filled(b, ALL, SEED, 0.01)?;
    let query = elements(SEED + 2, 0, COLS, 1.0);
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for (n, row) in rows(ROWS, COLS).into_iter().enumerate() {
        let along: Vec<f64> = query.iter().map(|q| round(DTYPE, q * (8.0 + n as f64 / 4.0))).collect();
        put(b, &mut k, row * COLS, &along)?;
        keys.push(along);
        values.push(elements(SEED + 1, row * COLS, COLS, 2.0));
    }
    let out = attend(b, (&q, &k, &v), SINGLE, None)?;
    let want = (0..SINGLE.n_heads).flat_map(|h| of_head(&query, &keys, &values, SINGLE, h));
    check_from(b, &out, 0, &want.collect::<Vec<_>>(), Judge::Fused(DTYPE))
}

/// A head's output of a row of queries that sees these rows of keys and values.
fn of_head(q: &[f64], keys: &[Vec<f64>], values: &[Vec<f64>], heads: Heads, h: usize) -> Vec<Want> {
    let (dim, kv) = (heads.head_dim, h / heads.group() * heads.head_dim);
    let keys: Vec<&[f64]> = keys.iter().map(|row| &row[kv..kv + dim]).collect();
    let values: Vec<&[f64]> = values.iter().map(|row| &row[kv..kv + dim]).collect();
    head(&q[h * dim..(h + 1) * dim], &keys, &values, heads.scale(), DTYPE)
}

/// A window at the end, on both sides of element 2^31.
fn the_last<B: KernelBackend>(b: &B, queries: usize) -> Step {
    let window = Some(100);
    let q = filled(b, (queries, GROUPS.q_dim()), SEED + 2, 3.0)?;
    let (k, v) = (filled(b, ALL, SEED, 2.0)?, filled(b, ALL, SEED + 1, 2.0)?);
    let out = attend(b, (&q, &k, &v), GROUPS, window)?;
    for row in [0, queries - 1] {
        let cached = |seed| {
            let seen = seen(ROWS - queries + row, ROWS, window);
            seen.map(|j| elements(seed, j * COLS, COLS, 2.0)).collect::<Vec<_>>()
        };
        let (keys, values) = (cached(SEED), cached(SEED + 1));
        let query = elements(SEED + 2, row * GROUPS.q_dim(), GROUPS.q_dim(), 3.0);
        let want = (0..GROUPS.n_heads).flat_map(|h| of_head(&query, &keys, &values, GROUPS, h));
        check_from(b, &out, row * GROUPS.q_dim(), &want.collect::<Vec<_>>(), Judge::Fused(DTYPE))?;
    }
    Ok(())
}

pub(in crate::ops) fn compute_attention_scores<B: KernelBackend>(
    run: &mut Run<'_, B>,
) -> Result<(), Failure> {
    let _alone = MEMORY.lock();
    run.case(&case("keys"), "into", |b| scores(b, 1, ROWS, GROUPS))?;
    // With as many keys, 2^31 scores and some more.
    let (queries, keys, heads) = (64, (1 << 20) + 2, Heads { n_heads: 32, n_kv_heads: 1, head_dim: 64 });
    run.case(&sized("scores", (queries * heads.n_heads, keys)), "into", |b| scores(b, queries, keys, heads))
}

fn scores<B: KernelBackend>(b: &B, queries: usize, keys: usize, heads: Heads) -> Step {
    let Heads { n_heads, head_dim, .. } = heads;
    let q = filled(b, (queries, heads.q_dim()), SEED + 1, 2.0)?;
    let k = filled(b, (keys, heads.kv_dim()), SEED, 2.0)?;
    let mut out = b.alloc(&[queries * n_heads, keys], DTYPE)?;
    let (scale, to) = (heads.scale(), MatMut::new(&mut out));
    let op = ComputeAttentionScores { q: Mat::new(&q), k: Mat::new(&k), heads, scale, out: to };
    b.compute_attention_scores_into(op.check()?)?;
    let of_keys = [0, 65_535, 65_536, keys / 2, keys - 4096, keys - 2, keys - 1];
    for (row, h, j) in [0, queries / 2, queries - 1]
        .into_iter()
        .flat_map(|row| [0, 13, n_heads - 1].map(|h| (row, h)))
        .flat_map(|(row, h)| of_keys.map(|j| (row, h, j)))
    {
        let query = elements(SEED + 1, row * heads.q_dim() + h * head_dim, head_dim, 2.0);
        let at = j * heads.kv_dim() + h / heads.group() * head_dim;
        let want = score(&query, &elements(SEED, at, head_dim, 2.0), scale);
        check_from(b, &out, (row * n_heads + h) * keys + j, &[want], Judge::Reduction)?;
    }
    Ok(())
}

pub(in crate::ops) fn weighted_sum_rows<B: KernelBackend>(run: &mut Run<'_, B>) -> Result<(), Failure> {
    let _alone = MEMORY.lock();
    run.case(&case("rows"), "some have a weight", |b| {
        let values = filled(b, ALL, SEED, 2.0)?;
        let mut weights = filled(b, (SINGLE.n_heads, ROWS), SEED + 1, 0.0)?;
        let (weighed, weight) = (rows(ROWS, COLS), |h: usize, n: usize| element(SEED + 2, h * SPAN + n, 1.0));
        for (h, (n, row)) in
            (0..SINGLE.n_heads).flat_map(|h| weighed.into_iter().enumerate().map(move |r| (h, r)))
        {
            put(b, &mut weights, h * ROWS + row, &[weight(h, n)])?;
        }
        let out = sums(b, &weights, &values, SINGLE)?;
        let some = Host::from_fn((SINGLE.n_heads, weighed.len()), DTYPE, weight);
        let values =
            Host::from_fn((weighed.len(), COLS), DTYPE, |n, c| element(SEED, weighed[n] * COLS + c, 2.0));
        check_from(b, &out, 0, &weighted_sum_rows::reference(&some, &values, SINGLE), Judge::Reduction)
    })?;
    run.case(&case("weights"), "into", |b| {
        let heads = Heads::single(64);
        let weights = filled(b, ALL, SEED, 1.0)?;
        let values = filled(b, (COLS, heads.head_dim), SEED + 1, 2.0)?;
        let out = sums(b, &weights, &values, heads)?;
        let values = Host::random(SEED + 1, (COLS, heads.head_dim), DTYPE, 2.0);
        rows(ROWS, COLS).into_iter().try_for_each(|row| {
            let data = elements(SEED, row * COLS, COLS, 1.0);
            let weights = Host { dtype: DTYPE, rows: 1, cols: COLS, data };
            let want = weighted_sum_rows::reference(&weights, &values, heads);
            check_from(b, &out, row * heads.head_dim, &want, Judge::Reduction)
        })
    })
}

fn sums<B: KernelBackend>(b: &B, weights: &B::Tensor, rows: &B::Tensor, heads: Heads) -> Step<B::Tensor> {
    let (weights, rows) = (Mat::new(weights), Mat::new(rows));
    let mut out = b.alloc(&[weights.n_rows() / heads.n_heads, heads.q_dim()], DTYPE)?;
    b.weighted_sum_rows_into(WeightedSumRows { weights, rows, heads, out: MatMut::new(&mut out) }.check()?)?;
    Ok(out)
}
