use half::bf16;

use super::{at_every_level, random, same, stored};
use crate::kernel::element::Element;
use crate::kernel::exp::exp;
use crate::kernel::lanes::{Kernel, Lanes, Level};
use crate::kernel::rows::RowsMut;
use crate::kernel::rowwise;

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
    inputs.extend([
        0.0,
        -0.0,
        88.72,
        88.73,
        89.0,
        200.0,
        -87.4,
        -100.0,
        -103.9,
        -104.0,
        -1e30,
        f32::INFINITY,
    ]);
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
    at_every_level(check_maps);
}

fn check_maps() {
    let silu = |x: f32| f64::from(x) / (1.0 + (-f64::from(x)).exp());
    for len in LENGTHS {
        let a: Vec<f32> = random(13, len).iter().map(|v| v * 30.0).collect();
        let b = random(14, len);
        let pairs = || a.iter().zip(&b).map(|(&a, &b)| (a, b));
        let mut out = vec![0.0; len];
        rowwise::swiglu(&a, &b, &mut out);
        close(&out, pairs().map(|(a, b)| silu(a) * f64::from(b)), 1e-6);
        let assigned = |assign: fn(&mut [f32], &[f32])| {
            let mut x = a.clone();
            assign(&mut x, &b);
            x
        };
        let sums = assigned(rowwise::add_assign);
        close(&sums, pairs().map(|(a, b)| f64::from(a) + f64::from(b)), 1e-6);
        let products = assigned(rowwise::mul_assign);
        close(&products, pairs().map(|(a, b)| f64::from(a) * f64::from(b)), 1e-6);
        let silus = assigned(|x, _| rowwise::silu_assign(x));
        close(&silus, a.iter().map(|&a| silu(a)), 1e-6);
    }
    let mut extremes = [f32::INFINITY, f32::NEG_INFINITY, -1000.0, f32::NAN];
    rowwise::silu_assign(&mut extremes);
    assert!(
        extremes[0] == f32::INFINITY && extremes[1].is_nan() && extremes[2] == 0.0 && extremes[3].is_nan()
    );
}

#[test]
fn norms_of_any_length() {
    at_every_level(check_norms);
}

fn check_norms() {
    for cols in LENGTHS {
        for rows in [1, 3] {
            let x = random(15, rows * (cols + 2));
            let weight: Vec<bf16> = stored(&random(16, cols));
            let mut in_place = x.clone();
            rowwise::rmsnorm_assign(
                RowsMut::new(&mut in_place, rows, cols, cols + 2).unwrap(),
                &weight,
                1e-5,
            );
            for i in 0..rows {
                let row = &x[i * (cols + 2)..][..cols];
                let mean = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / cols as f64;
                let factor = 1.0 / (mean + 1e-5).sqrt();
                let expected = row
                    .iter()
                    .zip(&weight)
                    .map(|(&v, &w)| f64::from(v) * factor * f64::from(Element::to_f32(w)));
                close(&in_place[i * (cols + 2)..][..cols], expected, 2e-6);
                assert_eq!(in_place[i * (cols + 2) + cols..][..2], x[i * (cols + 2) + cols..][..2]);
            }
        }
    }
}

#[test]
fn softmax_of_any_length() {
    at_every_level(check_softmax);
}

fn check_softmax() {
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
    at_every_level(check_rotation);
}

fn check_rotation() {
    for half in [1, 7, 16, 20, 64] {
        let x = random(18, 6 * half);
        let (cos, sin) = (random(19, half), random(20, half));
        let mut out = x.clone();
        rowwise::rotate_heads(&mut out, &cos, &sin);
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
