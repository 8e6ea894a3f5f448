//! Device memory: blocks cut from what the driver reserved, handed out, taken back and joined again.
//!
//! A backend works on one stream, in order. So a block that was dropped can be handed out at once: whatever the stream
//! still does with it comes before whatever it will do with it next. What must outlive its owner, such as the memory
//! of a captured step, is an `Arc<Block>` with one more owner.
//!
//! Small requests share slabs, large ones have segments of their own; both are best fit over address-ordered chunks that
//! join their free neighbours. Segments without blocks stay reserved for the next request, up to a quarter more than
//! was ever in use; beyond that the one idle for longest goes back to the driver first.

mod classes;
mod heap;
#[cfg(test)]
mod tests;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backend_api::{Error, Result};

pub(crate) use self::classes::size_class;
use self::classes::{GRANULE, Tier, retained};
use self::heap::Heap;

/// Blocks of no bytes get addresses from here on, which no device has.
const NOWHERE: u64 = 1 << 63;

/// Where a pool gets its memory.
pub(crate) trait RawAllocator: Send + Sync {
    /// Reserves `bytes` bytes and returns the device address, a multiple of 256.
    ///
    /// # Errors
    /// [`RawError::OutOfMemory`] if there is no room; the pool then gives back what it has cached and asks again.
    fn allocate(&self, bytes: u64) -> Result<u64, RawError>;

    /// Gives back what [`allocate`](Self::allocate) returned. Work that the stream was given before may still use it.
    fn free(&self, address: u64);

    /// Bytes that the device has free.
    fn free_bytes(&self) -> u64;

    /// Fills `bytes` bytes at `address` with `0xFF`, in the order of the stream.
    ///
    /// # Errors
    /// What the driver says.
    fn poison(&self, address: u64, bytes: u64) -> Result<()>;
}

/// Why a [`RawAllocator`] has no memory to give.
#[derive(Debug)]
pub(crate) enum RawError {
    /// The device has no room.
    OutOfMemory,
    /// Giving back memory would not help.
    Other(Error),
}

/// What a pool holds and what it did; sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Live blocks that have bytes.
    pub blocks: usize,
    /// What was asked for, over all live blocks.
    pub requested: u64,
    /// What live blocks occupy: `requested` rounded up to size classes.
    pub in_use: u64,
    /// Largest `in_use` so far, or since it was reset.
    pub high_water: u64,
    /// What is reserved with the raw allocator.
    pub reserved: u64,
    /// Allocations served from what was reserved already.
    pub hits: u64,
    /// Allocations for which more had to be reserved.
    pub misses: u64,
}

/// Device memory for one stream, for any number of threads.
///
/// Dropping it gives back everything but the segments of live blocks, which follow with the last of them.
pub(crate) struct Pool<A: RawAllocator> {
    shared: Arc<Shared<A>>,
}

impl<A: RawAllocator> Pool<A> {
    /// A pool that has reserved nothing yet. With `poison` each block is filled with `0xFF` (NaN in every float type)
    /// before it is handed out, so that what reads memory it has not written shows.
    pub(crate) fn new(raw: A, poison: bool) -> Self {
        let state = Mutex::new(State::default());
        Self { shared: Arc::new(Shared { raw, poison, state, empty: AtomicU64::new(NOWHERE) }) }
    }

    /// A block of `bytes` bytes at a multiple of 256, unspecified contents. One of no bytes costs nothing and has an
    /// address of its own that must not be read.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if it does not fit even after everything cached was given back; what the raw
    /// allocator says otherwise. The pool stays usable.
    pub(crate) fn allocate(&self, bytes: usize) -> Result<Block<A>> {
        let shared = &self.shared;
        let requested = bytes as u64;
        if requested == 0 {
            let address = shared.empty.fetch_add(GRANULE, Ordering::Relaxed);
            return Ok(Block { shared: Arc::clone(shared), address, requested: 0, capacity: 0 });
        }
        let Some(class) = size_class(requested) else { return Err(shared.exhausted(requested)) };
        let address = shared.hand_out(requested, class)?;
        let block = Block { shared: Arc::clone(shared), address, requested, capacity: class };
        if shared.poison {
            shared.raw.poison(address, class)?;
        }
        Ok(block)
    }

    /// Gives back every segment that no block lives in; returns how many bytes that was.
    pub(crate) fn trim(&self) -> u64 {
        let mut state = self.shared.lock();
        let before = state.heap.reserved;
        while self.shared.release_idle(&mut state) {}
        before - state.heap.reserved
    }

    /// Lets the high water, and what is kept for it, start again from what is in use now.
    pub(crate) fn reset_high_water(&self) {
        let mut state = self.shared.lock();
        state.stats.high_water = state.heap.in_use;
    }

    /// Reads the statistics.
    pub(crate) fn stats(&self) -> PoolStats {
        let state = self.shared.lock();
        PoolStats { in_use: state.heap.in_use, reserved: state.heap.reserved, ..state.stats }
    }
}

impl<A: RawAllocator> Drop for Pool<A> {
    fn drop(&mut self) {
        self.trim();
    }
}

impl<A: RawAllocator> fmt::Debug for Pool<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pool").field(&self.stats()).finish()
    }
}

/// Device memory that goes back to its pool on drop. Share it as `Arc<Block>`.
pub(crate) struct Block<A: RawAllocator> {
    shared: Arc<Shared<A>>,
    address: u64,
    requested: u64,
    capacity: u64,
}

impl<A: RawAllocator> Block<A> {
    /// Device address of the first byte.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// Bytes that were asked for.
    pub(crate) fn bytes(&self) -> u64 {
        self.requested
    }

    #[cfg(test)]
    /// Bytes that belong to the block: those asked for and what rounding added.
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }
}

impl<A: RawAllocator> Drop for Block<A> {
    fn drop(&mut self) {
        if self.capacity == 0 {
            return;
        }
        let mut state = self.shared.lock();
        state.heap.give_back(self.address);
        state.stats.blocks -= 1;
        state.stats.requested -= self.requested;
    }
}

impl<A: RawAllocator> fmt::Debug for Block<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({:#x}, {} of {} bytes)", self.address, self.requested, self.capacity)
    }
}

#[derive(Default)]
struct State {
    heap: Heap,
    /// All but `in_use` and `reserved`, which the heap knows.
    stats: PoolStats,
}

struct Shared<A: RawAllocator> {
    raw: A,
    poison: bool,
    /// Consistent whenever the raw allocator is called, so a panic in there leaves nothing half done.
    state: Mutex<State>,
    /// Address of the next block of no bytes.
    empty: AtomicU64,
}

impl<A: RawAllocator> Shared<A> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds or reserves `class` bytes and counts them.
    fn hand_out(&self, requested: u64, class: u64) -> Result<u64> {
        let mut state = self.lock();
        let misses = state.stats.misses;
        let Some(address) = self.find(&mut state, class)? else {
            drop(state);
            return Err(self.exhausted(requested));
        };
        let in_use = state.heap.in_use;
        let stats = &mut state.stats;
        stats.hits += u64::from(stats.misses == misses);
        stats.blocks += 1;
        stats.requested += requested;
        stats.high_water = stats.high_water.max(in_use);
        Ok(address)
    }

    /// Address of `class` bytes: cached, new, cached for larger requests, new after all idle segments are gone.
    fn find(&self, state: &mut State, class: u64) -> Result<Option<u64>> {
        let tier = Tier::of(class);
        if let Some(address) = state.heap.take(tier, class) {
            return Ok(Some(address));
        }
        let bytes = tier.segment_bytes(class);
        let peak = state.stats.high_water.max(state.heap.in_use.saturating_add(class));
        while state.heap.reserved.saturating_add(bytes) > retained(peak) && self.release_idle(state) {}
        if let Some(address) = self.grow(state, tier, bytes, class)? {
            return Ok(Some(address));
        }
        if let Some(address) = state.heap.take_anywhere(class) {
            return Ok(Some(address));
        }
        while self.release_idle(state) {}
        match self.grow(state, tier, bytes, class)? {
            None if bytes > class => self.grow(state, tier, class, class),
            found => Ok(found),
        }
    }

    /// Reserves a segment of `bytes` bytes and takes `class` of them, or `None` if the device has no room.
    fn grow(&self, state: &mut State, tier: Tier, bytes: u64, class: u64) -> Result<Option<u64>> {
        let base = match self.raw.allocate(bytes) {
            Ok(base) => base,
            Err(RawError::OutOfMemory) => return Ok(None),
            Err(RawError::Other(error)) => return Err(error),
        };
        if base % GRANULE != 0 || base.checked_add(bytes).is_none_or(|end| end > NOWHERE) {
            self.release(base);
            return Err(Error::Backend {
                backend: "cuda".into(),
                op: format!("reserving {bytes} bytes"),
                reason: format!(
                    "the driver gave address {base:#x}, which is no multiple of {GRANULE} or too high"
                ),
            });
        }
        state.stats.misses += 1;
        Ok(state.heap.add_segment(base, bytes, tier, class))
    }

    /// Gives back the segment that has been idle for longest; false if there is none.
    fn release_idle(&self, state: &mut State) -> bool {
        let base = state.heap.pop_idle();
        if let Some(base) = base {
            self.release(base);
        }
        base.is_some()
    }

    /// Frees run inside `Drop`, where a panic of the raw allocator would abort the process.
    fn release(&self, base: u64) {
        drop(catch_unwind(AssertUnwindSafe(|| self.raw.free(base))));
    }

    fn exhausted(&self, requested: u64) -> Error {
        Error::OutOfMemory { requested, free: self.raw.free_bytes() }
    }
}

impl<A: RawAllocator> Drop for Shared<A> {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        for base in std::mem::take(&mut state.heap).segments.into_keys() {
            self.release(base);
        }
    }
}
