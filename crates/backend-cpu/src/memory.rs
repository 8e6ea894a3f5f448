//! Accounting of tensors, and the machine's free memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use backend_api::{Counters, Error, MemoryInfo, Result};

/// Below this size an allocation does not ask the system how much is free.
pub(crate) const CHECK_FROM: usize = 16 << 20;

/// What one backend has done and holds.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    in_use: AtomicU64,
    high_water: AtomicU64,
    pub(crate) launches: AtomicU64,
    allocations: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) reads: AtomicU64,
}

impl Stats {
    pub(crate) fn counters(&self) -> Counters {
        Counters {
            launches: self.launches.load(Relaxed),
            allocations: self.allocations.load(Relaxed),
            writes: self.writes.load(Relaxed),
            reads: self.reads.load(Relaxed),
            captures: 0,
            replays: 0,
        }
    }

    pub(crate) fn memory(&self) -> MemoryInfo {
        let (in_use, high_water) = (self.in_use.load(Relaxed), self.high_water.load(Relaxed));
        MemoryInfo { in_use, high_water, free: available().map(|(free, _)| free) }
    }
}

/// Bytes held by one tensor; given back when dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    stats: Arc<Stats>,
    bytes: u64,
}

impl Lease {
    /// Room for `bytes` bytes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the system has less to give.
    pub(crate) fn new(stats: &Arc<Stats>, bytes: usize) -> Result<Self> {
        let requested = bytes as u64;
        if bytes >= CHECK_FROM {
            let free = available().map_or(u64::MAX, |(free, _)| free);
            if requested > free || Vec::<u8>::new().try_reserve_exact(bytes).is_err() {
                return Err(Error::OutOfMemory { requested, free: free.min(requested) });
            }
        }
        let in_use = stats.in_use.fetch_add(requested, Relaxed) + requested;
        stats.high_water.fetch_max(in_use, Relaxed);
        stats.allocations.fetch_add(1, Relaxed);
        Ok(Self { stats: stats.clone(), bytes: requested })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stats.in_use.fetch_sub(self.bytes, Relaxed);
    }
}

/// Memory that can still be had and memory in all, in bytes, where the system tells; a container's limit counts.
pub(crate) fn available() -> Option<(u64, u64)> {
    let mut system = sysinfo::System::new();
    system.refresh_memory_specifics(sysinfo::MemoryRefreshKind::nothing().with_ram());
    let (free, total) = (system.available_memory(), system.total_memory());
    if total == 0 {
        return None;
    }
    // What a container uses beyond its processes is cache, which gives way.
    match system.cgroup_limits() {
        Some(limits) if limits.total_memory < total => {
            let free = free.min(limits.total_memory.saturating_sub(limits.rss));
            Some((free, limits.total_memory))
        }
        _ => Some((free, total)),
    }
}
