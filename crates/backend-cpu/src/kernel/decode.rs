//! Attention of one row of queries: the caches are streamed once, and memory sets the pace.

use super::attention::{Heads, Query, for_each};
use super::element::Element;
use super::exp::exp;
use super::lanes::{Kernel, Lanes, dispatch};
use super::scratch::with_scratch;

/// Keys that one task works on. The cut depends on nothing else, so that neither does the result.
const CHUNK: usize = 128;

/// Attention of one row. The keys are cut into chunks; each gives, per head, its largest score, the sum of the
/// exponentials and the weighted sum of values, which are merged in the order of the chunks.
pub(crate) fn attend_one<K: Element>(query: Query<'_, K>, out: &mut [f32]) {
    let Heads { n_heads, head_dim, .. } = query.heads;
    let chunks = query.k.rows().div_ceil(CHUNK);
    let partial_len = n_heads * (head_dim + 2);
    with_scratch(chunks * partial_len, |partials| {
        let tasks: Vec<_> = partials.chunks_exact_mut(partial_len.max(1)).enumerate().collect();
        for_each(query.k.rows() * n_heads * head_dim, tasks, |(i, partial)| {
            let keys = i * CHUNK..(i + 1) * CHUNK;
            let part = Query { k: query.k.slice(keys.clone()), v: query.v.slice(keys), ..query };
            with_scratch(n_heads * CHUNK, |scores| dispatch(Chunk { query: part, scores, partial }));
        });
        let partials = &*partials;
        let rows = out.chunks_exact_mut(head_dim.max(1)).enumerate().collect();
        for_each(partials.len(), rows, |(head, out)| dispatch(Merge { partials, head, n_heads, out }));
    });
}

/// `partial` is `[n_heads]` largest scores, `[n_heads]` sums of exponentials, `[n_heads, head_dim]` sums of values.
struct Chunk<'a, K> {
    query: Query<'a, K>,
    scores: &'a mut [f32],
    partial: &'a mut [f32],
}

impl<K: Element> Kernel for Chunk<'_, K> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { query, scores, partial } = self;
        let Heads { n_heads, .. } = query.heads;
        if S::REGISTER_COUNT >= 32 {
            all_scores::<S, K, 4>(simd, &query, scores);
        } else {
            all_scores::<S, K, 2>(simd, &query, scores);
        }
        let (largest, rest) = partial.split_at_mut(n_heads.min(partial.len()));
        let (total, sums) = rest.split_at_mut(n_heads.min(rest.len()));
        let keys = query.k.rows();
        for ((row, largest), total) in scores.chunks_exact_mut(CHUNK).zip(largest).zip(total) {
            if let Some(row) = row.get_mut(..keys) {
                (*largest, *total) = exponentials(simd, row, query.scale);
            }
        }
        sums.fill(0.0);
        if S::REGISTER_COUNT >= 32 {
            all_values::<S, K, 4>(simd, &query, scores, sums);
        } else {
            all_values::<S, K, 2>(simd, &query, scores, sums);
        }
    }
}

/// Largest number of query heads that are worked on together.
const TOGETHER: usize = 4;

/// `scores[h, key] = q_h · k_key`, rows of [`CHUNK`], `N` keys at a time.
#[inline(always)]
fn all_scores<S: Lanes, K: Element, const N: usize>(simd: S, query: &Query<'_, K>, scores: &mut [f32]) {
    let Heads { n_kv_heads, head_dim, .. } = query.heads;
    let group = query.heads.group();
    let keys = query.k.rows();
    for key in (0..keys).step_by(N) {
        for kv in 0..n_kv_heads {
            let mut rows: [&[K]; N] = [&[]; N];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = part(query.k.row((key + i).min(keys - 1)), kv, head_dim);
            }
            let mut head = kv * group;
            let end = head + group;
            while head < end {
                let together = end - head;
                head += match together {
                    1 => few_scores::<S, K, N, 1>(simd, query, rows, head, key, scores),
                    2 | 3 => few_scores::<S, K, N, 2>(simd, query, rows, head, key, scores),
                    _ => few_scores::<S, K, N, TOGETHER>(simd, query, rows, head, key, scores),
                };
            }
        }
    }
}

/// Part `i` of a row of heads.
#[inline(always)]
fn part<T>(row: &[T], i: usize, head_dim: usize) -> &[T] {
    row.get(i * head_dim..(i + 1) * head_dim).unwrap_or(&[])
}

/// The scores of `G` heads and `N` keys; gives `G`.
#[inline(always)]
fn few_scores<S: Lanes, K: Element, const N: usize, const G: usize>(
    simd: S,
    query: &Query<'_, K>,
    keys: [&[K]; N],
    head: usize,
    key: usize,
    scores: &mut [f32],
) -> usize {
    let head_dim = query.heads.head_dim;
    let steps = head_dim / S::F32_LANES;
    let mut queries: [&[S::f32s]; G] = [&[]; G];
    let mut query_tails: [&[f32]; G] = [&[]; G];
    for g in 0..G {
        (queries[g], query_tails[g]) = S::as_simd_f32s(part(query.q, head + g, head_dim));
    }
    let mut heads: [&[K::Packed<S>]; N] = [&[]; N];
    let mut tails: [&[K]; N] = [&[]; N];
    for n in 0..N {
        (heads[n], tails[n]) = K::packed::<S>(keys[n]);
    }
    let mut sums = [[simd.splat_f32s(0.0); G]; N];
    if queries.iter().all(|q| q.len() == steps) && heads.iter().all(|k| k.len() == steps) {
        for i in 0..steps {
            for n in 0..N {
                let k = K::widen(simd, heads[n][i]);
                for g in 0..G {
                    sums[n][g] = simd.fma(queries[g][i], k, sums[n][g]);
                }
            }
        }
    }
    if !head_dim.is_multiple_of(S::F32_LANES) {
        for n in 0..N {
            let k = K::widen(simd, K::partial(simd, tails[n]));
            for g in 0..G {
                sums[n][g] = simd.fma(simd.partial_load_f32s(query_tails[g]), k, sums[n][g]);
            }
        }
    }
    let mut reduced = [0.0_f32; 16];
    reduce(simd, sums.as_flattened(), &mut reduced);
    for g in 0..G {
        let row = scores.get_mut((head + g) * CHUNK + key..(head + g + 1) * CHUNK).unwrap_or(&mut []);
        for (n, score) in row.iter_mut().enumerate().take(N) {
            *score = reduced[n * G + g];
        }
    }
    G
}

/// The sum of each vector's lanes.
#[inline(always)]
fn reduce<S: Lanes>(simd: S, vectors: &[S::f32s], sums: &mut [f32; 16]) {
    for (vectors, sums) in vectors.chunks(S::F32_LANES).zip(sums.chunks_mut(S::F32_LANES)) {
        let mut square = simd.zero_square();
        for (to, &from) in square.as_mut().iter_mut().zip(vectors) {
            *to = from;
        }
        let mut columns = simd.transpose(square);
        let mut width = S::F32_LANES;
        while width > 1 {
            width /= 2;
            for i in 0..width {
                let columns = columns.as_mut();
                columns[i] = simd.add_f32s(columns[i], columns[i + width]);
            }
        }
        if let (Some(to), Some(&sum)) = (S::as_mut_simd_f32s(sums).0.first_mut(), columns.as_mut().first()) {
            *to = sum;
        }
    }
}

/// Replaces scores by `e^(scale · score - m)`, `m` being the largest scaled score; gives `m` and the sum.
#[inline(always)]
fn exponentials<S: Lanes>(simd: S, scores: &mut [f32], scale: f32) -> (f32, f32) {
    let low = simd.splat_f32s(f32::NEG_INFINITY);
    let factor = simd.splat_f32s(scale);
    let (head, tail) = S::as_mut_simd_f32s(scores);
    let mut most = low;
    for v in head.iter_mut() {
        *v = simd.mul_f32s(*v, factor);
        most = simd.max_f32s(*v, most);
    }
    let mut largest = simd.reduce_max_f32s(most);
    for v in tail.iter_mut() {
        *v *= scale;
        largest = largest.max(*v);
    }
    let shift = simd.splat_f32s(if largest == f32::NEG_INFINITY { 0.0 } else { -largest });
    let mut sums = simd.splat_f32s(0.0);
    for v in head.iter_mut() {
        *v = exp(simd, simd.add_f32s(*v, shift));
        sums = simd.add_f32s(sums, *v);
    }
    let mut total = simd.reduce_sum_f32s(sums);
    if !tail.is_empty() {
        let values = exp(simd, simd.add_f32s(simd.partial_load_f32s(tail), shift));
        simd.partial_store_f32s(tail, values);
        for &v in tail.iter() {
            total += v;
        }
    }
    (largest, total)
}

/// `sums[h] = Σ_key weights[h, key] · v_key`, `N` keys at a time.
#[inline(always)]
fn all_values<S: Lanes, K: Element, const N: usize>(
    simd: S,
    query: &Query<'_, K>,
    weights: &[f32],
    sums: &mut [f32],
) {
    let keys = query.v.rows();
    let whole = keys - keys % N;
    for key in (0..whole).step_by(N) {
        value_rows::<S, K, N>(simd, query, key, weights, sums);
    }
    for key in whole..keys {
        value_rows::<S, K, 1>(simd, query, key, weights, sums);
    }
}

#[inline(always)]
fn value_rows<S: Lanes, K: Element, const N: usize>(
    simd: S,
    query: &Query<'_, K>,
    key: usize,
    weights: &[f32],
    sums: &mut [f32],
) {
    let Heads { n_kv_heads, head_dim, .. } = query.heads;
    let group = query.heads.group();
    for kv in 0..n_kv_heads {
        let mut rows: [&[K]; N] = [&[]; N];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = part(query.v.row(key + i), kv, head_dim);
        }
        let mut head = kv * group;
        let end = head + group;
        while head < end {
            let together = end - head;
            let weights = weights.get(head * CHUNK + key..).unwrap_or(&[]);
            let sums = sums.get_mut(head * head_dim..).unwrap_or(&mut []);
            head += match together {
                1 => few_values::<S, K, N, 1>(simd, rows, weights, sums, head_dim),
                2 | 3 => few_values::<S, K, N, 2>(simd, rows, weights, sums, head_dim),
                _ => few_values::<S, K, N, TOGETHER>(simd, rows, weights, sums, head_dim),
            };
        }
    }
}

/// Adds `N` weighted values to the sums of `G` heads; gives `G`.
#[inline(always)]
fn few_values<S: Lanes, K: Element, const N: usize, const G: usize>(
    simd: S,
    values: [&[K]; N],
    weights: &[f32],
    sums: &mut [f32],
    head_dim: usize,
) -> usize {
    let steps = head_dim / S::F32_LANES;
    let mut heads: [&[K::Packed<S>]; N] = [&[]; N];
    let mut tails: [&[K]; N] = [&[]; N];
    let mut factors = [[simd.splat_f32s(0.0); G]; N];
    for n in 0..N {
        (heads[n], tails[n]) = K::packed::<S>(values[n]);
        for (g, factor) in factors[n].iter_mut().enumerate() {
            *factor = simd.splat_f32s(weights.get(g * CHUNK + n).copied().unwrap_or(0.0));
        }
    }
    let mut targets = [const { None }; G];
    for (target, sums) in targets.iter_mut().zip(sums.chunks_exact_mut(head_dim)) {
        *target = Some(S::as_mut_simd_f32s(sums));
    }
    if heads.iter().all(|v| v.len() == steps) {
        for (g, target) in targets.iter_mut().enumerate() {
            let Some((whole, tail)) = target else { continue };
            for (i, sum) in whole.iter_mut().enumerate().take(steps) {
                for n in 0..N {
                    *sum = simd.fma(factors[n][g], K::widen(simd, heads[n][i]), *sum);
                }
            }
            if !tail.is_empty() {
                let mut sum = simd.partial_load_f32s(tail);
                for n in 0..N {
                    sum = simd.fma(factors[n][g], K::widen(simd, K::partial(simd, tails[n])), sum);
                }
                simd.partial_store_f32s(tail, sum);
            }
        }
    }
    G
}

/// Merges the chunks' results for one head.
struct Merge<'a> {
    partials: &'a [f32],
    head: usize,
    n_heads: usize,
    out: &'a mut [f32],
}

impl Kernel for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { partials, head, n_heads, out } = self;
        let chunk_len = n_heads * (out.len() + 2);
        let mut largest = f32::NEG_INFINITY;
        for chunk in partials.chunks_exact(chunk_len) {
            largest = largest.max(chunk[head]);
        }
        let shift = if largest == f32::NEG_INFINITY { 0.0 } else { -largest };
        let mut total = 0.0;
        out.fill(0.0);
        for chunk in partials.chunks_exact(chunk_len) {
            let factor: f32 = first_lane(simd, exp(simd, simd.splat_f32s(chunk[head] + shift)));
            total += factor * chunk[n_heads + head];
            let start = 2 * n_heads + head * out.len();
            for (o, &v) in out.iter_mut().zip(&chunk[start..]) {
                *o += factor * v;
            }
        }
        for o in out.iter_mut() {
            *o /= total;
        }
    }
}

/// The first lane.
#[inline(always)]
fn first_lane<S: Lanes>(simd: S, vector: S::f32s) -> f32 {
    let mut lane = [0.0];
    simd.partial_store_f32s(&mut lane, vector);
    lane[0]
}
