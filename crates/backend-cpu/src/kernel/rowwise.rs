//! Rowwise operations.
use super::rows::{Rows, RowsMut};

pub(crate) fn rmsnorm(mut x: RowsMut<'_, f32>, weight: &[f32], eps: f32) {
    for i in 0..x.rows() {
        let row = x.row(i);
        let s = row.iter().map(|v| v * v).sum::<f32>() / row.len() as f32;
        let s = 1.0 / (s + eps).sqrt();
        row.iter_mut().zip(weight).for_each(|(v, w)| *v = *v * s * w);
    }
}
pub(crate) fn softmax(mut x: RowsMut<'_, f32>) {
    for i in 0..x.rows() {
        let row = x.row(i);
        let m = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|v| *v = (*v - m).exp());
        let s: f32 = row.iter().sum();
        row.iter_mut().for_each(|v| *v /= s);
    }
}
pub(crate) fn silu(mut x: RowsMut<'_, f32>) {
    for i in 0..x.rows() {
        x.row(i).iter_mut().for_each(|v| *v /= 1.0 + (-*v).exp());
    }
}
pub(crate) fn scale(mut x: RowsMut<'_, f32>, s: f32) {
    for i in 0..x.rows() {
        x.row(i).iter_mut().for_each(|v| *v *= s);
    }
}
pub(crate) fn add(mut x: RowsMut<'_, f32>, y: Rows<'_, f32>) {
    for i in 0..x.rows() {
        x.row(i).iter_mut().zip(y.row(i)).for_each(|(v, y)| *v += y);
    }
}
pub(crate) fn mul(mut x: RowsMut<'_, f32>, y: Rows<'_, f32>) {
    for i in 0..x.rows() {
        x.row(i).iter_mut().zip(y.row(i)).for_each(|(v, y)| *v *= y);
    }
}
pub(crate) fn rope(row: &mut [f32], cos: &[f32], sin: &[f32], head_dim: usize) {
    for head in row.chunks_mut(head_dim) {
        let (a, b) = head.split_at_mut(head_dim / 2);
        for (((a, b), c), s) in a.iter_mut().zip(b).zip(cos).zip(sin) {
            (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
        }
    }
}
