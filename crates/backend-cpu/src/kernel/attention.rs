//! Attention over a key/value cache: `softmax(scale · q kᵀ) v` per head, causal, with an optional window.

use rayon::prelude::*;

use super::element::Element;
use super::decode::attend_one;
use super::prefill::attend_many;
use super::rows::{Rows, RowsMut};

/// The heads of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heads {
    /// Query heads; a multiple of `n_kv_heads`.
    pub(crate) n_heads: usize,
    /// Key and value heads; each serves `n_heads / n_kv_heads` neighbouring query heads.
    pub(crate) n_kv_heads: usize,
    /// Length of a head's vectors.
    pub(crate) head_dim: usize,
}

impl Heads {
    /// Query heads that share a key/value head.
    pub(crate) fn group(self) -> usize {
        self.n_heads / self.n_kv_heads.max(1)
    }
}

/// Rows of queries from which the matrix products of [`attend_many`] pay.
const MANY: usize = 4;

/// The keys that a query at `position` sees: `max(0, position + 1 - window) ..= position`, within the cache.
pub(crate) fn visible(position: u32, window: Option<usize>, capacity: usize) -> std::ops::Range<usize> {
    let end = (position as usize).saturating_add(1);
    end.saturating_sub(window.unwrap_or(end)).min(capacity)..end.min(capacity)
}

/// Attention of `q` `[rows, n_heads · head_dim]` over the caches `k` and `v` `[capacity, n_kv_heads · head_dim]`.
///
/// Row `i` sees the keys [`visible`] from `positions[i]`, and no other row of the caches has an influence, whatever it
/// holds. A row that sees no key becomes NaN. Softmax and sums are `f32`.
pub(crate) fn attention<K: Element>(
    q: Rows<'_, f32>,
    k: Rows<'_, K>,
    v: Rows<'_, K>,
    heads: Heads,
    scale: f32,
    window: Option<usize>,
    positions: &[u32],
    out: RowsMut<'_, f32>,
) {
    debug_assert_eq!((q.rows(), q.rows()), (positions.len(), out.rows()));
    debug_assert_eq!(k.cols(), heads.n_kv_heads * heads.head_dim);
    let inputs = Inputs { q, k, v, heads, scale, window, positions };
    if out.rows() == 0 || out.cols() == 0 {
        return;
    }
    if q.rows() < MANY {
        for (i, row) in out.into_rows().enumerate() {
            attend_one(inputs.query(i), row);
        }
    } else {
        attend_many(inputs, out);
    }
}

/// Everything an attention reads.
pub(crate) struct Inputs<'a, K> {
    pub(crate) q: Rows<'a, f32>,
    pub(crate) k: Rows<'a, K>,
    pub(crate) v: Rows<'a, K>,
    pub(crate) heads: Heads,
    pub(crate) scale: f32,
    pub(crate) window: Option<usize>,
    pub(crate) positions: &'a [u32],
}

impl<K> Clone for Inputs<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Inputs<'_, K> {}

/// One row of queries with the keys and values that it sees.
pub(crate) struct Query<'a, K> {
    pub(crate) q: &'a [f32],
    pub(crate) k: Rows<'a, K>,
    pub(crate) v: Rows<'a, K>,
    pub(crate) heads: Heads,
    pub(crate) scale: f32,
}

impl<K> Clone for Query<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Query<'_, K> {}

impl<'a, K> Inputs<'a, K> {
    /// The keys that row `i` sees.
    pub(crate) fn visible(&self, i: usize) -> std::ops::Range<usize> {
        self.positions.get(i).map_or(0..0, |&p| visible(p, self.window, self.k.rows().min(self.v.rows())))
    }

    /// Row `i` by itself.
    pub(crate) fn query(&self, i: usize) -> Query<'a, K> {
        let keys = self.visible(i);
        Query {
            q: self.q.row(i),
            k: self.k.slice(keys.clone()),
            v: self.v.slice(keys),
            heads: self.heads,
            scale: self.scale,
        }
    }

    /// The part that belongs to key/value head `head`.
    pub(crate) fn of_kv_head(&self, head: usize) -> Self {
        let Heads { head_dim, .. } = self.heads;
        let group = self.heads.group();
        let columns = head * head_dim..(head + 1) * head_dim;
        Self {
            q: self.q.columns(columns.start * group..columns.end * group),
            k: self.k.columns(columns.clone()),
            v: self.v.columns(columns),
            heads: Heads { n_heads: group, n_kv_heads: 1, head_dim },
            ..*self
        }
    }
}

/// Calls `body` for every item, on several threads when `work` multiply-adds are worth it.
pub(crate) fn for_each<T: Send>(work: usize, items: Vec<T>, body: impl Fn(T) + Send + Sync) {
    if work < 1 << 17 || items.len() < 2 {
        items.into_iter().for_each(body);
    } else {
        items.into_par_iter().with_max_len(1).for_each(body);
    }
}
