//! The kernels against plain `f64` loops.

use half::{bf16, f16};

use super::attention::{Heads, attention};
use super::element::{Element, narrow, widen};
use super::exp::exp;
use super::gemm::{matmul_many, matmul_plain};
use super::lanes::{Kernel, Lanes, Level};
use super::matvec::matmul_few;
use super::rows::{Rows, RowsMut};
use super::{probe, rowwise};

/// Reproducible values in ±1.
fn random(seed: u32, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn stored<W: Element>(values: &[f32]) -> Vec<W> {
    values.iter().map(|&v| W::from_f32(v)).collect()
}

struct WidenAll<'a, W>(&'a [W]);

impl<W: Element> Kernel for WidenAll<'_, W> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> Vec<f32> {
        let mut out = vec![0.0; self.0.len()];
        super::element::widen_with(simd, self.0, &mut out);
        out
    }
}

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

#[test]
fn all_16_bit_values_are_widened_exactly_at_every_level() {
    for level in Level::available() {
        // Beginning at 3 makes every position of a vector, and the tail, see different values.
        for skip in [0_usize, 3] {
            let halves: Vec<f16> = (0..=u16::MAX).skip(skip).map(f16::from_bits).collect();
            for (h, wide) in halves.iter().zip(level.run(WidenAll(&halves))) {
                let expected = f16_by_definition(h.to_bits());
                assert!(same(wide, expected), "{level:?}: {:#06x} gave {wide}, not {expected}", h.to_bits());
                assert!(same(Element::to_f32(*h), expected));
            }
            let brains: Vec<bf16> = (0..=u16::MAX).skip(skip).map(bf16::from_bits).collect();
            for (b, wide) in brains.iter().zip(level.run(WidenAll(&brains))) {
                let expected = f32::from_bits(u32::from(b.to_bits()) << 16);
                assert!(same(wide, expected), "{level:?}: {:#06x}", b.to_bits());
                assert!(same(Element::to_f32(*b), expected));
            }
        }
    }
}

fn f16_by_definition(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from((bits >> 10) & 31), f64::from(bits & 1023));
    let magnitude = match exponent {
        0 => fraction * 2.0_f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2.0_f64.powi(exponent - 25),
    };
    (sign * magnitude) as f32
}

#[test]
fn narrowing_rounds_to_nearest_even() {
    let mut values: Vec<f32> = random(1, 4096).iter().flat_map(|&v| [v, v * 7e4, v * 1e-5, v * 3e-8, v * 1e38]).collect();
    for bits in 0..=u16::MAX {
        let v = f16_by_definition(bits);
        let next = f16_by_definition(bits.wrapping_add(1));
        let middle = v / 2.0 + next / 2.0;
        values.extend([v, middle, middle.next_up(), middle.next_down()]);
        let brain = f32::from_bits(u32::from(bits) << 16);
        values.extend([brain, f32::from_bits((u32::from(bits) << 16) + 0x8000), f32::from_bits((u32::from(bits) << 16) + 0x8001)]);
    }
    values.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN_POSITIVE]);
    values.push(f32::from_bits(0x7f80_0001));
    let mut halves = vec![f16::default(); values.len()];
    let mut brains = vec![bf16::default(); values.len()];
    narrow(&values, &mut halves);
    narrow(&values, &mut brains);
    for ((&v, h), b) in values.iter().zip(halves).zip(brains) {
        let (half, brain) = (f16::from_f32_const(v), bf16::from_f32_const(v));
        assert!(h == half && h.is_sign_negative() == half.is_sign_negative() || h.is_nan() && v.is_nan(), "{v:e}: {h:?}");
        assert!(b == brain && b.is_sign_negative() == brain.is_sign_negative() || b.is_nan() && v.is_nan(), "{v:e}: {b:?}");
    }
}

#[test]
fn widening_any_length() {
    for len in [0, 1, 7, 8, 15, 16, 17, 31, 33, 1023] {
        let values: Vec<bf16> = stored(&random(2, len));
        let mut wide = vec![9.0; len];
        widen(&values, &mut wide);
        assert!(values.iter().zip(&wide).all(|(&v, &w)| Element::to_f32(v) == w), "{len}");
    }
}

/// How a product is asked for.
type Product<W> = fn(Rows<'_, f32>, Rows<'_, W>, RowsMut<'_, f32>, bool);

/// Checks `product` on one size, in memory with gaps, and that the gaps stay as they are.
fn check_product<W: Element>(product: Product<W>, plain: bool, (m, n, k): (usize, usize, usize), gap: usize) {
    let (w_rows, w_cols) = if plain { (k, n) } else { (n, k) };
    let x = random(3, m * (k + gap));
    let w: Vec<W> = stored(&random(4, w_rows * (w_cols + gap)));
    let start = random(5, m * (n + gap));
    for accumulate in [false, true] {
        let mut out = start.clone();
        let x_rows = Rows::new(&x, m, k, k + gap).unwrap();
        let w_view = Rows::new(&w, w_rows, w_cols, w_cols + gap).unwrap();
        product(x_rows, w_view, RowsMut::new(&mut out, m, n, n + gap).unwrap(), accumulate);
        for i in 0..m {
            for j in 0..n + gap {
                let got = f64::from(out[i * (n + gap) + j]);
                let before = f64::from(start[i * (n + gap) + j]);
                if j >= n {
                    assert_eq!(got, before, "gap written");
                    continue;
                }
                let weight = |l: usize| if plain { w[l * (n + gap) + j] } else { w[j * (k + gap) + l] };
                let terms = (0..k).map(|l| f64::from(x[i * (k + gap) + l]) * f64::from(weight(l).to_f32()));
                let (sum, size) = terms.fold((0.0, 1.0), |(s, a): (f64, f64), t| (s + t, a + t.abs()));
                let expected = sum + if accumulate { before } else { 0.0 };
                assert!((got - expected).abs() <= 2e-6 * size, "{m}×{n}×{k} gap {gap} [{i}, {j}]: {got}, not {expected}");
            }
        }
    }
}

fn check_products<W: Element>() {
    let sizes = [0, 1, 7, 31, 32, 33, 100];
    for m in [0, 1, 2, 3, 5, 8, 9, 17, 29] {
        for (i, &n) in sizes.iter().enumerate() {
            let k = sizes[(i + m) % sizes.len()];
            for gap in [0, 3] {
                check_product::<W>(matmul_few, false, (m, n, k), gap);
                check_product::<W>(matmul_many, false, (m, n, k), gap);
                check_product::<W>(matmul_plain, true, (m, n, k), gap);
            }
        }
    }
    for product in [matmul_few as Product<W>, matmul_many] {
        check_product::<W>(product, false, (3, 257, 1023), 0);
        check_product::<W>(product, false, (16, 300, 1100), 1);
    }
}

#[test]
fn products_f32() {
    check_products::<f32>();
}

#[test]
fn products_f16() {
    check_products::<f16>();
}

#[test]
fn products_bf16() {
    check_products::<bf16>();
}

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
        attention(
            Rows::new(&q, rows, q_cols, q_cols + 2).unwrap(),
            Rows::contiguous(&k, capacity, k_cols).unwrap(),
            Rows::contiguous(&v, capacity, k_cols).unwrap(),
            heads,
            scale,
            window,
            &positions,
            RowsMut::new(out, rows, q_cols, q_cols + 1).unwrap(),
        );
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
                let sum: f64 = query.iter().zip(row).map(|(&a, &b)| f64::from(a) * f64::from(b.to_f32())).sum();
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
                assert!((got - expected).abs() < 2e-5, "{case:?} row {i} head {h} [{d}]: {got}, not {expected}");
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
    check_attentions::<f32>();
}

#[test]
fn attention_f16() {
    check_attentions::<f16>();
}

#[test]
fn attention_bf16() {
    check_attentions::<bf16>();
    for head_dim in [80, 96, 128, 256] {
        let heads = Heads { n_heads: 8, n_kv_heads: 2, head_dim };
        check_attention::<bf16>(Case { rows: 1, capacity: 1000, heads, window: None, first: 990 });
        check_attention::<bf16>(Case { rows: 150, capacity: 160, heads, window: None, first: 5 });
    }
}

#[test]
fn attention_ignores_what_a_row_does_not_see() {
    let heads = Heads { n_heads: 2, n_kv_heads: 1, head_dim: 20 };
    let positions = [10_u32, 3, 40, 0, 7];
    let q = random(9, 5 * 40);
    let cache = random(10, 50 * 20);
    let run = |cache: &[f32]| {
        let mut out = vec![0.0; 5 * 40];
        let keys = Rows::contiguous(cache, 50, 20).unwrap();
        let (q, to) = (Rows::contiguous(&q, 5, 40).unwrap(), RowsMut::contiguous(&mut out, 5, 40).unwrap());
        attention(q, keys, keys, heads, 0.3, None, &positions, to);
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

struct ExpAll<'a>(&'a [f32]);

impl Kernel for ExpAll<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> Vec<f32> {
        let mut out = self.0.to_vec();
        for v in &mut out {
            let result = exp(simd, simd.splat_f32s(*v));
            simd.partial_store_f32s(std::slice::from_mut(v), result);
        }
        out
    }
}

#[test]
fn exp_is_within_two_ulp() {
    let mut inputs: Vec<f32> = random(11, 200_000).iter().map(|v| v * 110.0).collect();
    inputs.extend(random(12, 50_000));
    inputs.extend([0.0, -0.0, 88.72, 88.73, 89.0, 200.0, -87.4, -100.0, -103.9, -104.0, -1e30, f32::INFINITY]);
    inputs.extend([f32::NEG_INFINITY, f32::NAN, 1e-30, f32::MIN_POSITIVE]);
    for level in Level::available() {
        for (&x, y) in inputs.iter().zip(level.run(ExpAll(&inputs))) {
            let exact = f64::from(x).exp();
            let rounded = exact as f32;
            if rounded.is_nan() || rounded.is_infinite() {
                assert!(same(y, rounded), "{level:?}: exp({x}) = {y}");
                continue;
            }
            let ulp = f64::from(rounded.next_up()) - f64::from(rounded);
            assert!((f64::from(y) - exact).abs() <= 2.0 * ulp, "{level:?}: exp({x}) = {y}, not {rounded}");
        }
    }
}

const LENGTHS: [usize; 10] = [0, 1, 7, 15, 16, 31, 32, 33, 1023, 70_001];

fn close(got: &[f32], expected: impl Iterator<Item = f64>, tolerance: f64) {
    let mut count = 0;
    for (&g, e) in got.iter().zip(expected) {
        assert!((f64::from(g) - e).abs() <= tolerance * (1.0 + e.abs()), "{g}, not {e}");
        count += 1;
    }
    assert_eq!(count, got.len());
}

#[test]
fn maps_of_any_length() {
    let silu = |x: f32| f64::from(x) / (1.0 + (-f64::from(x)).exp());
    for len in LENGTHS {
        let a: Vec<f32> = random(13, len).iter().map(|v| v * 30.0).collect();
        let b = random(14, len);
        let pairs = || a.iter().zip(&b).map(|(&a, &b)| (a, b));
        let mut out = vec![0.0; len];
        rowwise::add(&a, &b, &mut out);
        close(&out, pairs().map(|(a, b)| f64::from(a) + f64::from(b)), 1e-6);
        rowwise::mul(&a, &b, &mut out);
        close(&out, pairs().map(|(a, b)| f64::from(a) * f64::from(b)), 1e-6);
        rowwise::silu(&a, &mut out);
        close(&out, a.iter().map(|&a| silu(a)), 1e-6);
        rowwise::swiglu(&a, &b, &mut out);
        close(&out, pairs().map(|(a, b)| silu(a) * f64::from(b)), 1e-6);
        let in_place: [(fn(&mut [f32], &[f32]), fn(&[f32], &[f32], &mut [f32])); 3] = [
            (rowwise::add_assign, rowwise::add),
            (rowwise::mul_assign, rowwise::mul),
            (rowwise::swiglu_assign, rowwise::swiglu),
        ];
        for (assign, separate) in in_place {
            let mut x = a.clone();
            assign(&mut x, &b);
            separate(&a, &b, &mut out);
            assert_eq!(x, out);
        }
        let mut x = a.clone();
        rowwise::silu_assign(&mut x);
        rowwise::silu(&a, &mut out);
        assert_eq!(x, out);
        let mut y = b.clone();
        rowwise::axpy(-0.7, &a, &mut y);
        close(&y, pairs().map(|(a, b)| f64::from(b) - f64::from(0.7_f32) * f64::from(a)), 1e-6);
        let exact: f64 = pairs().map(|(a, b)| f64::from(a) * f64::from(b)).sum();
        let size: f64 = pairs().map(|(a, b)| (f64::from(a) * f64::from(b)).abs()).sum();
        assert!((f64::from(rowwise::dot(&a, &b)) - exact).abs() <= 1e-6 * (1.0 + size), "{len}");
    }
    let mut extremes = [f32::INFINITY, f32::NEG_INFINITY, -1000.0, f32::NAN];
    rowwise::silu_assign(&mut extremes);
    assert!(extremes[0] == f32::INFINITY && extremes[1].is_nan() && extremes[2] == 0.0 && extremes[3].is_nan());
}

#[test]
fn norms_of_any_length() {
    for cols in LENGTHS {
        for rows in [1, 3] {
            let x = random(15, rows * (cols + 2));
            let weight: Vec<bf16> = stored(&random(16, cols));
            let mut out = vec![5.0; rows * (cols + 1)];
            let to = RowsMut::new(&mut out, rows, cols, cols + 1).unwrap();
            rowwise::rmsnorm(Rows::new(&x, rows, cols, cols + 2).unwrap(), &weight, 1e-5, to);
            let mut in_place = x.clone();
            rowwise::rmsnorm_assign(RowsMut::new(&mut in_place, rows, cols, cols + 2).unwrap(), &weight, 1e-5);
            for i in 0..rows {
                let row = &x[i * (cols + 2)..][..cols];
                let mean = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / cols as f64;
                let factor = 1.0 / (mean + 1e-5).sqrt();
                let expected = row.iter().zip(&weight).map(|(&v, &w)| f64::from(v) * factor * f64::from(Element::to_f32(w)));
                close(&out[i * (cols + 1)..][..cols], expected, 2e-6);
                assert_eq!(out[i * (cols + 1) + cols], 5.0);
                assert_eq!(out[i * (cols + 1)..][..cols], in_place[i * (cols + 2)..][..cols]);
            }
        }
    }
}

#[test]
fn softmax_of_any_length() {
    for cols in LENGTHS {
        for offset in [0.0, 500.0, -500.0] {
            let x: Vec<f32> = random(17, 2 * cols).iter().map(|v| v * 20.0 + offset).collect();
            let mut out = x.clone();
            rowwise::softmax_assign(RowsMut::contiguous(&mut out, 2, cols).unwrap());
            for (row, got) in x.chunks(cols.max(1)).zip(out.chunks(cols.max(1))) {
                let most = row.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(f64::from(v)));
                let total: f64 = row.iter().map(|&v| (f64::from(v) - most).exp()).sum();
                close(got, row.iter().map(|&v| (f64::from(v) - most).exp() / total), 2e-6);
            }
        }
    }
    for len in [1, 16, 20] {
        let mut row = vec![f32::NEG_INFINITY; len];
        rowwise::softmax_assign(RowsMut::contiguous(&mut row, 1, len).unwrap());
        assert!(row.iter().all(|v| v.is_nan()));
        let mut row = vec![0.0; len];
        row[len / 2] = f32::NAN;
        rowwise::softmax_assign(RowsMut::contiguous(&mut row, 1, len).unwrap());
        assert!(row.iter().all(|v| v.is_nan()));
    }
}

#[test]
fn rotation_by_halves() {
    for half in [1, 7, 16, 20, 64] {
        let x = random(18, 6 * half);
        let (cos, sin) = (random(19, half), random(20, half));
        let mut out = x.clone();
        rowwise::rotate_heads(&mut out, &cos, &sin);
        let mut single = x.clone();
        single.chunks_mut(2 * half).for_each(|head| rowwise::rotate_half(head, &cos, &sin));
        assert_eq!(out, single);
        for (head, got) in x.chunks(2 * half).zip(out.chunks(2 * half)) {
            let expected = (0..2 * half).map(|i| {
                let (j, sign) = (i % half, if i < half { -1.0 } else { 1.0 });
                let other = f64::from(head[(i + half) % (2 * half)]);
                f64::from(head[i]) * f64::from(cos[j]) + sign * other * f64::from(sin[j])
            });
            close(got, expected, 1e-6);
        }
    }
}

struct TransposeOnce;

impl Kernel for TransposeOnce {
    type Output = bool;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> bool {
        let lanes = S::F32_LANES;
        let mut square = simd.zero_square();
        for (i, row) in square.as_mut().iter_mut().enumerate() {
            let values: Vec<f32> = (0..lanes).map(|j| (i * lanes + j) as f32).collect();
            *row = simd.partial_load_f32s(&values);
        }
        let mut columns = simd.transpose(square);
        columns.as_mut().iter().enumerate().all(|(i, &column)| {
            let mut values = vec![0.0; lanes];
            simd.partial_store_f32s(&mut values, column);
            values.iter().enumerate().all(|(j, &v)| v == (j * lanes + i) as f32)
        })
    }
}

#[test]
fn squares_are_transposed_at_every_level() {
    assert!(Level::available().into_iter().all(|level| level.run(TransposeOnce)));
}

#[test]
fn probes_measure_something() {
    assert!(probe::read_bandwidth(1 << 20) > 1e6);
    assert!(probe::fma_peak() > 1e6);
}

#[test]
fn matrices_that_do_not_fit_are_refused() {
    let data = [0.0_f32; 10];
    assert!(Rows::new(&data, 2, 4, 6).is_some());
    assert!(Rows::new(&data, 2, 5, 6).is_none());
    assert!(Rows::new(&data, 2, 4, 3).is_none());
    assert!(Rows::new(&data, usize::MAX, 4, usize::MAX).is_none());
    assert_eq!(Rows::new(&data, 0, 99, 100).unwrap().row(0), &[] as &[f32]);
    assert_eq!(Rows::new(&data, 2, 4, 6).unwrap().slice(1..9).rows(), 1);
}
