//! Attention over a key/value cache: `softmax(scale · q kᵀ) v` per head, causal, with an optional window.

use backend_api::Heads;
use rayon::prelude::*;

use super::decode::attend_one;
use super::element::Element;
use super::prefill::attend_many;
use super::rows::{Rows, RowsMut};

/// Rows of queries from which the matrix products of [`attend_many`] pay.
const MANY: usize = 4;

/// The keys that a query at `position` sees: `max(0, position + 1 - window) ..= position`; a position beyond the cache counts
/// as its last.
pub(crate) fn visible(position: u32, window: Option<usize>, capacity: usize) -> std::ops::Range<usize> {
    let end = (position as usize).saturating_add(1).min(capacity);
    end.saturating_sub(window.unwrap_or(end))..end
}

/// Everything an attention reads.
pub(crate) struct Inputs<'a, K> {
    /// Queries `[rows, n_heads · head_dim]`.
    pub(crate) q: Rows<'a, f32>,
    /// Cached keys `[capacity, n_kv_heads · head_dim]`.
    pub(crate) k: Rows<'a, K>,
    /// Cached values, as many as keys.
    pub(crate) v: Rows<'a, K>,
    /// The heads.
    pub(crate) heads: Heads,
    /// What scores are multiplied with.
    pub(crate) scale: f32,
    /// The number of keys that a query sees at most.
    pub(crate) window: Option<usize>,
    /// The position of each row of queries.
    pub(crate) positions: &'a [u32],
}

/// Writes the attention of each row of queries to `out` `[rows, n_heads · head_dim]`.
///
/// Row `i` sees the keys [`visible`] from `positions[i]`, and no other row of the caches has an influence, whatever it
/// holds. A row that sees no key becomes NaN. Softmax and sums are `f32`.
pub(crate) fn attention<K: Element>(inputs: Inputs<'_, K>, out: RowsMut<'_, f32>) {
    debug_assert_eq!((inputs.q.rows(), inputs.q.rows()), (inputs.positions.len(), out.rows()));
    debug_assert_eq!(inputs.k.cols(), inputs.heads.n_kv_heads * inputs.heads.head_dim);
    if out.rows() == 0 || out.cols() == 0 {
        return;
    }
    if out.rows() < MANY {
        for (i, row) in out.into_rows().enumerate() {
            attend_one(inputs.query(i), row);
        }
    } else {
        attend_many(inputs, out);
    }
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
