use half::{bf16, f16};

use super::{at_every_level, random, stored};
use backend_api::Heads;

use crate::kernel::attention::{Inputs, attention};
use crate::kernel::element::Element;
use crate::kernel::rows::{Rows, RowsMut};

/// One attention of the test: rows, cache, heads, window, first position.
#[derive(Clone, Copy, Debug)]
struct Case {
    rows: usize,
    capacity: usize,
    heads: Heads,
    window: Option<usize>,
    first: u32,
}

fn check_attention<K: Element>(case: Case) {
    let Case { rows, capacity, heads, window, first } = case;
    let Heads { n_heads, n_kv_heads, head_dim } = heads;
    let (q_cols, k_cols) = (n_heads * head_dim, n_kv_heads * head_dim);
    let positions: Vec<u32> = (0..rows as u32).map(|i| first + i).collect();
    let last = positions.iter().max().map_or(0, |&p| p as usize + 1).min(capacity);
    let q = random(6, rows * (q_cols + 2));
    let mut k: Vec<K> = stored(&random(7, capacity * k_cols));
    let mut v: Vec<K> = stored(&random(8, capacity * k_cols));
    for cache in [&mut k, &mut v] {
        cache[last * k_cols..].fill(K::from_f32(f32::NAN));
    }
    let scale = 1.7 / (head_dim as f32).sqrt();
    let mut out = vec![7.0; rows * (q_cols + 1)];
    let run = |out: &mut [f32]| {
        let inputs = Inputs {
            q: Rows::new(&q, rows, q_cols, q_cols + 2).unwrap(),
            k: Rows::contiguous(&k, capacity, k_cols).unwrap(),
            v: Rows::contiguous(&v, capacity, k_cols).unwrap(),
            heads,
            scale,
            window,
            positions: &positions,
        };
        attention(inputs, RowsMut::new(out, rows, q_cols, q_cols + 1).unwrap());
    };
    run(&mut out);
    for (i, &position) in positions.iter().enumerate() {
        let end = (position as usize + 1).min(capacity);
        let start = (position as usize + 1).saturating_sub(window.unwrap_or(usize::MAX));
        for h in 0..n_heads {
            let kv = h / (n_heads / n_kv_heads) * head_dim;
            let query = &q[i * (q_cols + 2) + h * head_dim..][..head_dim];
            let score = |key: usize| {
                let row = &k[key * k_cols + kv..][..head_dim];
                let sum: f64 =
                    query.iter().zip(row).map(|(&a, &b)| f64::from(a) * f64::from(b.to_f32())).sum();
                sum * f64::from(scale)
            };
            let scores: Vec<f64> = (start..end).map(score).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - most).exp()).sum();
            for d in 0..head_dim {
                let terms = scores.iter().zip(start..end);
                let value = |key: usize| f64::from(v[key * k_cols + kv + d].to_f32());
                let expected = terms.map(|(s, key)| (s - most).exp() * value(key)).sum::<f64>() / total;
                let got = f64::from(out[i * (q_cols + 1) + h * head_dim + d]);
                assert!(
                    (got - expected).abs() < 2e-5,
                    "{case:?} row {i} head {h} [{d}]: {got}, not {expected}"
                );
            }
        }
        assert_eq!(out[i * (q_cols + 1) + q_cols], 7.0, "gap written");
    }
    let mut again = vec![7.0; out.len()];
    run(&mut again);
    assert_eq!(out, again, "not reproducible");
}

fn check_attentions<K: Element>() {
    for rows in [1, 3, 5, 70] {
        for (n_heads, n_kv_heads) in [(1, 1), (4, 2), (3, 1), (6, 1), (5, 1), (8, 2)] {
            for head_dim in [1, 7, 16, 40, 64, 33] {
                for (first, window) in [(0, None), (130, None), (130, Some(20)), (300, Some(150))] {
                    let heads = Heads { n_heads, n_kv_heads, head_dim };
                    check_attention::<K>(Case { rows, capacity: 400, heads, window, first });
                }
            }
        }
    }
}

#[test]
fn attention_f32() {
    at_every_level(check_attentions::<f32>);
}

#[test]
fn attention_f16() {
    at_every_level(check_attentions::<f16>);
}

#[test]
fn attention_bf16() {
    at_every_level(check_attentions::<bf16>);
}

#[test]
fn attention_with_large_heads() {
    at_every_level(check_large_heads);
}

fn check_large_heads() {
    for head_dim in [80, 96, 128, 256] {
        let heads = Heads { n_heads: 8, n_kv_heads: 2, head_dim };
        check_attention::<bf16>(Case { rows: 1, capacity: 1000, heads, window: None, first: 990 });
        check_attention::<bf16>(Case { rows: 150, capacity: 160, heads, window: None, first: 5 });
    }
}

#[test]
fn attention_ignores_what_a_row_does_not_see() {
    at_every_level(check_visibility);
}

fn check_visibility() {
    let heads = Heads { n_heads: 2, n_kv_heads: 1, head_dim: 20 };
    let positions = [10_u32, 3, 40, 0, 7];
    let q = random(9, 5 * 40);
    let cache = random(10, 50 * 20);
    let run = |cache: &[f32]| {
        let mut out = vec![0.0; 5 * 40];
        let keys = Rows::contiguous(cache, 50, 20).unwrap();
        let q = Rows::contiguous(&q, 5, 40).unwrap();
        let inputs = Inputs { q, k: keys, v: keys, heads, scale: 0.3, window: None, positions: &positions };
        attention(inputs, RowsMut::contiguous(&mut out, 5, 40).unwrap());
        out
    };
    let clean = run(&cache);
    for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut dirty = cache.clone();
        dirty[20 * 20..21 * 20].fill(poison);
        let out = run(&dirty);
        for (i, position) in positions.iter().enumerate() {
            let (row, before) = (&out[i * 40..][..40], &clean[i * 40..][..40]);
            if *position < 20 {
                assert!(row.iter().zip(before).all(|(a, b)| (a - b).abs() < 1e-6), "row {i} with {poison}");
            } else {
                assert!(row.iter().any(|v| !v.is_finite()), "row {i} must show {poison}");
            }
        }
    }
}
