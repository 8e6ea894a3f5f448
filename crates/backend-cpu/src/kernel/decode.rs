//! Attention of one row of queries: the caches are streamed once, and memory sets the pace.

use backend_api::Heads;

use super::attention::{Query, for_each};
use super::element::Element;
use super::exp::exp;
use super::lanes::{Kernel, Lanes, dispatch};
use super::part::{part, part_mut};
use super::rows::Rows;
use super::scratch::with_scratch;

/// Keys that one task works on. The cut depends on nothing else, so that neither does the result.
const CHUNK: usize = 128;
/// Keys whose products are summed over the lanes together; the products stay in the first-level cache.
const BLOCK: usize = 8;

/// Attention of one row. The keys are cut into chunks; each gives, per head, its largest score, the sum of the
/// exponentials and the weighted sum of values, which are merged in the order of the chunks.
pub(crate) fn attend_one<K: Element>(query: Query<'_, K>, out: &mut [f32]) {
    let Heads { n_heads, head_dim, .. } = query.heads;
    let stride = n_heads.next_multiple_of(PADDING);
    let chunks = query.k.rows().div_ceil(CHUNK);
    let partial_len = 2 * stride + n_heads * head_dim;
    with_scratch(query.q.len().next_multiple_of(PADDING) + chunks * partial_len, |memory| {
        // Vectors that lie across two cache lines are slow, and the queries are read for every key.
        let (q, partials) = memory.split_at_mut(query.q.len().next_multiple_of(PADDING));
        let (q, _) = q.split_at_mut(query.q.len());
        q.copy_from_slice(query.q);
        let query = Query { q, ..query };
        let tasks: Vec<_> = partials.chunks_exact_mut(partial_len.max(1)).enumerate().collect();
        for_each(query.k.rows() * n_heads * head_dim, tasks, |(i, partial)| {
            let keys = i * CHUNK..(i + 1) * CHUNK;
            let query = Query { k: query.k.slice(keys.clone()), v: query.v.slice(keys), ..query };
            let lanes_len = BLOCK * stride * PADDING;
            with_scratch(lanes_len + stride * CHUNK, |memory| {
                let (lanes, scores) = memory.split_at_mut(lanes_len);
                dispatch(Chunk { query, stride, lanes, scores, partial });
            });
        });
        let partials = &*partials;
        let rows = out.chunks_exact_mut(head_dim.max(1)).enumerate().collect();
        for_each(partials.len(), rows, |(head, out)| {
            dispatch(Merge { partials, partial_len, head, stride, out });
        });
    });
}

/// Scores of a key are padded to a multiple of this, which every vector length divides.
const PADDING: usize = 16;

/// One chunk of keys for all heads. Keys and values are read in the order in which they lie.
struct Chunk<'a, K> {
    query: Query<'a, K>,
    stride: usize,
    /// `[BLOCK, stride]` vectors.
    lanes: &'a mut [f32],
    /// `[CHUNK, stride]`
    scores: &'a mut [f32],
    /// `[stride]` largest scores, `[stride]` sums of exponentials, `[n_heads, head_dim]` sums of values.
    partial: &'a mut [f32],
}

impl<K: Element> Kernel for Chunk<'_, K> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { query, stride, lanes, scores, partial } = self;
        let Query { q, k, v, heads, scale } = query;
        let scores = part_mut(scores, ..k.rows() * stride);
        let (lanes, _) = S::as_mut_simd_f32s(lanes);
        for (b, scores) in scores.chunks_mut(BLOCK * stride).enumerate() {
            prefetch_after(simd, k, b);
            let lanes = part_mut(lanes, ..scores.len());
            multiply_keys(simd, q, k.slice(b * BLOCK..(b + 1) * BLOCK), heads, lanes);
            sum_each(simd, lanes, scores);
        }
        let (state, sums) = partial.split_at_mut((2 * stride).min(partial.len()));
        let (largest, total) = state.split_at_mut(stride.min(state.len()));
        exponentials(simd, scores, scale, largest, total);
        sums.fill(0.0);
        for (b, weights) in scores.chunks(BLOCK * stride).enumerate() {
            prefetch_after(simd, v, b);
            add_values(simd, v.slice(b * BLOCK..(b + 1) * BLOCK), heads, (weights, stride), sums);
        }
    }
}

/// Asks for the block of rows that will be read after block `b`: several heads' vectors of a few rows are too
/// irregular for the machine to do so by itself.
#[inline(always)]
fn prefetch_after<S: Lanes, K>(simd: S, rows: Rows<'_, K>, b: usize) {
    for i in (b + 1) * BLOCK..(b + 2) * BLOCK {
        simd.prefetch(rows.row(i));
    }
}

/// Largest number of query heads that are worked on together.
const TOGETHER: usize = 4;

/// The products `q_h · key` of each head with the keys of a block, not yet summed over the lanes.
#[inline(always)]
fn multiply_keys<S: Lanes, K: Element>(
    simd: S,
    q: &[f32],
    k: Rows<'_, K>,
    heads: Heads,
    lanes: &mut [S::f32s],
) {
    let Heads { n_kv_heads, head_dim, .. } = heads;
    let group = heads.group();
    let stride = lanes.len() / k.rows().max(1);
    for kv in 0..n_kv_heads {
        let k = k.columns(kv * head_dim..(kv + 1) * head_dim);
        let mut head = kv * group;
        let end = head + group;
        while head < end {
            let q = part(q, head * head_dim..);
            let lanes = part_mut(lanes, head..);
            head += match end - head {
                1 => few_products::<S, K, 1>(simd, q, k, lanes, stride),
                2 | 3 => few_products::<S, K, 2>(simd, q, k, lanes, stride),
                _ => few_products::<S, K, TOGETHER>(simd, q, k, lanes, stride),
            };
        }
    }
}

/// The products of `G` heads with the rows of `k`, summed per lane; gives `G`.
#[inline(always)]
fn few_products<S: Lanes, K: Element, const G: usize>(
    simd: S,
    q: &[f32],
    k: Rows<'_, K>,
    lanes: &mut [S::f32s],
    stride: usize,
) -> usize {
    let steps = k.cols() / S::F32_LANES;
    let mut queries: [&[S::f32s]; G] = [&[]; G];
    let mut tails: [&[f32]; G] = [&[]; G];
    for (g, q) in q.chunks_exact(k.cols().max(1)).enumerate().take(G) {
        (queries[g], tails[g]) = S::as_simd_f32s(q);
    }
    if queries.iter().any(|q| q.len() != steps) {
        debug_assert!(false, "fewer than {G} heads of {} columns", k.cols());
        return G;
    }
    for (i, lanes) in lanes.chunks_mut(stride.max(1)).enumerate() {
        let (key, key_tail) = K::packed::<S>(k.row(i));
        let mut sums = [simd.splat_f32s(0.0); G];
        debug_assert_eq!(key.len(), steps);
        if key.len() == steps {
            for s in 0..steps {
                let key = K::widen(simd, key[s]);
                for g in 0..G {
                    sums[g] = simd.fma(queries[g][s], key, sums[g]);
                }
            }
        }
        if !key_tail.is_empty() {
            let key = K::widen(simd, K::partial(simd, key_tail));
            for g in 0..G {
                sums[g] = simd.fma(simd.partial_load_f32s(tails[g]), key, sums[g]);
            }
        }
        if let Some(lanes) = lanes.first_chunk_mut::<G>() {
            *lanes = sums;
        }
    }
    G
}

/// The sum of each vector's lanes; their number is a multiple of [`PADDING`].
#[inline(always)]
fn sum_each<S: Lanes>(simd: S, vectors: &[S::f32s], sums: &mut [f32]) {
    let (sums, _) = S::as_mut_simd_f32s(sums);
    for (vectors, sum) in vectors.chunks_exact(S::F32_LANES).zip(sums) {
        let mut square = simd.zero_square();
        for (to, &from) in square.as_mut().iter_mut().zip(vectors) {
            *to = from;
        }
        *sum = simd.sum_rows(square);
    }
}

/// Replaces the scores of each head by `e^(scale · score - m)`, `m` being the head's largest scaled score, and
/// writes `m` and the sum.
#[inline(always)]
fn exponentials<S: Lanes>(simd: S, scores: &mut [f32], scale: f32, largest: &mut [f32], total: &mut [f32]) {
    let low = simd.splat_f32s(f32::NEG_INFINITY);
    let factor = simd.splat_f32s(scale);
    let (scores, _) = S::as_mut_simd_f32s(scores);
    let (largest, _) = S::as_mut_simd_f32s(largest);
    let (total, _) = S::as_mut_simd_f32s(total);
    let stride = largest.len().max(1);
    for (i, (largest, total)) in largest.iter_mut().zip(total).enumerate() {
        let mut most = low;
        for score in scores.iter_mut().skip(i).step_by(stride) {
            *score = simd.mul_f32s(*score, factor);
            most = simd.max_f32s(*score, most);
        }
        *largest = most;
        let shift = simd.select_f32s(simd.equal_f32s(most, low), simd.splat_f32s(0.0), most);
        let mut sum = simd.splat_f32s(0.0);
        for score in scores.iter_mut().skip(i).step_by(stride) {
            *score = exp(simd, simd.sub_f32s(*score, shift));
            sum = simd.add_f32s(sum, *score);
        }
        *total = sum;
    }
}

/// Weights `[key, head]` from some head on, and the distance of their rows.
type Weights<'a> = (&'a [f32], usize);

/// `sums[h] += Σ weights[key, h] · v_key` for the keys of a block.
#[inline(always)]
fn add_values<S: Lanes, K: Element>(
    simd: S,
    v: Rows<'_, K>,
    heads: Heads,
    (weights, stride): Weights<'_>,
    sums: &mut [f32],
) {
    let Heads { n_kv_heads, head_dim, .. } = heads;
    let group = heads.group();
    for kv in 0..n_kv_heads {
        let v = v.columns(kv * head_dim..(kv + 1) * head_dim);
        let mut head = kv * group;
        let end = head + group;
        while head < end {
            let weights = (part(weights, head..), stride);
            let sums = part_mut(sums, head * head_dim..);
            head += match end - head {
                1 => few_sums::<S, K, 1>(simd, v, weights, sums),
                2 | 3 => few_sums::<S, K, 2>(simd, v, weights, sums),
                _ => few_sums::<S, K, TOGETHER>(simd, v, weights, sums),
            };
        }
    }
}

/// Adds the weighted rows of `v` to the sums of `G` heads; gives `G`.
#[inline(always)]
fn few_sums<S: Lanes, K: Element, const G: usize>(
    simd: S,
    v: Rows<'_, K>,
    weights: Weights<'_>,
    sums: &mut [f32],
) -> usize {
    let steps = v.cols() / S::F32_LANES;
    let wide = if S::REGISTER_COUNT >= 32 { 4 } else { 2 };
    let mut at = 0;
    while at < steps {
        at += match (steps - at, wide) {
            (4.., 4) => columns_of_sums::<S, K, G, 4>(simd, v, weights, sums, at),
            (2.., _) => columns_of_sums::<S, K, G, 2>(simd, v, weights, sums, at),
            _ => columns_of_sums::<S, K, G, 1>(simd, v, weights, sums, at),
        };
    }
    if !v.cols().is_multiple_of(S::F32_LANES) {
        for (g, sums) in sums.chunks_exact_mut(v.cols()).enumerate().take(G) {
            let (_, to) = S::as_mut_simd_f32s(sums);
            let mut sum = simd.partial_load_f32s(to);
            for (i, weights) in weights.0.chunks(weights.1.max(1)).enumerate().take(v.rows()) {
                let value = K::widen(simd, K::partial(simd, K::packed::<S>(v.row(i)).1));
                sum = simd.fma(simd.splat_f32s(weights.get(g).copied().unwrap_or(0.0)), value, sum);
            }
            simd.partial_store_f32s(to, sum);
        }
    }
    G
}

/// [`few_sums`] for the `P` vectors from vector `at` on, which stay in registers; gives `P`.
#[inline(always)]
fn columns_of_sums<S: Lanes, K: Element, const G: usize, const P: usize>(
    simd: S,
    v: Rows<'_, K>,
    (weights, stride): Weights<'_>,
    sums: &mut [f32],
    at: usize,
) -> usize {
    let mut totals = [[simd.splat_f32s(0.0); P]; G];
    for (total, sums) in totals.iter_mut().zip(sums.chunks_exact(v.cols())) {
        if let Some(sums) = S::as_simd_f32s(sums).0.get(at..).and_then(|sums| sums.first_chunk::<P>()) {
            *total = *sums;
        }
    }
    for (i, weights) in weights.chunks(stride.max(1)).enumerate().take(v.rows()) {
        let row = K::packed::<S>(v.row(i)).0.get(at..).and_then(|row| row.first_chunk::<P>());
        if let (Some(row), Some(weights)) = (row, weights.first_chunk::<G>()) {
            let mut values = [simd.splat_f32s(0.0); P];
            for p in 0..P {
                values[p] = K::widen(simd, row[p]);
            }
            for g in 0..G {
                let weight = simd.splat_f32s(weights[g]);
                for p in 0..P {
                    totals[g][p] = simd.fma(weight, values[p], totals[g][p]);
                }
            }
        }
    }
    for (total, sums) in totals.iter().zip(sums.chunks_exact_mut(v.cols())) {
        let to = S::as_mut_simd_f32s(sums).0.get_mut(at..).and_then(|sums| sums.first_chunk_mut::<P>());
        if let Some(to) = to {
            *to = *total;
        }
    }
    P
}

/// Merges the chunks' results for one head.
struct Merge<'a> {
    partials: &'a [f32],
    partial_len: usize,
    head: usize,
    stride: usize,
    out: &'a mut [f32],
}

impl Kernel for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { partials, partial_len, head, stride, out } = self;
        let chunks = || partials.chunks_exact(partial_len.max(1));
        let largest = chunks().fold(f32::NEG_INFINITY, |most, chunk| most.max(chunk[head]));
        let shift = if largest == f32::NEG_INFINITY { 0.0 } else { -largest };
        let mut total = 0.0;
        out.fill(0.0);
        for chunk in chunks() {
            let mut factor = [0.0];
            simd.partial_store_f32s(&mut factor, exp(simd, simd.splat_f32s(chunk[head] + shift)));
            total += factor[0] * chunk[stride + head];
            let start = 2 * stride + head * out.len();
            for (o, &v) in out.iter_mut().zip(&chunk[start..]) {
                *o += factor[0] * v;
            }
        }
        for o in out.iter_mut() {
            *o /= total;
        }
    }
}
