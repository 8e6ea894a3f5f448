//! Attention.
use super::element::Element;
use super::rows::{Rows, RowsMut};
pub(crate) fn attention<K: Element>(
    q: Rows<'_, f32>,
    k: Rows<'_, K>,
    v: Rows<'_, K>,
    (n_heads, n_kv, dim): (usize, usize, usize),
    scale: f32,
    window: Option<usize>,
    positions: &[u32],
    mut out: RowsMut<'_, f32>,
) {
    for (r, p) in positions.iter().enumerate() {
        let end = (*p as usize + 1).min(k.rows());
        let begin = window.map_or(0, |w| end.saturating_sub(w));
        for h in 0..n_heads {
            let g = h / (n_heads / n_kv) * dim;
            let qh = &q.row(r)[h * dim..(h + 1) * dim];
            let mut s: Vec<f32> = (begin..end)
                .map(|j| k.row(j)[g..g + dim].iter().zip(qh).map(|(k, q)| k.to_f32() * q).sum::<f32>() * scale)
                .collect();
            let m = s.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            s.iter_mut().for_each(|v| *v = (*v - m).exp());
            let t: f32 = s.iter().sum();
            let o = &mut out.row(r)[h * dim..(h + 1) * dim];
            o.fill(0.0);
            for (j, w) in s.iter().enumerate() {
                o.iter_mut().zip(&v.row(begin + j)[g..g + dim]).for_each(|(o, v)| *o += w / t * v.to_f32());
            }
        }
    }
}
