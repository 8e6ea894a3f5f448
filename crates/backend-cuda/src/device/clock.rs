//! Tells what was queued before a wait from what was queued after it.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Counts waits for the stream.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    begun: AtomicU64,
    /// The latest that has ended.
    ended: AtomicU64,
}

impl Clock {
    /// A wait begins; its number.
    pub(crate) fn begin(&self) -> u64 {
        self.begun.fetch_add(1, SeqCst) + 1
    }

    /// The wait of this number has ended.
    pub(crate) fn finish(&self, number: u64) {
        self.ended.fetch_max(number, SeqCst);
    }

    /// A time for what has been queued by now; more than 0.
    pub(crate) fn now(&self) -> u64 {
        self.begun.load(SeqCst) + 1
    }

    /// Whether a wait that began after this time has ended.
    pub(crate) fn is_past(&self, time: u64) -> bool {
        self.ended.load(SeqCst) >= time
    }
}
