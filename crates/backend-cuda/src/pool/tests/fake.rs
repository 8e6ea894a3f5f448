//! A device that exists on paper: addresses are numbers, and what it was asked is written down.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backend_api::{Error, Result};

use crate::pool::{RawAllocator, RawError};

const FIRST: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    OutOfMemory,
    Other,
    Panic,
}

#[derive(Debug, Default)]
pub(super) struct Log {
    /// Live reservations: first address and bytes.
    pub(super) live: BTreeMap<u64, u64>,
    /// Calls of `allocate`, failed ones too.
    pub(super) allocations: u64,
    pub(super) frees: u64,
    /// Frees of what was not live.
    pub(super) bad_frees: u64,
    pub(super) poisoned: Vec<(u64, u64)>,
    /// The calls of `allocate` from this one on (counted from 1), so many of them, fail so.
    pub(super) fault: Option<(u64, u64, Fault)>,
    pub(super) poison_fails: bool,
    pub(super) free_panics: bool,
    /// Added to every address that is given.
    pub(super) skew: u64,
}

#[derive(Debug)]
pub(super) struct Device {
    capacity: u64,
    log: Mutex<Log>,
}

impl Device {
    pub(super) fn new(capacity: u64) -> Arc<Self> {
        Arc::new(Self { capacity, log: Mutex::default() })
    }

    pub(super) fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reserved(&self) -> u64 {
        self.log().live.values().sum()
    }
}

pub(super) fn other() -> Error {
    Error::Backend { backend: "fake".into(), op: "allocate".into(), reason: "told to".into() }
}

impl RawAllocator for Arc<Device> {
    fn allocate(&self, bytes: u64) -> Result<u64, RawError> {
        let free = self.free_bytes();
        let mut log = self.log();
        log.allocations += 1;
        if let Some((first, count, fault)) = log.fault
            && (first..first.saturating_add(count)).contains(&log.allocations)
        {
            match fault {
                Fault::OutOfMemory => return Err(RawError::OutOfMemory),
                Fault::Other => return Err(RawError::Other(other())),
                Fault::Panic => panic!("told to"),
            }
        }
        if bytes > free {
            return Err(RawError::OutOfMemory);
        }
        // First gap that is large enough: segments touch, and addresses come back.
        let mut address = FIRST;
        for (&base, &length) in &log.live {
            if base - address >= bytes {
                break;
            }
            address = base + length;
        }
        let skew = log.skew;
        log.live.insert(address + skew, bytes);
        Ok(address + skew)
    }

    fn free(&self, address: u64) {
        let mut log = self.log();
        log.frees += 1;
        if log.live.remove(&address).is_none() {
            log.bad_frees += 1;
        }
        assert!(!log.free_panics, "told to");
    }

    fn free_bytes(&self) -> u64 {
        self.capacity - self.reserved()
    }

    fn poison(&self, address: u64, bytes: u64) -> Result<()> {
        let mut log = self.log();
        if log.poison_fails {
            return Err(other());
        }
        log.poisoned.push((address, bytes));
        Ok(())
    }
}
