//! Attention of many rows of queries: products of tiles, with a softmax that runs along the keys.
//!
//! Queries stand in the lanes: scores are `[key, query]`, so that maxima and sums need no work across lanes and the
//! weights are already packed for the product with the values, whose result is `[head_dim, query]`.

use super::attention::{Inputs, for_each};
use super::decode::attend_one;
use super::element::{Element, widen_with};
use super::exp::exp;
use super::lanes::{Kernel, Lanes, dispatch};
use super::part::{part, part_mut};
use super::rows::{ColumnTile, Rows, RowsMut};
use super::scratch::with_scratch;
use super::tile::{Blocks, Panels, multiply, pack_transposed, panel_width, panels_len};

/// Queries, over all heads of a group, that a task works on.
const QUERIES: usize = 256;
/// Keys that are worked on together.
const KEYS: usize = 112;

/// Attention of many rows; a task has some neighbouring rows and one key/value head.
pub(crate) fn attend_many<K: Element>(inputs: Inputs<'_, K>, out: RowsMut<'_, f32>) {
    let heads = inputs.heads;
    let group = heads.group();
    let rows_per_task = (QUERIES / group.max(1)).max(1);
    let mut tasks = Vec::new();
    let mut rest = out;
    let mut first = 0;
    while rest.rows() > 0 {
        let (rows, below) = rest.split_rows_at(rows_per_task);
        let count = rows.rows();
        for (kv, tile) in rows.into_column_tiles(group * heads.head_dim).into_iter().enumerate() {
            tasks.push((first, count, kv, tile));
        }
        first += count;
        rest = below;
    }
    // The last rows see the most keys: begin with them, so that the threads end together.
    tasks.reverse();
    for_each(usize::MAX, tasks, |(first, count, kv, mut tile)| {
        let inputs = inputs.of_kv_head(kv);
        let rows = first..first + count;
        let inputs =
            Inputs { q: inputs.q.slice(rows.clone()), positions: part(inputs.positions, rows), ..inputs };
        let width = dispatch(Width);
        let sizes = Sizes::new(count * group, heads.head_dim, width);
        let tile_mut = &mut tile;
        let done =
            with_scratch(sizes.total(), |memory| dispatch(Task { inputs, sizes, memory, tile: tile_mut }));
        if !done {
            for (i, row) in tile.rows.into_iter().enumerate() {
                attend_one(inputs.query(i), row);
            }
        }
    });
}

struct Width;

impl Kernel for Width {
    type Output = usize;

    #[inline(always)]
    fn run<S: Lanes>(self, _: S) -> usize {
        panel_width::<S>()
    }
}

/// Lengths of the parts of a task's memory.
#[derive(Clone, Copy)]
struct Sizes {
    /// Queries, filled up to whole panels.
    queries: usize,
    head_dim: usize,
}

impl Sizes {
    fn new(queries: usize, head_dim: usize, panel: usize) -> Self {
        Self { queries: queries.next_multiple_of(panel), head_dim }
    }

    /// Queries, scores, sums, rows of keys, packed keys or values, state of the softmax, limits.
    fn parts(self) -> [usize; 7] {
        let Self { queries, head_dim } = self;
        let padded = (head_dim + 14) * (KEYS + 14);
        [
            queries * head_dim,
            queries * KEYS,
            queries * head_dim,
            KEYS * head_dim,
            padded,
            3 * queries,
            2 * queries,
        ]
    }

    fn total(self) -> usize {
        self.parts().iter().map(|len| len.next_multiple_of(16)).sum()
    }
}

struct Task<'a, 'b, K> {
    inputs: Inputs<'a, K>,
    sizes: Sizes,
    memory: &'b mut [f32],
    tile: &'b mut ColumnTile<'a, f32>,
}

impl<K: Element> Kernel for Task<'_, '_, K> {
    /// False when nothing was written, because a value that some query must not see may not be finite.
    type Output = bool;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> Self::Output {
        let Self { inputs, sizes, memory, tile } = self;
        let (head_dim, queries) = (sizes.head_dim, sizes.queries);
        let mut rest = memory;
        let [queries_t, scores, sums, rows, packed, state, limits] = sizes.parts().map(|len| {
            let all = std::mem::take(&mut rest);
            let (padded, tail) = all.split_at_mut(len.next_multiple_of(16).min(all.len()));
            rest = tail;
            part_mut(padded, ..len)
        });
        pack_queries(simd, &inputs, sizes, sums, queries_t);
        let limits: &mut [u32] = bytemuck::cast_slice_mut(limits);
        let keys = fill_limits(&inputs, limits);
        let (starts, ends) = limits.split_at(queries);
        sums.fill(0.0);
        let (largest, others) = state.split_at_mut(queries);
        let (total, factors) = others.split_at_mut(queries);
        largest.fill(f32::NEG_INFINITY);
        total.fill(0.0);

        for from in (keys.all.0..keys.all.1).step_by(KEYS) {
            let count = KEYS.min(keys.all.1 - from);
            let seen_by_all = from >= keys.common.0 && from + count <= keys.common.1;
            let rows = part_mut(rows, ..count * head_dim);
            let blocks = Blocks::new::<S>(count);
            let k = part_mut(packed, ..blocks.len(head_dim));
            widen_rows(simd, inputs.k.slice(from..from + count), rows);
            if let Some(rows) = Rows::contiguous(rows, count, head_dim) {
                blocks.pack_all(rows, k);
            }
            let scores = part_mut(scores, ..queries * count);
            multiply(simd, blocks, k, queries_t, head_dim, &mut Panels { data: scores, rows: count }, false);
            if !seen_by_all {
                mask(simd, scores, starts, ends, from, count);
            }
            soften(simd, scores, count, Softmax { largest, total, factors });
            rescale(simd, sums, factors, head_dim);
            let finite = widen_rows(simd, inputs.v.slice(from..from + count), rows);
            if !seen_by_all && !finite {
                return false;
            }
            let blocks = Blocks::new::<S>(head_dim);
            let v = part_mut(packed, ..blocks.len(count));
            if let Some(rows) = Rows::contiguous(rows, count, head_dim) {
                blocks.pack_columns(rows, v);
            }
            multiply(simd, blocks, v, scores, count, &mut Panels { data: sums, rows: head_dim }, true);
        }
        write::<S>(tile, inputs.heads.group(), head_dim, sums, total);
        true
    }
}

/// Packs the scaled queries, the heads of a row next to each other. `memory` holds them meanwhile.
#[inline(always)]
fn pack_queries<S: Lanes, K: Element>(
    simd: S,
    inputs: &Inputs<'_, K>,
    sizes: Sizes,
    memory: &mut [f32],
    packed: &mut [f32],
) {
    let row_len = inputs.heads.group() * sizes.head_dim;
    for (i, to) in memory.chunks_exact_mut(row_len.max(1)).enumerate().take(inputs.q.rows()) {
        for (t, &q) in to.iter_mut().zip(inputs.q.row(i)) {
            *t = q * inputs.scale;
        }
    }
    let count = inputs.q.rows() * inputs.heads.group();
    if let Some(rows) = Rows::contiguous(&*memory, count, sizes.head_dim) {
        pack_transposed(simd, rows, part_mut(packed, ..panels_len::<S>(count, sizes.head_dim)));
    }
}

/// The keys that any row sees, and those that every row sees.
struct Keys {
    all: (usize, usize),
    common: (usize, usize),
}

/// Writes the first key of each query and the one after its last.
fn fill_limits<K: Element>(inputs: &Inputs<'_, K>, limits: &mut [u32]) -> Keys {
    let queries = limits.len() / 2;
    let (starts, ends) = limits.split_at_mut(queries);
    let group = inputs.heads.group().max(1);
    starts.fill(0);
    ends.fill(u32::MAX);
    let mut keys = Keys { all: (usize::MAX, 0), common: (0, usize::MAX) };
    for i in 0..inputs.q.rows() {
        let seen = inputs.visible(i);
        keys.all = (keys.all.0.min(seen.start), keys.all.1.max(seen.end));
        keys.common = (keys.common.0.max(seen.start), keys.common.1.min(seen.end));
        for lane in i * group..(i + 1) * group {
            starts[lane] = u32::try_from(seen.start).unwrap_or(u32::MAX);
            ends[lane] = u32::try_from(seen.end).unwrap_or(u32::MAX);
        }
    }
    keys
}

/// Widens rows one after the other; gives whether all values are finite.
#[inline(always)]
fn widen_rows<S: Lanes, K: Element>(simd: S, from: Rows<'_, K>, to: &mut [f32]) -> bool {
    for (i, to) in to.chunks_exact_mut(from.cols().max(1)).enumerate() {
        widen_with(simd, from.row(i), to);
    }
    let zero = simd.splat_f32s(0.0);
    let (head, tail) = S::as_simd_f32s(to);
    let mut sum = simd.fma(simd.partial_load_f32s(tail), zero, zero);
    for &v in head {
        sum = simd.fma(v, zero, sum);
    }
    simd.reduce_sum_f32s(sum) == 0.0
}

/// Sets the scores of keys that a query does not see to -∞; `scores` are panels of `count` keys from `from` on.
#[inline(always)]
fn mask<S: Lanes>(simd: S, scores: &mut [f32], starts: &[u32], ends: &[u32], from: usize, count: usize) {
    let low = simd.splat_f32s(f32::NEG_INFINITY);
    let width = panel_width::<S>();
    let limits = starts.chunks_exact(width).zip(ends.chunks_exact(width));
    for (panel, (starts, ends)) in scores.chunks_exact_mut(width * count).zip(limits) {
        let (starts, ends) = (S::as_simd_u32s(starts).0, S::as_simd_u32s(ends).0);
        for (i, row) in panel.chunks_exact_mut(width).enumerate() {
            let key = simd.splat_u32s((from + i) as u32);
            for ((score, &start), &end) in S::as_mut_simd_f32s(row).0.iter_mut().zip(starts).zip(ends) {
                let kept = simd.select_f32s(simd.less_than_u32s(key, end), *score, low);
                *score = simd.select_f32s(simd.greater_than_or_equal_u32s(key, start), kept, low);
            }
        }
    }
}

/// State per query: largest score so far, sum of exponentials, what the sums so far are to be multiplied with.
struct Softmax<'a> {
    largest: &'a mut [f32],
    total: &'a mut [f32],
    factors: &'a mut [f32],
}

/// Replaces the scores of `count` keys by their exponentials and brings the state up to date.
#[inline(always)]
fn soften<S: Lanes>(simd: S, scores: &mut [f32], count: usize, state: Softmax<'_>) {
    let low = simd.splat_f32s(f32::NEG_INFINITY);
    let zero = simd.splat_f32s(0.0);
    let (largest, _) = S::as_mut_simd_f32s(state.largest).0.as_chunks_mut::<2>();
    let (total, _) = S::as_mut_simd_f32s(state.total).0.as_chunks_mut::<2>();
    let (factors, _) = S::as_mut_simd_f32s(state.factors).0.as_chunks_mut::<2>();
    let panels = scores.chunks_exact_mut(panel_width::<S>() * count);
    for (((panel, largest), total), factors) in panels.zip(largest).zip(total).zip(factors) {
        let (panel, _) = S::as_mut_simd_f32s(panel).0.as_chunks_mut::<2>();
        let mut most = *largest;
        for row in panel.iter() {
            for h in 0..2 {
                most[h] = simd.max_f32s(row[h], most[h]);
            }
        }
        let mut shift = most;
        for h in 0..2 {
            shift[h] = simd.select_f32s(simd.equal_f32s(most[h], low), zero, most[h]);
            factors[h] = exp(simd, simd.sub_f32s(largest[h], shift[h]));
            total[h] = simd.mul_f32s(total[h], factors[h]);
        }
        *largest = most;
        let mut sums = [zero; 2];
        for row in panel.iter_mut() {
            for h in 0..2 {
                row[h] = exp(simd, simd.sub_f32s(row[h], shift[h]));
                sums[h] = simd.add_f32s(sums[h], row[h]);
            }
        }
        for h in 0..2 {
            total[h] = simd.add_f32s(total[h], sums[h]);
        }
    }
}

/// Multiplies the sums of each query with its factor.
#[inline(always)]
fn rescale<S: Lanes>(simd: S, sums: &mut [f32], factors: &[f32], head_dim: usize) {
    let width = panel_width::<S>();
    for (panel, factors) in sums.chunks_exact_mut(width * head_dim).zip(factors.chunks_exact(width)) {
        let factors = S::as_simd_f32s(factors).0;
        for row in panel.chunks_exact_mut(width) {
            for (sum, &factor) in S::as_mut_simd_f32s(row).0.iter_mut().zip(factors) {
                *sum = simd.mul_f32s(*sum, factor);
            }
        }
    }
}

/// Divides by the sums of exponentials and puts every query's result into its row.
#[inline(always)]
fn write<S: Lanes>(
    tile: &mut ColumnTile<'_, f32>,
    group: usize,
    head_dim: usize,
    sums: &[f32],
    total: &[f32],
) {
    let width = panel_width::<S>();
    for (i, row) in tile.rows.iter_mut().enumerate() {
        for (j, to) in row.chunks_exact_mut(head_dim).enumerate() {
            let query = i * group + j;
            let factor = 1.0 / total.get(query).copied().unwrap_or(f32::NAN);
            let start = query / width * width * head_dim + query % width;
            let values = part(sums, start..).iter().step_by(width);
            for (t, &v) in to.iter_mut().zip(values) {
                *t = v * factor;
            }
        }
    }
}
