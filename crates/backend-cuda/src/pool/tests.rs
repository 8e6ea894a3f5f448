//! The pool on a device of paper.

mod fake;
mod long_use;
mod model;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use backend_api::Error;

use self::fake::{Device, Fault};
use super::classes::{GRANULE, retained, size_class};
use super::{Block, Pool, PoolStats};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

type FakePool = Pool<Arc<Device>>;

fn pool(capacity: usize) -> (Arc<Device>, FakePool) {
    let device = Device::new(capacity as u64);
    (Arc::clone(&device), Pool::new(device, false))
}

fn is_oom(result: Result<Block<Arc<Device>>, Error>, bytes: usize, left: usize) -> bool {
    matches!(result, Err(Error::OutOfMemory { requested, free }) if requested == bytes as u64 && free == left as u64)
}

#[test]
fn pools_and_blocks_cross_threads() {
    fn check<T: Send + Sync + 'static>() {}
    check::<FakePool>();
    check::<Block<Arc<Device>>>();
}

#[test]
fn less_than_an_eighth_or_a_granule_is_added() {
    let (_device, pool) = pool(64 * MIB);
    let mut last = 0;
    for bytes in 1..=MIB {
        let block = pool.allocate(bytes).unwrap();
        let (added, class) = (block.capacity() - bytes as u64, block.capacity());
        assert!(added < GRANULE || added * 8 < bytes as u64, "{bytes} bytes got {class}");
        assert!(class >= last && class % GRANULE == 0 && block.address() % GRANULE == 0);
        assert_eq!(pool.stats().in_use, class);
        last = class;
    }
    assert_eq!(size_class(1), Some(256));
    assert_eq!(size_class(2049), Some(2304));
    assert_eq!(size_class((1 << 30) + 1), Some((1 << 30) + (2 << 20)));
}

#[test]
fn a_dropped_block_is_reused_at_once() {
    for bytes in [1, 300 * KIB, 100 * MIB] {
        let (_device, pool) = pool(GIB);
        let address = pool.allocate(bytes).unwrap().address();
        assert_eq!(pool.allocate(bytes).unwrap().address(), address);
        let PoolStats { hits, misses, .. } = pool.stats();
        assert_eq!((hits, misses), (1, 1));
    }
}

#[test]
fn a_shared_block_lives_as_long_as_its_last_owner() {
    let (_device, pool) = pool(GIB);
    let owner = Arc::new(pool.allocate(4096).unwrap());
    let graph = Arc::clone(&owner);
    drop(owner);
    assert_ne!(pool.allocate(4096).unwrap().address(), graph.address());
    assert_eq!(pool.stats().blocks, 1);
    drop(graph);
    assert_eq!(pool.stats().blocks, 0);
}

#[test]
fn blocks_of_no_bytes_are_unique_and_free() {
    let (device, pool) = pool(0);
    let blocks: Vec<_> = (0..1000).map(|_| pool.allocate(0).unwrap()).collect();
    let unique: BTreeMap<_, _> = blocks.iter().map(|block| (block.address(), block.bytes())).collect();
    assert_eq!((unique.len(), unique.values().sum::<u64>()), (1000, 0));
    drop(blocks);
    assert_eq!(pool.stats(), PoolStats::default());
    let log = device.log();
    assert_eq!((log.allocations, log.frees), (0, 0));
}

#[test]
fn absurd_sizes_are_refused_and_the_next_one_works() {
    let (device, pool) = pool(GIB);
    for bytes in [usize::MAX, usize::MAX - 255, usize::MAX - 2 * MIB + 2] {
        assert!(is_oom(pool.allocate(bytes), bytes, GIB), "{bytes}");
    }
    assert_eq!(device.log().allocations, 0, "classes beyond 2^64 never reach the driver");
    for bytes in [usize::MAX - 2 * MIB, 1 << 63, (1 << 63) + 1, 800_000_000 * GIB, GIB + 1] {
        assert!(is_oom(pool.allocate(bytes), bytes, GIB), "{bytes}");
    }
    assert_eq!(pool.stats(), PoolStats::default());
    assert_eq!(pool.allocate(GIB).unwrap().capacity(), GIB as u64);
}

#[test]
fn two_halves_do_not_fit_until_one_is_dropped() {
    let (_device, pool) = pool(GIB);
    let half = GIB / 2 + 2 * MIB;
    let first = pool.allocate(half).unwrap();
    assert!(is_oom(pool.allocate(half), half, GIB - half));
    drop(first);
    let again = pool.allocate(half).unwrap();
    assert_eq!(pool.stats().in_use, again.capacity());
}

#[test]
fn what_is_cached_gives_way_to_what_is_needed() {
    let (device, pool) = pool(GIB);
    let blocks: Vec<_> = (0..8).map(|_| pool.allocate(100 * MIB).unwrap()).collect();
    drop(blocks);
    assert_eq!(device.reserved(), 800 * MIB as u64);
    let block = pool.allocate(1000 * MIB).unwrap();
    assert_eq!((block.capacity(), device.reserved()), (1000 * MIB as u64, 1000 * MIB as u64));
}

#[test]
fn a_full_device_splits_what_was_kept_for_larger_requests() {
    let (device, pool) = pool(100 * MIB);
    drop(pool.allocate(100 * MIB).unwrap());
    let small = pool.allocate(1).unwrap();
    let large = pool.allocate(98 * MIB).unwrap();
    assert_eq!(device.log().frees, 0, "nothing had to go back to the driver");
    drop((small, large));
    assert_eq!(pool.allocate(100 * MIB).unwrap().capacity(), 100 * MIB as u64, "it coalesced");
}

#[test]
fn a_full_device_uses_the_last_gap_of_another_tier() {
    let (_device, pool) = pool(32 * MIB);
    let _blocks = [4; 7].map(|size| pool.allocate(size * MIB).unwrap());
    let _last = pool.allocate(3840 * KIB).unwrap();
    assert_eq!(pool.allocate(256 * KIB).unwrap().capacity(), 256 * KIB as u64);
    assert!(is_oom(pool.allocate(257 * KIB), 257 * KIB, 0));
}

#[test]
fn a_device_with_less_than_a_slab_left_still_serves_small_requests() {
    let (device, pool) = pool(100 * MIB + 512);
    let _weights = pool.allocate(100 * MIB).unwrap();
    let one = pool.allocate(256).unwrap();
    let two = pool.allocate(1).unwrap();
    assert_ne!(one.address(), two.address());
    assert!(is_oom(pool.allocate(1), 1, 0));
    assert_eq!(device.reserved(), 100 * MIB as u64 + 512);
}

#[test]
fn an_idle_segment_is_not_cut_up_for_much_less() {
    let (_device, pool) = pool(GIB);
    let whole = pool.allocate(400 * MIB).unwrap().address();
    let _small = pool.allocate(40 * MIB).unwrap();
    assert_eq!(pool.stats().misses, 2);
    let (half, _rest) = (pool.allocate(200 * MIB).unwrap(), pool.allocate(200 * MIB).unwrap());
    drop(half);
    let small = pool.allocate(8 * MIB).unwrap();
    assert_eq!(
        (small.address(), pool.stats().misses),
        (whole, 2),
        "split for half of it, and then for anything"
    );
}

/// A workload of all tiers: some blocks stay, some go.
fn workload(pool: &FakePool) -> Result<Vec<Block<Arc<Device>>>, Error> {
    let mut live = Vec::new();
    for round in 1..=4 {
        for bytes in [100, 70 * KIB, 900 * KIB, 3 * MIB, 9 * MIB, 50 * MIB] {
            live.push(pool.allocate(bytes * round)?);
        }
        live.swap_remove(0);
    }
    Ok(live)
}

#[test]
fn every_reservation_may_fail_once_for_good_or_oddly() {
    for (count, fault) in [(1, Fault::OutOfMemory), (u64::MAX, Fault::OutOfMemory), (1, Fault::Other)] {
        let mut failures = 0;
        for n in 1.. {
            let (device, pool) = pool(GIB);
            let resident = pool.allocate(6 * MIB).unwrap();
            let baseline = pool.stats();
            device.log().fault = Some((n + 1, count, fault));
            let result = workload(&pool);
            let reached = device.log().allocations > n;
            assert_eq!(result.is_err(), reached && (count > 1 || fault == Fault::Other), "reservation {n}");
            failures += u32::from(result.is_err());
            drop(result);
            device.log().fault = None;
            let after = pool.stats();
            assert_eq!(
                (after.blocks, after.requested, after.in_use),
                (baseline.blocks, baseline.requested, baseline.in_use)
            );
            drop(workload(&pool).unwrap());
            drop(resident);
            pool.trim();
            assert_eq!((device.reserved(), device.log().bad_frees), (0, 0));
            if !reached {
                assert!(n > 8, "the workload reserves often enough to mean something");
                break;
            }
        }
        assert_eq!(failures > 0, count > 1 || fault == Fault::Other);
    }
}

#[test]
fn two_sizes_in_turn_do_not_grow_it() {
    for (one, two) in [(4096, 5000), (300 * KIB, 290 * KIB), (64 * MIB, 90 * MIB)] {
        let (device, pool) = pool(GIB);
        let mut previous = None;
        for round in 0..100_000 {
            let block = pool.allocate(if round % 2 == 0 { one } else { two }).unwrap();
            previous = Some(block);
            if round == 10 {
                device.log().allocations = 0;
            }
        }
        assert_eq!(device.log().allocations, 0, "{one} and {two}");
        assert_eq!(pool.stats().hits + pool.stats().misses, 100_000);
        drop(previous);
    }
}

#[test]
fn one_more_and_one_less_leave_reserved_flat() {
    for batch in [16 * KIB, MIB, 20 * MIB, 500 * MIB] {
        let (_device, pool) = pool(16 * GIB);
        let mut flat = 0;
        for round in 0..50 {
            for bytes in [batch, batch + batch / 16, batch - batch / 16, batch + 1, batch - 1] {
                let step: Vec<_> = [bytes, bytes / 2, bytes / 4].map(|b| pool.allocate(b).unwrap()).into();
                drop(step);
            }
            let PoolStats { reserved, high_water, .. } = pool.stats();
            assert!(reserved <= retained(high_water));
            if round == 0 {
                flat = reserved;
            }
            assert_eq!(reserved, flat, "round {round} of {batch}");
        }
    }
}

#[test]
fn a_growing_block_leaves_no_trail_behind_it() {
    let (_device, pool) = pool(16 * GIB);
    let mut cache = pool.allocate(10 * MIB).unwrap();
    for size in 11..2000 {
        cache = pool.allocate(size * MIB).unwrap();
        let PoolStats { reserved, high_water, .. } = pool.stats();
        assert!(reserved <= retained(high_water), "{reserved} for {high_water}");
    }
    drop(cache);
}

#[test]
fn threads_get_blocks_that_do_not_overlap() {
    let (device, pool) = pool(GIB);
    let held = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let (pool, held) = (&pool, &held);
            scope.spawn(move || {
                let mut seed = thread + 1;
                let mut mine = Vec::new();
                for _ in 0..2000 {
                    seed =
                        seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let bytes = 1 + (seed >> 40) as usize % (1 << (8 + (seed >> 33) % 16));
                    let block = pool.allocate(bytes).unwrap();
                    let (start, end) = (block.address(), block.address() + block.capacity());
                    let mut map = held.lock().unwrap();
                    let before = map.range(..end).next_back().map(|(_, stop)| *stop);
                    assert!(before.is_none_or(|stop| stop <= start));
                    map.insert(start, end);
                    drop(map);
                    mine.push(block);
                    if mine.len() > 8 {
                        let gone = mine.swap_remove((seed >> 20) as usize % 8);
                        held.lock().unwrap().remove(&gone.address());
                        drop(gone);
                    }
                }
                for block in mine {
                    held.lock().unwrap().remove(&block.address());
                }
            });
        }
    });
    let stats = pool.stats();
    assert_eq!((stats.blocks, stats.in_use, stats.hits + stats.misses), (0, 0, 16_000));
    pool.trim();
    assert_eq!((device.reserved(), device.log().bad_frees), (0, 0));
}

#[test]
fn a_driver_that_panics_leaves_the_pool_usable() {
    let (device, pool) = pool(GIB);
    let block = pool.allocate(MIB).unwrap();
    let before = pool.stats();
    device.log().fault = Some((2, 1, Fault::Panic));
    assert!(catch_unwind(AssertUnwindSafe(|| pool.allocate(64 * MIB))).is_err());
    assert!(pool.shared.state.is_poisoned());
    assert_eq!(pool.stats(), before);
    drop(block);
    assert_eq!(pool.allocate(64 * MIB).unwrap().capacity(), 64 * MIB as u64);
    device.log().free_panics = true;
    assert_eq!(pool.trim(), 96 * MIB as u64);
    let late = pool.allocate(MIB).unwrap();
    drop(pool);
    drop(late);
    assert_eq!((device.reserved(), device.log().frees), (0, 3));
}

#[test]
fn blocks_outlive_their_pool() {
    let (device, pool) = pool(GIB);
    let (one, two) = (pool.allocate(MIB).unwrap(), pool.allocate(100 * MIB).unwrap());
    let empty = pool.allocate(0).unwrap();
    drop(pool.allocate(200 * MIB).unwrap());
    drop(pool);
    assert_eq!(device.reserved(), 132 * MIB as u64, "what no block lives in went back");
    drop((one, empty));
    drop(two);
    let log = device.log();
    assert_eq!((log.live.len(), log.frees, log.bad_frees), (0, 3, 0));
}

#[test]
fn poison_covers_exactly_what_is_handed_out() {
    let device = Device::new(GIB as u64);
    let pool = Pool::new(Arc::clone(&device), true);
    let mut expected = Vec::new();
    for bytes in [1, 0, 4096, 70 * MIB, 4096, 1] {
        let block = pool.allocate(bytes).unwrap();
        if bytes > 0 {
            expected.push((block.address(), block.capacity()));
        }
    }
    assert_eq!(device.log().poisoned, expected);
    device.log().poison_fails = true;
    assert!(matches!(pool.allocate(4096), Err(Error::Backend { .. })));
    assert_eq!((pool.stats().blocks, pool.stats().in_use), (0, 0));
    device.log().poison_fails = false;
    pool.allocate(4096).unwrap();
}

#[test]
fn without_poison_nothing_is_filled() {
    let (device, pool) = pool(GIB);
    pool.allocate(4096).unwrap();
    assert!(device.log().poisoned.is_empty());
}

#[test]
fn addresses_that_break_the_contract_are_given_back() {
    let (device, pool) = pool(GIB);
    for skew in [8, 128, (1 << 63) - 4096, u64::MAX - (4 << 20) + 1 - 4096] {
        device.log().skew = skew;
        assert!(matches!(pool.allocate(4096), Err(Error::Backend { .. })), "{skew:#x}");
    }
    device.log().skew = 0;
    assert_eq!((device.reserved(), device.log().bad_frees), (0, 0));
    pool.allocate(4096).unwrap();
}
