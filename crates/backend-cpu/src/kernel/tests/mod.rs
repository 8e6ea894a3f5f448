//! The kernels against plain `f64` loops, at every SIMD level of the machine.

mod attention;
mod elements;
mod products;
mod rowwise;

use super::element::Element;
use super::lanes::{FORCED, Level};
use super::probe;
use super::rows::{Rows, RowsMut};

/// Runs `check` on the threads of a pool of its own for every level, which [`super::lanes::dispatch`] then takes.
fn at_every_level(check: impl Fn() + Send + Sync) {
    for level in Level::available() {
        let start = move |_| FORCED.set(Some(level));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).start_handler(start).build().unwrap();
        pool.install(&check);
    }
}

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

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
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

#[test]
fn parts_of_matrices_are_the_rows_and_columns_they_name() {
    // Five rows of 4 with a gap of 2; element [r, c] is 10·r + c.
    let mut data: Vec<f32> = (0..28).map(|i| (10 * (i / 6) + i % 6) as f32).collect();
    let whole = Rows::new(&data, 5, 4, 6).unwrap();
    let odd = whole.every(2, 1);
    assert_eq!(
        (odd.rows(), odd.row(0), odd.row(1)),
        (2, &[10.0, 11.0, 12.0, 13.0][..], &[30.0, 31.0, 32.0, 33.0][..])
    );
    assert_eq!((odd.row(2), whole.every(2, 0).rows(), whole.every(7, 5).rows()), (&[][..], 3, 0));
    let mut whole = RowsMut::new(&mut data, 5, 4, 6).unwrap();
    let mut last = whole.every(2, 0);
    assert_eq!((last.rows(), last.row(2).to_vec()), (3, vec![40.0, 41.0, 42.0, 43.0]));
    let mut middle = whole.columns(1..3);
    assert_eq!((middle.rows(), middle.row(4).to_vec()), (5, vec![41.0, 42.0]));
    let mut end = whole.slice(4..9);
    assert_eq!((end.rows(), end.row(0).len(), end.row(1).len()), (1, 4, 0));
}
