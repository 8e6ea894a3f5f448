//! The pool against a list of blocks.

use std::sync::Arc;

use backend_api::Error;
use proptest::prelude::*;

use super::fake::Device;
use crate::pool::classes::{GRANULE, Tier, size_class};
use crate::pool::{Block, Pool, PoolStats};

const MIB: u64 = 1 << 20;
const CAPACITY: u64 = 256 * MIB;

#[derive(Clone, Debug)]
enum Step {
    Allocate(usize),
    /// Drops the live block at this place, counted modulo their number.
    Drop(usize),
    Trim,
}

fn step() -> impl Strategy<Value = Step> {
    let log_uniform =
        (0_u32..27, any::<u64>()).prop_map(|(log, low)| (1 << log) + (low % (1 << log)) as usize);
    let repeated = prop::sample::select(vec![1, 256, 4096, 300_000, 5_000_000, 40_000_000]);
    prop_oneof![
        6 => log_uniform.prop_map(Step::Allocate),
        3 => repeated.prop_map(Step::Allocate),
        1 => Just(Step::Allocate(0)),
        8 => any::<usize>().prop_map(Step::Drop),
        1 => Just(Step::Trim),
    ]
}

struct Model {
    device: Arc<Device>,
    pool: Pool<Arc<Device>>,
    live: Vec<Block<Arc<Device>>>,
    high_water: u64,
    served: u64,
}

impl Model {
    fn new() -> Self {
        let device = Device::new(CAPACITY);
        let pool = Pool::new(Arc::clone(&device), false);
        Self { device, pool, live: Vec::new(), high_water: 0, served: 0 }
    }

    fn in_use(&self) -> u64 {
        self.live.iter().filter(|b| b.bytes() > 0).map(|b| size_class(b.bytes()).unwrap()).sum()
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Allocate(bytes) => match self.pool.allocate(bytes) {
                Ok(block) => {
                    assert_eq!(block.bytes(), bytes as u64);
                    self.served += u64::from(bytes > 0);
                    self.live.push(block);
                    self.high_water = self.high_water.max(self.in_use());
                }
                Err(error) => self.assert_nothing_fits(bytes as u64, &error),
            },
            Step::Drop(at) if !self.live.is_empty() => {
                let at = at % self.live.len();
                drop(self.live.swap_remove(at));
            }
            Step::Drop(_) => {}
            Step::Trim => {
                let before = self.device.reserved();
                assert_eq!(self.pool.trim(), before - self.device.reserved());
                self.assert_no_idle_segment();
            }
        }
        self.check();
    }

    /// Live blocks as (first address, end), in order of address.
    fn ranges(&self) -> Vec<(u64, u64)> {
        let held = self.live.iter().filter(|b| b.bytes() > 0);
        let mut ranges: Vec<_> = held.map(|b| (b.address(), b.address() + b.capacity())).collect();
        ranges.sort_unstable();
        ranges
    }

    fn assert_no_idle_segment(&self) {
        let ranges = self.ranges();
        for (&base, &bytes) in &self.device.log().live {
            assert!(ranges.iter().any(|&(start, _)| (base..base + bytes).contains(&start)), "idle {base:#x}");
        }
    }

    fn assert_nothing_fits(&self, bytes: u64, error: &Error) {
        let class = size_class(bytes).unwrap();
        let left = CAPACITY - self.device.reserved();
        assert!(
            matches!(*error, Error::OutOfMemory { requested, free } if requested == bytes && free == left)
        );
        assert!(left < class, "the device had {left}");
        self.assert_no_idle_segment();
        let ranges = self.ranges();
        for (&base, &length) in &self.device.log().live {
            let end = base + length;
            let mut at = base;
            for &(start, stop) in ranges.iter().filter(|&&(start, _)| (base..end).contains(&start)) {
                assert!(start - at < class, "a gap of {} was left for {class}", start - at);
                at = stop;
            }
            assert!(end - at < class, "a gap of {} was left for {class}", end - at);
        }
    }

    fn check(&self) {
        let ranges = self.ranges();
        for pair in ranges.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "blocks overlap: {pair:x?}");
        }
        let segments = self.device.log().live.clone();
        for &(start, end) in &ranges {
            let (base, bytes) = segments.range(..=start).next_back().unwrap();
            assert!(start % GRANULE == 0 && end <= base + bytes, "block {start:#x} leaves its segment");
        }
        let stats = self.pool.stats();
        let expected = PoolStats {
            blocks: ranges.len(),
            requested: self.live.iter().map(Block::bytes).sum(),
            in_use: self.in_use(),
            high_water: self.high_water,
            reserved: segments.values().sum(),
            hits: self.served - stats.misses,
            misses: stats.misses,
        };
        assert_eq!(stats, expected);
        assert_eq!(self.device.log().bad_frees, 0);
        self.check_heap();
    }

    /// Chunks tile their segments, free neighbours are one, and the lists say the same as the map.
    fn check_heap(&self) {
        let state = self.pool.shared.lock();
        let heap = &state.heap;
        assert_eq!(
            heap.segments.iter().map(|(a, s)| (*a, s.bytes)).collect::<Vec<_>>(),
            self.device.log().live.iter().map(|(a, b)| (*a, *b)).collect::<Vec<_>>()
        );
        let mut chunks = heap.chunks.iter().peekable();
        for (&base, segment) in &heap.segments {
            let (mut at, mut blocks, mut after_free) = (base, 0, false);
            while let Some((&address, chunk)) = chunks.next_if(|(_, chunk)| chunk.segment == base) {
                assert_eq!(address, at, "a hole in segment {base:#x}");
                assert!(!(after_free && chunk.free), "free chunks meet at {address:#x}");
                assert_eq!(heap.free[segment.tier as usize].contains(&(chunk.bytes, address)), chunk.free);
                blocks += usize::from(!chunk.free);
                after_free = chunk.free;
                at += chunk.bytes;
            }
            assert_eq!((at, blocks), (base + segment.bytes, segment.blocks));
            assert_eq!(heap.idle.values().any(|idle| *idle == base), blocks == 0);
        }
        assert!(chunks.next().is_none());
        let free = heap.chunks.values().filter(|chunk| chunk.free).count();
        assert_eq!(heap.free.iter().map(|list| list.len()).sum::<usize>(), free);
        assert_eq!(heap.idle.len(), heap.segments.values().filter(|segment| segment.blocks == 0).count());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_pool_agrees_with_the_model(steps in prop::collection::vec(step(), 1..160)) {
        let mut model = Model::new();
        for step in &steps {
            model.apply(step);
        }
        model.live.clear();
        model.check();
        model.pool.trim();
        prop_assert_eq!(model.device.reserved(), 0);
        prop_assert_eq!(model.pool.stats().reserved, 0);
        prop_assert_eq!(model.pool.stats().in_use, 0);
    }

    #[test]
    fn less_than_an_eighth_is_added_up_to_a_tebibyte(log in 11_u32..40, low in any::<u64>()) {
        let bytes = (1_u64 << log) + low % (1 << log);
        let class = size_class(bytes).unwrap();
        prop_assert!(class >= bytes && (class - bytes) * 8 < bytes, "{} for {}", class, bytes);
        prop_assert_eq!(size_class(class), Some(class));
        prop_assert_eq!(class % GRANULE, 0);
        let segment = Tier::of(class).segment_bytes(class);
        prop_assert!(segment >= class && (segment == class || segment >= 8 * class));
    }
}
