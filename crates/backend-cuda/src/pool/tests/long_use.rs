//! Random requests until the free space is in pieces.

use super::fake::Device;
use crate::pool::{Pool, PoolStats};

const GIB: usize = 1 << 30;

/// Bytes from 1 B to 1 GiB, evenly by logarithm.
fn log_uniform(seed: &mut u64) -> usize {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let log = (*seed >> 59) as usize % 30;
    (1 << log) + (*seed >> 20) as usize % (1 << log)
}

#[test]
fn a_device_in_long_use_does_not_fragment() {
    for first in 1..=4 {
        let pool = Pool::new(Device::new(80 * GIB as u64), false);
        let mut seed = first;
        let mut live = Vec::new();
        for round in 0..50_000 {
            let bytes = log_uniform(&mut seed);
            while pool.stats().in_use + bytes as u64 > 56 * GIB as u64 {
                live.swap_remove((seed >> 33) as usize % live.len());
            }
            live.push(pool.allocate(bytes).unwrap());
            let PoolStats { reserved, in_use, .. } = pool.stats();
            let settled = round > 5_000;
            assert!(!settled || reserved as f64 <= 1.4 * in_use as f64, "{reserved} for {in_use}");
        }
        assert!(pool.stats().misses < 1_000, "{:?}", pool.stats());
    }
}
