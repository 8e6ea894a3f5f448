//! The kernels against plain `f64` loops, at every SIMD level of the machine.

mod attention;
mod elements;
mod products;
mod rowwise;

use super::element::Element;
use super::lanes::{FORCED, Level};
use super::probe;
use super::rows::Rows;

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
