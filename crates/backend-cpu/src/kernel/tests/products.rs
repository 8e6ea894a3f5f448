use half::{bf16, f16};

use super::{at_every_level, random, stored};
use crate::kernel::element::Element;
use crate::kernel::gemm::{matmul, matmul_many, matmul_plain};
use crate::kernel::matvec::matmul_few;
use crate::kernel::rows::{Rows, RowsMut};

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
                assert!(
                    (got - expected).abs() <= 2e-6 * size,
                    "{m}×{n}×{k} gap {gap} [{i}, {j}]: {got}, not {expected}"
                );
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
    for product in [matmul_few as Product<W>, matmul_many, matmul] {
        check_product::<W>(product, false, (3, 257, 1023), 0);
        check_product::<W>(product, false, (16, 300, 1100), 1);
    }
}

#[test]
fn products_f32() {
    at_every_level(check_products::<f32>);
}

#[test]
fn products_f16() {
    at_every_level(check_products::<f16>);
}

#[test]
fn products_bf16() {
    at_every_level(check_products::<bf16>);
}

#[test]
fn more_rows_than_values_are_packed_at_a_time() {
    check_product::<f32>(matmul, false, ((1 << 20) + 1, 1, 2), 0);
}
